"""Each form of the gains benchmark is our step with one optimisation undone."""

import copy

import jax
import numpy as np
import pytest

from benchmarks import gains
from benchmarks import step_parts as step_parts
from jaxrec.models.layers import attention
from jaxrec.runtime.mesh import AXIS
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def test_the_other_attention_implementation_is_used(monkeypatch):
    monkeypatch.setitem(attention.FORMS, "dot_product", attention.AttentionForm(lambda *_: "taken"))
    q = np.zeros((2, 5, 3, 8), np.float32)
    with gains.forms()["dot_product_attention"][0]():
        assert attention.attend("auto", q, q, q, np.ones((2, 5, 5), bool)) == "taken"


@pytest.mark.parametrize(
    "name",
    [
        "attention by einsum",
        "layer norm as XLA has it",
        "gradients of few rows one by one",
        "a kernel a parameter's update",
    ],
)
def test_gpu_optimisations_are_undone_one_by_one(name, tiny, small_config, monkeypatch):
    """The step traced for a GPU has fewer kernels or more single additions, only."""
    assert name not in gains.forms()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = step_parts.program_of(copy.deepcopy(small_config), tiny, 64)
    arguments = (
        StateInit(program).abstract(),
        step_parts.host_batch(program, tiny.rows("train")),
        tiny.arrays.title_table(),
    )

    def text():
        return str(jax.make_jaxpr(lambda *x: TrainStep(program)(*x), axis_env=[(AXIS, 1)])(*arguments))

    as_it_is = text()
    with gains.forms()[name][0]():
        undone = text()
    kernels, additions = (
        [x.count(op) for x in (as_it_is, undone)] for op in ("pallas_call[", "scatter-add[")
    )
    if name.startswith("gradients"):
        assert kernels[0] == kernels[1] and additions[0] < additions[1]
    else:
        assert kernels[0] > kernels[1] > 0 and additions[0] == additions[1]


def test_a_form_runs_a_step(tiny, small_config, tiny_directory):
    config = copy.deepcopy(small_config)
    config.data.directory, config.train.microbatch_size = str(tiny_directory), 32
    program = step_parts.program_of(config, tiny, 64)
    host = step_parts.host_batch(program, tiny.rows("train"))
    table = tiny.arrays.title_table()
    name = "titles projected one by one"
    gains.rival(name, gains.forms()[name][0], program, table, host)()


def test_a_round_with_input_pipeline_has_a_fixed_number_of_steps(tiny, small_config, monkeypatch):
    program, table = step_parts.program_of(copy.deepcopy(small_config), tiny, 64), tiny.arrays.title_table()
    rows, states = tiny.rows("train").all(), []

    def step(self, state, host, table):
        return state._replace(step=state.step + 1), {"words": (host.words.sum(), host.valid.sum())}

    monkeypatch.setattr(TrainStep, "__call__", step)
    monkeypatch.setattr(jax, "block_until_ready", lambda result: states.append(int(result[0].step)))
    for steps_per_call, joined, _ in gains.feeds().values():
        gains.fed(program, table, rows, steps_per_call, joined)()
    assert states == [32, 64] * len(gains.feeds())
