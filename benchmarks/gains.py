"""python -m benchmarks.gains [--json F] [--batch 1024]: what each thing that makes the step fast gives alone.

Rivals are our own step at Table 3's sizes on the simulated service's rows, each with one thing undone or
done another way, taking turns. "Gain" is how many times the step as it is beats it: below 1, the other
way would be faster here. A step is taken on one batch again and again; how batches get to it is another
race, of so many steps on batches that are gathered, packed and sent as it goes.
"""

import contextlib
import copy
import functools
import tempfile
import unittest.mock
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from absl import flags

from benchmarks import step_parts as parts
from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, matrix_rate, ratio
from jaxrec.config.loading import load_config
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset

Rival = Callable[[], None]
AS_IT_IS = "as it is"
FED = "fed by the stream"
_FED_STEPS = 32  # in a turn of those that are fed


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:paper", "whose model, objective and optimizer")
    flags.DEFINE_integer("batch", 1024, "examples a step", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "of the compute")
    flags.DEFINE_integer("rounds", 7, "each times every form once", lower_bound=1)
    flags.DEFINE_string("data", "", "where the rows are prepared, or lie; empty: a temporary directory")
    flags.DEFINE_integer("users", 20_000, "of the simulated service")
    flags.DEFINE_list("forms", [], "some of the forms by name; empty: all, minutes of compiling")


def forms() -> dict[str, tuple[Any, str]]:
    """Name -> (a patch of our code, what of it is undone)."""
    import jax

    from jaxrec.models.encoders import transformer
    from jaxrec.models.layers import attention, dense, history_encoder, normalization, rng, title_encoder
    from jaxrec.tasks import ranking

    patch = unittest.mock.patch.object

    def two_words(key, layer, width, rate):
        least = np.uint32(round(rate * 2**32))
        bits = rng._bits
        return bits(key, layer, width) >= least, bits(key, layer + 1, width) >= least

    def bernoulli(key, layer, width, rate):
        shape = (2, *key.shape[:-1], width)
        # One key for all: not the same law, since draws would go by device; what is asked is its cost.
        one = jax.random.wrap_key_data(key.reshape(-1, 2)[0])
        first, second = jax.random.bernoulli(jax.random.fold_in(one, layer), 1.0 - rate, shape)
        return first, second

    def by_row(self, ids, table):
        return title_encoder.TitleLookup(self.vectors(ids, table), None)

    nothing, plain = contextlib.nullcontext, SimpleNamespace(is_available=lambda *_: False)
    of_gpu = {
        "attention by einsum": (
            lambda: patch(attention, "choose_form", lambda *_: "einsum"),
            "not our kernel",
        ),
        "layer norm as XLA has it": (lambda: patch(normalization, "pallas", plain), "not our kernel"),
        "gradients of few rows one by one": (lambda: patch(dense, "_FEW_ROWS", 0), "not by a product"),
    }
    return {
        AS_IT_IS: (nothing, ""),
        "a history a row": (nothing, "short histories pay for all 20 places"),
        "the batch at once": (nothing, "not in parts of 256"),
        "catalogue projected in each part": (
            lambda: patch(ranking.RankingTask, "projects_once", lambda *_: False), "not once a step"),
        "titles projected one by one": (
            lambda: _all(patch(ranking.RankingTask, "projects_once", lambda *_: False),
                         patch(title_encoder.TitleEncoder, "rows", by_row)), "not by the catalogue"),
        "kernels' gradients as jax derives them": (
            lambda: _all(*(patch(m, "matmul", jax.numpy.matmul)
                           for m in (dense, transformer, history_encoder))),
            "a gradient transposed, not what went in"),
        "32 random bits a mask": (lambda: patch(transformer, "dropout_mask", two_words), "not 16"),
        "jax.random.bernoulli": (lambda: patch(transformer, "dropout_mask", bernoulli), "not a counter hash"),
        "dot_product_attention": (
            lambda: patch(attention, "choose_form", lambda *_: "dot_product"), "not our einsum"),
        "attention by broadcast and sum": (
            lambda: patch(attention, "choose_form", lambda *_: "broadcast"), "not einsum"),
        "no dropout": (nothing, "what dropout costs in all"),
        **(of_gpu if jax.default_backend() == "gpu" else {}),  # elsewhere they are as it is
    }  # fmt: skip


def feeds() -> dict[str, tuple[int, bool, str]]:
    """Name -> (steps a dispatch, whether a batch's arrays are joined and sent ahead, what is otherwise)."""
    return {
        FED: (1, True, ""),
        "arrays transferred one by one": (1, False, "as the step is called, not joined and ahead of it"),
        "8 steps a dispatch": (8, True, "not one"),
        "32 steps a dispatch": (32, True, "not one"),
    }


@contextlib.contextmanager
def _all(*patches: Any) -> Any:
    with contextlib.ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def rival(name: str, patched: Any, program: Any, table: Any, host: HostBatch) -> Rival:
    """A form's step, compiled; it goes on from its own state."""
    import jax

    from jaxrec.runtime.mesh import replicate
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    config = copy.deepcopy(program.config)
    if name == "the batch at once":
        config.train.microbatch = config.train.batch_size
    if name == "no dropout":
        config.model.dropout = 0.0
        for expert in config.model.experts:
            expert.dropout = 0.0
    program = replace(program, config=config)
    if name == "a history a row":
        host = host._replace(packing=None)
    elif name == "the batch at once":
        host = parts.host_batch(
            program, parts.training_rows(Dataset(config.data.directory), config, "service")
        )
    step, given, state = (
        parallelize_step(TrainStep(program)),
        replicate(table),
        replicate(StateInit(program).init()),
    )

    def once() -> None:
        nonlocal state
        state, sums = step(state, host, given)
        jax.block_until_ready((state, sums))

    with patched():
        once()  # traced and compiled here
    return once


def fed(program: Any, table: Any, rows: np.ndarray, together: int, joined: bool) -> Rival:
    """_FED_STEPS steps as the loop takes them, `together` in a dispatch, on the stream's batches."""
    import jax

    from jaxrec.data.loading.batches import BatchGroups, stream
    from jaxrec.runtime.device_batch import transfer_group
    from jaxrec.runtime.mesh import AXIS, replicate
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.training.input_pipeline import training_batches
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    size = program.config.train.batch_size
    config = copy.deepcopy(program.config)
    config.train.dispatch = together
    program = replace(program, config=config)
    whole = max(len(rows) // (size * _FED_STEPS), 1) * size * _FED_STEPS  # so that epochs have no tails
    batches, prefetch = training_batches(program, parts.Kept(np.resize(rows, whole))), 2
    given, state = replicate(table), replicate(StateInit(program).init())
    step: Callable[[Any, Any, Any], Any]
    if joined:
        step = parallelize_step(TrainStep(program))
        put = functools.partial(transfer_group, most=together)
        lists = stream(BatchGroups(batches, together), prefetch=prefetch, then=put)
        feed = ((batch, batch.steps) for some in lists for batch in some)
    else:
        n = jax.local_device_count()
        mapped = jax.pmap(
            TrainStep(program), AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0
        )

        def apart(state: Any, host: HostBatch, table: Any) -> Any:
            return mapped(state, jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), host), table)

        step, feed = apart, ((host, 1) for host in stream(batches, prefetch=prefetch))

    def once() -> None:
        nonlocal state
        left = _FED_STEPS
        while left > 0:
            batch, steps = next(feed)
            state, sums = step(state, batch, given)
            left -= steps
        jax.block_until_ready((state, sums))

    once()  # traced and compiled here
    return once


def main(found: flags.FlagValues) -> Report:
    with tempfile.TemporaryDirectory() as made:
        config = load_config(found.config)
        config.source.users, config.source.test_only_users, config.data.partitions = found.users, 0, 8  # type: ignore[union-attr]
        config.data.directory, config.model.dtype = found.data or str(Path(made) / "rows"), found.dtype
        ways, ways_to_feed = forms(), feeds()
        wrong = [name for name in found.forms if name not in ways | ways_to_feed]
        if wrong:
            raise InputError(f"--forms={wrong[0]}: allowed: {', '.join(ways | ways_to_feed)}")
        ensure_dataset(config, config.data.directory)
        dataset = Dataset(config.data.directory)
        program = parts.program_of(config, dataset, found.batch)
        table, rows = dataset.arrays.title_table(), parts.training_rows(dataset, config, "service")
        host = parts.host_batch(program, rows)
        rivals = {name: rival(name, way[0], program, table, host)
                  for name, way in _asked(ways, AS_IT_IS, found.forms).items()}  # fmt: skip
        races: list[tuple[str, dict[str, Any], dict[str, Rival], int]] = [
            (AS_IT_IS, ways, rivals, found.batch)
        ]
        of_stream = _asked(ways_to_feed, FED, found.forms)
        every = rows.all() if of_stream else np.empty(0)
        rivals = {name: fed(program, table, every, *way[:2]) for name, way in of_stream.items()}
        races += [(FED, ways_to_feed, rivals, found.batch * _FED_STEPS)]
        limit = matrix_rate(dtype=found.dtype)
        figures: dict[str, Any] = {"batch": found.batch, "matrix_rate": limit, "forms": {}}
        lines = [("matrix rate", spread({k: v / 1e9 for k, v in limit.items()}, "GFLOP/s", 0), "")]
        for base, of, rivals, work in races:
            times = interleaved(rivals, found.rounds)
            for name in times:
                gain, what = ratio(times[name], times[base]), of[name][-1]
                figures["forms"][name] = {"seconds": times[name].seconds, "work": work, "gain": gain}
                rate = spread(times[name].rate(work), "examples/s", 0)
                lines.append((f"{name}: {what}" if what else name, rate, f"gain {spread(gain)}"))
    return Report(f"gains of {found.config} at batch {found.batch}, {found.dtype}", figures, lines)


def _asked(ways: dict[str, Any], base: str, names: list[str]) -> dict[str, Any]:
    """Those named and their base, all where none is; nothing where none of these is."""
    if not names:
        return ways
    return {name: way for name, way in ways.items() if name in (base, *names)} if {*names} & {*ways} else {}


if __name__ == "__main__":
    run(main, _flags)
