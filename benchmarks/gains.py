"""Gain of each optimisation of the training step, measured by undoing it alone.

    python -m benchmarks.gains [--json F] [--batch 1024]

The rivals are jaxrec's step at Table 3's sizes on rows of the simulated service, each with one
optimisation undone or replaced. Rivals run in turn. "Gain" is the speed-up of the unmodified step over the
rival; below 1, the rival is faster here. Each rival repeats its step on one batch. The input pipeline is
measured separately: a fixed number of steps on batches that are read, packed and transferred meanwhile.
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

from benchmarks import step_parts
from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, matrix_rate, ratio
from jaxrec.config.loading import load_config
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset, SelectedRows

Rival = Callable[[], None]
AS_IT_IS = "as it is"
FED = "fed by the stream"
_FED_STEPS = 32  # steps per round of a rival that includes the input pipeline


def _flags() -> None:
    flags.DEFINE_string("config", "configs/smoe.py:paper", "config of the model, objective and optimizer")
    flags.DEFINE_integer("batch", 1024, "examples per step", lower_bound=1)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "dtype of the computation")
    flags.DEFINE_integer("rounds", 7, "rounds; each times all forms once", lower_bound=1)
    flags.DEFINE_string("data", "", "folder of the prepared rows, reused; empty: a temporary directory")
    flags.DEFINE_integer("users", 20_000, "users of the simulated service")
    flags.DEFINE_list("forms", [], "names of forms; empty: all, with minutes of compilation")


def forms() -> dict[str, tuple[Any, str]]:
    """Return name -> (patch of jaxrec's code, description of the difference)."""
    import jax

    from jaxrec.models.encoders import transformer
    from jaxrec.models.layers import attention, dense, history_encoder, normalization, rng, title_encoder
    from jaxrec.tasks import ranking
    from jaxrec.training import train_step

    patch = unittest.mock.patch.object

    def two_words(key, layer, width, rate):
        threshold = np.uint32(round(rate * 2**32))
        bits = rng._bits
        return bits(key, layer, width) >= threshold, bits(key, layer + 1, width) >= threshold

    def bernoulli(key, layer, width, rate):
        shape = (2, *key.shape[:-1], width)
        # One key for all examples makes draws depend on the device. Only the cost matters here.
        one = jax.random.wrap_key_data(key.reshape(-1, 2)[0])
        first, second = jax.random.bernoulli(jax.random.fold_in(one, layer), 1.0 - rate, shape)
        return first, second

    def by_row(self, ids, table):
        return title_encoder.TitleLookup(self.vectors(ids, table), None)

    nothing, plain = contextlib.nullcontext, SimpleNamespace(is_available=lambda *_: False)
    gpu_forms = {
        "attention by einsum": (
            lambda: patch(attention, "choose_form", lambda *_: "einsum"),
            "instead of our kernel",
        ),
        "layer norm as XLA has it": (lambda: patch(normalization, "pallas", plain), "instead of our kernel"),
        "gradients of few rows one by one": (lambda: patch(dense, "_FEW_ROWS", 0), "instead of by a product"),
        "a kernel a parameter's update": (
            lambda: patch(train_step.TrainStep, "_fuses_update", lambda *_: False),
            "instead of a few for all",
        ),
    }
    return {
        AS_IT_IS: (nothing, ""),
        "a history a row": (nothing, "short histories take all 20 positions"),
        "the batch at once": (nothing, "instead of microbatches of 256"),
        "catalogue projected in each part": (
            lambda: patch(ranking.RankingTask, "projects_once", lambda *_: False), "not once per step"),
        "titles projected one by one": (
            lambda: _apply_all(patch(ranking.RankingTask, "projects_once", lambda *_: False),
                         patch(title_encoder.TitleEncoder, "rows", by_row)), "not the catalogue"),
        "kernels' gradients as jax derives them": (
            lambda: _apply_all(*(patch(m, "matmul", jax.numpy.matmul)
                           for m in (dense, transformer, history_encoder))),
            "transposes a gradient instead of the input"),
        "32 random bits a mask": (lambda: patch(transformer, "dropout_mask", two_words), "instead of 16"),
        "jax.random.bernoulli": (
            lambda: patch(transformer, "dropout_mask", bernoulli), "instead of a counter hash"),
        "dot_product_attention": (
            lambda: patch(attention, "choose_form", lambda *_: "dot_product"), "instead of our einsum"),
        "no dropout": (nothing, "total cost of dropout"),
        **(gpu_forms if jax.default_backend() == "gpu" else {}),  # no effect on other backends
    }  # fmt: skip


def feeds() -> dict[str, tuple[int, bool, str]]:
    """Return name -> (steps per call, packed and prefetched or not, description)."""
    return {
        FED: (1, True, ""),
        "arrays transferred one by one": (1, False, "at the call, instead of packed and in advance"),
        "8 steps a dispatch": (8, True, "per call instead of one"),
        "32 steps a dispatch": (32, True, "per call instead of one"),
    }


@contextlib.contextmanager
def _apply_all(*patches: Any) -> Any:
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def rival(name: str, patched: Any, program: Any, table: Any, host: HostBatch) -> Rival:
    """Return a form's compiled step; each call continues from the form's own state."""
    import jax

    from jaxrec.runtime.mesh import replicate
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    config = copy.deepcopy(program.config)
    if name == "the batch at once":
        config.train.microbatch_size = config.train.batch_size
    if name == "no dropout":
        config.model.dropout = 0.0
        for expert in config.model.experts:
            expert.dropout = 0.0
    program = replace(program, config=config)
    if name == "a history a row":
        host = host._replace(packing=None)
    elif name == "the batch at once":
        host = step_parts.host_batch(
            program, step_parts.training_rows(Dataset(config.data.directory), config, "service")
        )
    step, device_table, state = (
        parallelize_step(TrainStep(program)),
        replicate(table),
        replicate(StateInit(program).init()),
    )

    def once() -> None:
        nonlocal state
        state, sums = step(state, host, device_table)
        jax.block_until_ready((state, sums))

    with patched():
        once()  # traces and compiles
    return once


def fed(program: Any, table: Any, rows: np.ndarray, steps_per_call: int, packed: bool) -> Rival:
    """Return a run of _FED_STEPS steps on batches of the input pipeline.

    Args:
        program: Task to train.
        table: Table of the titles.
        rows: Training rows, repeated to fill whole rounds.
        together: Steps per call.
        joined: True to pack a batch's arrays and transfer them in advance, as the trainer does.
    """
    import jax

    from jaxrec.data.loading.batches import BatchGroups, stream
    from jaxrec.runtime.device_batch import transfer_group
    from jaxrec.runtime.mesh import AXIS, replicate
    from jaxrec.runtime.parallel_step import parallelize_step
    from jaxrec.training.inputs.input_pipeline import training_batches
    from jaxrec.training.train_state import StateInit
    from jaxrec.training.train_step import TrainStep

    size = program.config.train.batch_size
    config = copy.deepcopy(program.config)
    config.train.steps_per_call = steps_per_call
    program = replace(program, config=config)
    # A multiple of the round, so that no epoch ends with a smaller group.
    whole = max(len(rows) // (size * _FED_STEPS), 1) * size * _FED_STEPS
    batches, prefetch = training_batches(program, SelectedRows(np.resize(rows, whole))), 2
    device_table, state = replicate(table), replicate(StateInit(program).init())
    step: Callable[[Any, Any, Any], Any]
    if packed:
        step = parallelize_step(TrainStep(program))
        transfer = functools.partial(transfer_group, most=steps_per_call)
        lists = stream(BatchGroups(batches, steps_per_call), prefetch=prefetch, then=transfer)
        feed = ((batch, batch.steps) for group in lists for batch in group)
    else:
        n = jax.local_device_count()
        mapped = jax.pmap(
            TrainStep(program), AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0
        )

        def unpacked_step(state: Any, host: HostBatch, table: Any) -> Any:
            return mapped(state, jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), host), table)

        step, feed = unpacked_step, ((host, 1) for host in stream(batches, prefetch=prefetch))

    def once() -> None:
        nonlocal state
        left = _FED_STEPS
        while left > 0:
            batch, steps = next(feed)
            state, sums = step(state, batch, device_table)
            left -= steps
        jax.block_until_ready((state, sums))

    once()  # traces and compiles
    return once


def main(args: flags.FlagValues) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(args.config)
        config.source.users, config.source.test_only_users, config.data.partitions = args.users, 0, 8  # type: ignore[union-attr]
        config.data.directory, config.model.dtype = args.data or str(Path(folder) / "rows"), args.dtype
        step_forms, feed_forms = forms(), feeds()
        unknown = [name for name in args.forms if name not in step_forms | feed_forms]
        if unknown:
            raise InputError(f"--forms={unknown[0]}: allowed: {', '.join(step_forms | feed_forms)}")
        ensure_dataset(config, config.data.directory)
        dataset = Dataset(config.data.directory)
        program = step_parts.program_of(config, dataset, args.batch)
        table, rows = dataset.arrays.title_table(), step_parts.training_rows(dataset, config, "service")
        host = step_parts.host_batch(program, rows)
        rivals = {name: rival(name, form[0], program, table, host)
                  for name, form in _selected(step_forms, AS_IT_IS, args.forms).items()}  # fmt: skip
        races: list[tuple[str, dict[str, Any], dict[str, Rival], int]] = [
            (AS_IT_IS, step_forms, rivals, args.batch)
        ]
        pipeline_forms = _selected(feed_forms, FED, args.forms)
        all_rows = rows.all() if pipeline_forms else np.empty(0)
        rivals = {name: fed(program, table, all_rows, *form[:2]) for name, form in pipeline_forms.items()}
        races += [(FED, feed_forms, rivals, args.batch * _FED_STEPS)]
        limit = matrix_rate(dtype=args.dtype)
        figures: dict[str, Any] = {"batch": args.batch, "matrix_rate": limit, "forms": {}}
        lines = [("matrix rate", spread({k: v / 1e9 for k, v in limit.items()}, "GFLOP/s", 0), "")]
        for base, descriptions, rivals, work in races:
            times = interleaved(rivals, args.rounds)
            for name in times:
                gain, description = ratio(times[name], times[base]), descriptions[name][-1]
                figures["forms"][name] = {"seconds": times[name].seconds, "work": work, "gain": gain}
                rate = spread(times[name].rate(work), "examples/s", 0)
                lines.append(
                    (f"{name}: {description}" if description else name, rate, f"gain {spread(gain)}")
                )
    return Report(f"gains of {args.config} at batch {args.batch}, {args.dtype}", figures, lines)


def _selected(ways: dict[str, Any], base: str, names: list[str]) -> dict[str, Any]:
    """Return the named forms and their base; all without names, none if none is here."""
    if not names:
        return ways
    return {name: way for name, way in ways.items() if name in (base, *names)} if {*names} & {*ways} else {}


if __name__ == "__main__":
    run(main, _flags)
