"""Each form that is raced is our step with one thing undone: the same loss, where it has the same draws."""

import copy

import jax
import numpy as np
import pytest

from benchmarks import gains
from benchmarks import step_parts as parts
from jaxrec.models.layers import attention
from jaxrec.runtime.mesh import AXIS
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


@pytest.mark.parametrize(
    "name, form",
    [("dot_product_attention", "dot_product"), ("attention by broadcast and sum", "broadcast")],
)
def test_other_forms_of_attention_are_taken(name, form, monkeypatch):
    monkeypatch.setitem(attention.FORMS, form, attention.AttentionForm(lambda *given: "taken"))
    q = np.zeros((2, 5, 3, 8), np.float32)
    with gains.forms()[name][0]():
        assert attention.attend("auto", q, q, q, None) == "taken"


@pytest.mark.parametrize(
    "name", ["attention by einsum", "layer norm as XLA has it", "gradients of few rows one by one"]
)
def test_a_gpus_own_are_undone_one_by_one(name, tiny, tiny_config, monkeypatch):
    """In the step as it is traced there: fewer kernels, or more additions one by one, and nothing else."""
    assert name not in gains.forms()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = parts.program_of(copy.deepcopy(tiny_config), tiny, 64)
    given = (
        StateInit(program).abstract(),
        parts.host_batch(program, tiny.rows("train")),
        tiny.arrays.title_table(),
    )

    def text():
        return str(jax.make_jaxpr(lambda *x: TrainStep(program)(*x), axis_env=[(AXIS, 1)])(*given))

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


def test_a_form_takes_a_step(tiny, tiny_config, tiny_directory):
    config = copy.deepcopy(tiny_config)
    config.data.directory, config.train.microbatch = str(tiny_directory), 32
    program = parts.program_of(config, tiny, 64)
    host = parts.host_batch(program, tiny.rows("train"))
    table = tiny.arrays.title_table()
    name = "titles projected one by one"
    gains.rival(name, gains.forms()[name][0], program, table, host)()


def test_a_turn_of_what_is_fed_is_so_many_steps_however_they_come(tiny, tiny_config, monkeypatch):
    program, table = parts.program_of(copy.deepcopy(tiny_config), tiny, 64), tiny.arrays.title_table()
    rows, states = tiny.rows("train").all(), []

    def step(self, state, host, given):
        return state._replace(step=state.step + 1), {"words": (host.words.sum(), host.valid.sum())}

    monkeypatch.setattr(TrainStep, "__call__", step)
    monkeypatch.setattr(jax, "block_until_ready", lambda found: states.append(int(found[0].step)))
    for together, joined, _ in gains.feeds().values():
        gains.fed(program, table, rows, together, joined)()
    assert states == [32, 64] * len(gains.feeds())
