"""Branches that only an accelerator takes, taken on a CPU beside those of a CPU.

The list is tests/gpu_branches.py. Kernels are interpreted.
"""

import copy
import json
from types import SimpleNamespace

import gpu_branches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu_branches import BRANCHES, ROOT

from jaxrec.config.schema import Expert
from jaxrec.core.errors import InputError
from jaxrec.core.registry import ENCODERS, SESSION_ENCODERS, resolve
from jaxrec.evaluation import scorers
from jaxrec.losses import full_softmax, sampled_losses, target_sets
from jaxrec.models import heads
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.kernels import attention as attention_kernel
from jaxrec.models.kernels import layer_norm, pallas
from jaxrec.models.layers import dense
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import AXIS, replicate
from jaxrec.runtime.parallel_step import parallelize_step
from jaxrec.serving import catalogue, exported
from jaxrec.tasks.loading import build_task
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep, norm_over_devices


@pytest.fixture
def on_gpu(monkeypatch):
    """Function that returns what `compute()` gives where the backend is a GPU, with interpreted kernels."""
    call = pallas.pallas_call

    def interpreted(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "cpu")
            return call(*arguments)

    def run(compute):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            for module in (attention_kernel, layer_norm):
                patch.setattr(module, "pallas_call", interpreted)
            return compute()

    return run


def close(actual, expected, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1e-3, np.abs(b).max(initial=0)))


def test_gpu_branches_are_all_on_the_list():
    assert gpu_branches.all_branches() == set(BRANCHES)
    for tests in BRANCHES.values():
        for test in tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file(), test


LOOKUPS = [
    *(((), (3, 5, 7), mode, dtype) for mode in ("clip", "fill", None) for dtype in ("float32", "bfloat16")),
    *(((), shape, "clip", "float32") for shape in ((7,), (0,), (2, 0))),
    *((row, (3, 5), "clip", "float32") for row in ((1,), (5,), (2, 3))),
    *(((5,), (3, 5, 7), mode, "bfloat16") for mode in ("fill", None)),
    ((2, 3), (2, 0), "clip", "float32"),
]


@pytest.mark.parametrize(("row", "shape", "mode", "dtype"), LOOKUPS, ids=str)
def test_gpu_branch_of_the_lookup(row, shape, mode, dtype, on_gpu):
    """Tables of every rank; ids out of range; no ids."""
    r = np.random.default_rng(0)
    low, high = (0, 6) if mode is None else (-3, 9)
    ids = jnp.asarray(r.integers(low, high, shape))
    ids = jnp.where(ids < 0, 7, ids) if mode == "fill" else ids  # "fill": negative ids count from the end
    table, g = jnp.asarray(r.normal(size=(6, *row)), dtype), jnp.asarray(r.normal(size=(*shape, *row)), dtype)

    def value_and_gradient(table, g):
        y, back = jax.vjp(
            lambda t: dense.embedding_lookup(t, ids, mode, 0.0 if mode == "fill" else None), table
        )
        return y, back(g)[0]

    expected = value_and_gradient(table.astype("float32"), g.astype("float32"))
    y, gradient = on_gpu(lambda: value_and_gradient(table, g))
    assert gradient.shape == table.shape and gradient.dtype == dtype
    traced = on_gpu(lambda: jax.make_jaxpr(lambda: value_and_gradient(table, g))())
    assert "scatter" not in str(traced)
    close((y, gradient), expected, 2e-5 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("kind", [k for k in ENCODERS if k not in SESSION_ENCODERS])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])
def test_gpu_branch_of_every_encoder(kind, packed, on_gpu):
    """Values and gradients of parameters and titles; rows of odd length, an empty row."""
    module = resolve(ENCODERS[kind])("float32", Expert(7, 2, 2, 1.0, 0.0, kind))
    # 4 stands for padding: example 1 is next to it, example 3 has no title.
    owners = [[0, 0, 0, 2, 2, 4, 4], [4, 1, 1, 1, 1, 1, 4]] if packed else [[0] * 7, [4] * 4 + [1] * 3]
    owners = jnp.asarray(owners)
    x = jax.random.normal(jax.random.key(0), (2, 7, 8))
    ages = jnp.log1p(jnp.asarray([[9e5, 8.9e5, 40, 7e7, 3e3, 0, 0], [0, 4e6, 4e6, 86400, 5, 3, 0]]))
    titles = PackedTitles(x, owners, ages, None)
    variables = module.init(jax.random.key(1), titles, 4)

    def value_and_gradients(variables, x):
        def total(variables, x):
            out = module.apply(variables, titles._replace(x_RxLxD=x), 4)
            return (out * jnp.arange(1.0, 1.0 + out.shape[-1])).sum(), out

        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(variables, x)

    expected = value_and_gradients(variables, x)
    actual = on_gpu(lambda: value_and_gradients(variables, x))
    close(actual, expected, 1e-4)
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(expected[0]))


def losses_inputs(positions):
    r = np.random.default_rng(0)
    h = jnp.asarray(r.normal(size=(2, positions, 6)), "float32")
    titles = jnp.asarray(r.normal(size=(11, 6)), "float32")
    return h, titles, jnp.asarray(r.integers(0, 11, (2, positions)))


def gradients(loss, h, titles):
    return jax.value_and_grad(lambda h, t: loss(h, t).sum(), argnums=(0, 1))(h, titles)


def test_gpu_branch_of_the_full_softmax(on_gpu):
    h, titles, target = losses_inputs(331)  # three chunks on a CPU, one on a GPU
    loss = lambda h, t: full_softmax.softmax(h, t, target, 0.7, 2**28)  # noqa: E731
    expected = gradients(loss, h, titles)
    close(on_gpu(lambda: gradients(loss, h, titles)), expected)
    trace = lambda: str(jax.make_jaxpr(lambda: loss(h, titles))())  # noqa: E731
    assert "221,6" in trace() and "221,6" not in on_gpu(trace)


@pytest.mark.parametrize("titles_of_a_position", [3, 1], ids=["dense", "gathered"])
def test_gpu_branch_of_sampled_losses(titles_of_a_position, on_gpu, monkeypatch):
    h, titles, target = losses_inputs(23)
    if titles_of_a_position == 1:
        monkeypatch.setattr(sampled_losses, "_DENSE_UP_TO", 0)
    monkeypatch.setattr(sampled_losses, "_CHUNK_BYTES", {"cpu": 4 * 6 * 8})  # of the CPU alone
    negatives = jnp.asarray(np.random.default_rng(1).integers(2, 11, (2, 23, titles_of_a_position)))
    sizes, chunk_size = [], sampled_losses.chunk_size
    monkeypatch.setattr(
        sampled_losses, "chunk_size", lambda *arguments: sizes.append(chunk_size(*arguments)) or sizes[-1]
    )
    loss = lambda h, t: sampled_losses.sampled_softmax(h, t, target, negatives, None, 0.7)  # noqa: E731
    expected = gradients(loss, h, titles)
    on_cpu = sizes.pop()
    close(on_gpu(lambda: gradients(loss, h, titles)), expected)
    assert on_cpu < 46 == sizes.pop()  # all positions at once


def test_gpu_branch_of_sets_of_targets(on_gpu, monkeypatch):
    h, titles, target = losses_inputs(23)
    monkeypatch.setattr(sampled_losses, "_CHUNK_BYTES", {"cpu": 4 * 6 * 8})  # of the CPU alone
    numbers = np.random.default_rng(1)
    targets = jnp.stack([target, jnp.asarray(numbers.integers(0, 11, target.shape))], axis=-1)
    weight, negatives = jnp.ones(targets.shape), jnp.asarray(numbers.integers(2, 11, (2, 23, 3)))
    sizes, chunk_size = [], target_sets.chunk_size
    monkeypatch.setattr(
        target_sets, "chunk_size", lambda *arguments: sizes.append(chunk_size(*arguments)) or sizes[-1]
    )
    loss = lambda h, t: target_sets.set_sampled_softmax(h, t, targets, weight, negatives, None, 0.7)  # noqa: E731
    expected = gradients(loss, h, titles)
    on_cpu = sizes.pop()
    close(on_gpu(lambda: gradients(loss, h, titles)), expected)
    assert on_cpu < 46 == sizes.pop()  # all positions at once


def test_gpu_branch_of_scores_in_tiles(on_gpu):
    u = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), "float32")
    seen = []

    def score(tile):
        seen.append(len(tile))
        return tile @ jnp.arange(6.0).reshape(3, 2)

    expected = heads.score_in_tiles(score, u, 2)
    close(on_gpu(lambda: heads.score_in_tiles(score, u, 2)), expected)
    assert seen == [2, 7]


@pytest.fixture
def task(tiny, tiny_config):
    return RankingTask(copy.deepcopy(tiny_config), tiny.layout, tiny.manifest["completion_threshold"], 4, 40)


def test_gpu_branch_of_evaluation(task, tiny, on_gpu):
    """A batch is as large as the config allows; the other's scores are those of test_evaluator."""
    table = replicate(tiny.arrays.title_table())
    task.config.evaluate.batch_size = 5000
    make = lambda: scorers.ListScorer(task, table, False, 1)._batch_size // jax.device_count()  # noqa: E731
    assert make() == scorers._CPU_QUERIES and on_gpu(make) == 5000


def test_gpu_branch_of_microbatches(task, tiny, on_gpu):
    assert task.microbatches(8192) > 1 and on_gpu(lambda: task.microbatches(8192)) == 1
    task.config.train.microbatch_size = 1024
    assert on_gpu(lambda: task.microbatches(8192)) == 8


def test_gpu_branch_of_the_initial_state(tiny, tiny_config, on_gpu):
    config = copy.deepcopy(tiny_config)
    config.model.experts = config.model.experts[1:]

    def leaves():
        task = build_task(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
        return [np.asarray(x) for x in jax.tree.leaves(StateInit(task).init().params)]

    for a, b in zip(on_gpu(leaves), leaves(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sharding", ["replicated", "split"])
def test_gpu_branch_of_the_update(tiny, tiny_config, sharding, monkeypatch):
    """One step by few kernels is that of the chain, also on several devices and with sharded titles."""
    config = copy.deepcopy(tiny_config)
    config.model.experts, config.train.batch_size = config.model.experts[1:], 32
    config.model.item_table_sharding = sharding
    task = build_task(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch, table = training_batches(task, tiny.rows("train"))[0], replicate(tiny.arrays.title_table())

    def stepped():
        state = StateInit(task).init()
        step = TrainStep(task)
        mapped = parallelize_step(step, step.mapping, like=state)
        return jax.device_get(mapped(state, batch, table))

    expected = stepped()
    monkeypatch.setattr(TrainStep, "_fuses_update", lambda *_: True)
    close(stepped(), expected, 1e-4)


def test_the_norm_sums_sharded_numbers_over_devices():
    norms = jax.vmap(norm_over_devices, (None, 0), axis_name=AXIS)(jnp.float32(9), jnp.array([16.0, 0.0]))
    assert norms.tolist() == [5.0, 5.0]


def test_gpu_branch_of_the_update_is_taken_by_plain_adam(task, on_gpu):
    state = StateInit(task).abstract()
    taken = lambda: on_gpu(lambda: TrainStep(task)._fuses_update(state))  # noqa: E731
    assert taken() and not TrainStep(task)._fuses_update(state)
    task.config.train.on_nonfinite = "skip"
    assert not taken()
    task.config.train.on_nonfinite, task.config.start.freeze = "stop", ("title",)
    assert not taken()
    task.config.start.freeze = ()
    state = state._replace(average=state.params)
    assert not taken()


def test_gpu_branch_of_serving(task, tiny, on_gpu):
    """More pairs are scored at a time; the sums do not depend on their number, as test_recommender shows."""
    arrays, params = tiny.arrays, StateInit(task).init().params
    make = lambda: catalogue.CatalogueScorer(task, params, arrays, Correction("ranking"))  # noqa: E731
    cpu, gpu = make(), on_gpu(make)
    assert (cpu._pairs, cpu._queries) == (catalogue._CPU_PAIRS, catalogue._CPU_QUERIES)
    assert (gpu._pairs, gpu._queries) == (catalogue._PAIRS, catalogue._QUERIES)
    manifest = {"block": 2**10, "queries": 2**12, "programs": {}}
    log_q = np.zeros(len(arrays.rank_of_id), np.float32)
    served = SimpleNamespace(config=task.config, layout=task.layout, arrays=arrays)
    make = lambda: exported.ExportedScorer(manifest, {}, {}, served, log_q, log_q[:, None])  # noqa: E731
    assert make()._queries == exported._CPU_PAIRS // 2**10 < on_gpu(make)._queries == exported._PAIRS // 2**10


def test_gpu_branch_of_kernels_is_compiled(monkeypatch):
    """A CPU interprets kernels."""
    settings = []
    monkeypatch.setattr(
        "jax.experimental.pallas.pallas_call",
        lambda kernel, **more: settings.append(more["interpret"]) or (lambda *inputs: []),
    )
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        pallas.pallas_call(lambda *_: None, "nothing", (1,), 1, [])
    assert settings == [True, False]


def test_gpu_branch_of_an_export(export_folder, on_gpu, tmp_path):
    """Programs for "cuda" are those of jax's backend "gpu"."""
    manifest = json.loads((export_folder / exported.MANIFEST).read_text())
    for platforms in (["cpu", "cuda"], ["cpu"]):
        (tmp_path / exported.MANIFEST).write_text(json.dumps(manifest | {"platforms": platforms}))
        read = lambda: on_gpu(lambda: exported._read_manifest(tmp_path))  # noqa: E731
        if "cuda" in platforms:
            assert read()["platforms"] == platforms
        else:
            with pytest.raises(InputError, match="platforms=cpu; this process runs on cuda"):
                read()
