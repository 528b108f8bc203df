"""What a step in bfloat16 works out in it, and what it must not; that a step overwrites its state."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.data.loading.batches import EvalBatches
from jaxrec.evaluation import scorers
from jaxrec.models.layers.dense import broadcast, embedding_lookup
from jaxrec.runtime import mesh, parallel_step
from jaxrec.runtime.private_apis import jaxpr_types
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

LOW, WIDE = jnp.dtype("bfloat16"), jnp.dtype("float32")
SUMS = ("reduce_sum", "scatter-add", "cumsum", "psum")
KINDS = ("transformer", "sasrec", "gru4rec", "hstu")


def program_of(tiny, config, kind="transformer", microbatch=0):
    config = copy.deepcopy(config)
    config.model.dtype, config.train.microbatch_size = "bfloat16", microbatch
    for expert in config.model.experts:
        expert.encoder = kind
    return RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)


def equations(jaxpr):
    """Of a program and of those inside it."""
    closed, plain = jaxpr_types()
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, closed):
                    yield from equations(inner.jaxpr)
                elif isinstance(inner, plain):
                    yield from equations(inner)


def traced(step, *given):
    return jax.make_jaxpr(step, axis_env=[(mesh.AXIS, 1)])(*given)


def trained(program, tiny, step=None):
    host = training_batches(program, tiny.rows("train"))[0]
    return traced(step or TrainStep(program), StateInit(program).abstract(), host, tiny.arrays.title_table())


def held(program, at_least):
    """Every matrix product is of bfloat16, none exempt; no sum of several values is in it."""
    found = list(equations(program.jaxpr))
    products = [e for e in found if e.primitive.name in ("dot_general", "conv_general_dilated")]
    assert len(products) >= at_least
    for e in products:
        assert {x.aval.dtype for x in e.invars} == {LOW}, f"{e} {e.source_info.name_stack}"
    for e in found:
        if e.primitive.name in SUMS and e.outvars[0].aval.dtype == LOW:
            sizes = [math.prod(x.aval.shape) for x in (e.invars[0], e.outvars[0])]
            of_one = e.primitive.name == "reduce_sum" and sizes[0] == sizes[1]  # a change of shape
            assert of_one, f"{e} {e.source_info.name_stack}"
    return found


def carries(equation):
    """What a scan hands from turn to turn: of its results those that are not one a turn."""
    if equation.primitive.name != "scan":
        return []
    each = equation.params["jaxpr"].jaxpr.outvars
    return [x for x, y in zip(equation.outvars, each, strict=True) if x.aval.shape == y.aval.shape]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("microbatch", [0, 16], ids=["at once", "in parts"])
def test_training_multiplies_in_bfloat16_and_adds_up_in_float32(tiny, tiny_config, kind, microbatch):
    program = program_of(tiny, tiny_config, kind, microbatch)
    found = held(trained(program, tiny), 60)
    parts = [carried for e in found if len(carried := carries(e)) > 20]
    assert len(parts) == (microbatch == 16)
    for carried in parts:  # gradients are, from part to part
        assert {x.aval.dtype for x in carried} == {WIDE}


def test_a_gpus_kernels_multiply_in_bfloat16_and_add_up_in_float32(tiny, tiny_config, monkeypatch):
    """Traced as there, kernels' insides too; nothing is compiled."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = held(trained(program_of(tiny, tiny_config), tiny), 60)
    kernels = sum(e.primitive.name == "pallas_call" for e in found)
    blocks = sum(e.layers for e in tiny_config.model.experts)
    norms = 2 * blocks + len(tiny_config.model.experts)
    assert kernels == 2 * (blocks + norms)  # of attention and of norms, forward and back


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_multiplies_in_bfloat16(tiny, tiny_config, kind):
    program, table = program_of(tiny, tiny_config, kind), tiny.arrays.title_table()
    params, batch = program.abstract_params, EvalBatches(tiny.rows("test"), 24)[0]
    catalogue = jax.eval_shape(
        lambda p: program.model.apply({"params": p}, table, method="catalogue"), params
    )
    held(
        traced(scorers.eval_step(program, 1, True, program.heads[:2]), (params, catalogue), batch, table), 20
    )
    held(traced(scorers._rank_step(program, True, 5, None, 0), params, batch, table), 20)


def test_losses_gradients_and_the_state_are_float32(tiny, tiny_config):
    program = program_of(tiny, tiny_config, microbatch=16)
    results = trained(program, tiny).out_avals, trained(program, tiny, TrainStep(program).gradients).out_avals
    for found in (*results, jax.tree.leaves(StateInit(program).abstract())):
        floats = {x.dtype for x in found if jnp.issubdtype(x.dtype, jnp.floating)}
        assert len(found) > 40 and floats == {WIDE}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_of_many_is_added_up_wide(dtype):
    """In bfloat16, 1 + 1 + ... stays at 256."""
    x, ids = jnp.ones((3, 2), dtype), jnp.asarray([[0, 2]] * 500)
    found = jax.jit(jax.grad(lambda x: embedding_lookup(x, ids).sum(dtype=WIDE)))(x)
    assert found.dtype == dtype and found.tolist() == [[500, 500], [0, 0], [500, 500]]
    found = jax.jit(jax.grad(lambda x: broadcast(x, (500, 3, 2)).sum(dtype=WIDE)))(x)
    assert found.dtype == dtype and found.tolist() == [[500, 500]] * 3
    assert embedding_lookup(x, jnp.asarray([2, 3]), mode="fill", fill=0).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_a_step_writes_its_state_over_the_last(tiny, tiny_config, how):
    """Donated: the new state lies in the old one's buffers, so that two are never held."""
    program = program_of(tiny, tiny_config)
    step = parallel_step.parallelize_step(TrainStep(program), how)
    state, table = mesh.replicate(StateInit(program).init()), mesh.replicate(tiny.arrays.title_table())

    def buffers(state):
        return [x.addressable_data(0).unsafe_buffer_pointer() for x in jax.tree.leaves(state)]

    batches = training_batches(program, tiny.rows("train"))
    state, _ = step(state, batches[0], table)
    before, places = state, buffers(state)
    state, _ = step(state, batches[1], table)
    arrays = [x.ndim > 0 for x in jax.tree.leaves(state)]
    assert sum(arrays) > 100 and all(x.is_deleted() for x in jax.tree.leaves(before))
    assert np.isin(buffers(state), places)[arrays].all()
