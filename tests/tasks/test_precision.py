"""Tests of bfloat16 steps: dtypes of operations, and donation of the state."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.loading.batches import EvalBatches
from jaxrec.evaluation import scorers
from jaxrec.models.kernels import adam_update
from jaxrec.models.layers.dense import broadcast, embedding_lookup
from jaxrec.models.outputs import Correction
from jaxrec.runtime import mesh, parallel_step
from jaxrec.runtime.private_apis import jaxpr_types
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

LOW, WIDE = jnp.dtype("bfloat16"), jnp.dtype("float32")
SUMS = ("reduce_sum", "scatter-add", "cumsum", "psum")
KINDS = ("transformer", "sasrec", "gru4rec", "hstu", "ligr", "fuxi")


def make_task(tiny, config, kind="transformer", microbatch=0):
    config = copy.deepcopy(config)
    config.model.dtype, config.train.microbatch_size = "bfloat16", microbatch
    for expert in config.model.experts:
        expert.encoder = kind
    return RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)


def equations(jaxpr):
    """Yield the equations of a program and of the programs inside it."""
    closed, plain = jaxpr_types()
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, closed):
                    yield from equations(inner.jaxpr)
                elif isinstance(inner, plain):
                    yield from equations(inner)


def trace(step, *arguments):
    return jax.make_jaxpr(step, axis_env=[(mesh.AXIS, 1)])(*arguments)


def trace_training(program, tiny, step=None):
    host = training_batches(program, tiny.rows("train"))[0]
    return trace(step or TrainStep(program), StateInit(program).abstract(), host, tiny.arrays.title_table())


def check_dtypes(program, at_least):
    """Check that all matrix products are in bfloat16 and that no sum of several values is.

    Return the equations of the program.
    """
    result = list(equations(program.jaxpr))
    products = [e for e in result if e.primitive.name in ("dot_general", "conv_general_dilated")]
    assert len(products) >= at_least
    for e in products:
        assert {x.aval.dtype for x in e.invars} == {LOW}, f"{e} {e.source_info.name_stack}"
    for e in result:
        if e.primitive.name in SUMS and e.outvars[0].aval.dtype == LOW:
            sizes = [math.prod(x.aval.shape) for x in (e.invars[0], e.outvars[0])]
            is_reshape = e.primitive.name == "reduce_sum" and sizes[0] == sizes[1]  # only a change of shape
            assert is_reshape, f"{e} {e.source_info.name_stack}"
    return result


def find_carries(equation):
    """Return the carries of a scan: its outputs that are not stacked over iterations."""
    if equation.primitive.name != "scan":
        return []
    body_outputs = equation.params["jaxpr"].jaxpr.outvars
    return [x for x, y in zip(equation.outvars, body_outputs, strict=True) if x.aval.shape == y.aval.shape]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("microbatch", [0, 16], ids=["whole batch", "microbatches"])
def test_training_multiplies_in_bfloat16_and_adds_in_float32(tiny, tiny_config, kind, microbatch):
    program = make_task(tiny, tiny_config, kind, microbatch)
    result = check_dtypes(trace_training(program, tiny), 60)
    scan_carries = [scan_carry for e in result if len(scan_carry := find_carries(e)) > 20]
    assert len(scan_carries) == (microbatch == 16)
    for scan_carry in scan_carries:  # gradients are carried from microbatch to microbatch
        assert {x.aval.dtype for x in scan_carry} == {WIDE}


def test_gpu_kernels_multiply_in_bfloat16_and_add_in_float32(tiny, tiny_config, monkeypatch):
    """The program is traced as for a GPU, with the bodies of kernels, and not compiled."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = make_task(tiny, tiny_config)
    result = check_dtypes(trace_training(program, tiny), 60)
    kernels = sum(e.primitive.name == "pallas_call" for e in result)
    blocks = sum(e.num_layers for e in tiny_config.model.experts)
    norms = 2 * blocks + len(tiny_config.model.experts)
    updates = -(-len(jax.tree.leaves(program.abstract_params)) // adam_update._MAX_LEAVES)
    assert kernels == 2 * (blocks + norms) + updates  # attention and norms, forward and backward


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_multiplies_in_bfloat16(tiny, tiny_config, kind):
    program, table = make_task(tiny, tiny_config, kind), tiny.arrays.title_table()
    params, batch = program.abstract_params, EvalBatches(tiny.rows("test"), 24)[0]
    catalogue = jax.eval_shape(
        lambda p: program.model.apply({"params": p}, table, method="catalogue"), params
    )
    check_dtypes(
        trace(scorers.eval_step(program, 1, True, program.heads[:2]), (params, catalogue), batch, table), 20
    )
    orders = {"model": Correction(program.ranking_heads[0])}
    check_dtypes(trace(scorers._rank_step(program, orders, "stored", 5, None, 0), params, batch, table), 20)


def test_losses_gradients_and_the_state_are_float32(tiny, tiny_config):
    program = make_task(tiny, tiny_config, microbatch=16)
    results = (
        trace_training(program, tiny).out_avals,
        trace_training(program, tiny, TrainStep(program).gradients).out_avals,
    )
    for result in (*results, jax.tree.leaves(StateInit(program).abstract())):
        floats = {x.dtype for x in result if jnp.issubdtype(x.dtype, jnp.floating)}
        assert len(result) > 40 and floats == {WIDE}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_many_terms_are_added_in_float32(dtype):
    """A sum 1 + 1 + ... in bfloat16 stops at 256."""
    x, ids = jnp.ones((3, 2), dtype), jnp.asarray([[0, 2]] * 500)
    result = jax.jit(jax.grad(lambda x: embedding_lookup(x, ids).sum(dtype=WIDE)))(x)
    assert result.dtype == dtype and result.tolist() == [[500, 500], [0, 0], [500, 500]]
    result = jax.jit(jax.grad(lambda x: broadcast(x, (500, 3, 2)).sum(dtype=WIDE)))(x)
    assert result.dtype == dtype and result.tolist() == [[500, 500]] * 3
    assert embedding_lookup(x, jnp.asarray([2, 3]), mode="fill", fill=0).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("mapping", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_a_step_donates_its_state(tiny, small_config, mapping):
    """The state is donated: the new state uses the old buffers, so only one state is in memory."""
    program = make_task(tiny, small_config)
    step = parallel_step.parallelize_step(TrainStep(program), mapping)
    state, table = mesh.replicate(StateInit(program).init()), mesh.replicate(tiny.arrays.title_table())

    def buffers(state):
        return [x.addressable_data(0).unsafe_buffer_pointer() for x in jax.tree.leaves(state)]

    batches = training_batches(program, tiny.rows("train"))
    state, _ = step(state, batches[0], table)
    before, buffers_before = state, buffers(state)
    state, _ = step(state, batches[1], table)
    arrays = [x.ndim > 0 for x in jax.tree.leaves(state)]
    assert sum(arrays) > 30 and all(x.is_deleted() for x in jax.tree.leaves(before))
    assert np.isin(buffers(state), buffers_before)[arrays].all()
