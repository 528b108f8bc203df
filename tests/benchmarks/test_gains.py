"""Each form that is raced is our step with one thing undone: the same loss, where it has the same draws."""

import copy

import jax
import numpy as np
import pytest

from benchmarks import gains
from benchmarks import step_parts as parts
from jaxrec.nn import attention


@pytest.mark.parametrize(
    "name, form",
    [("dot_product_attention", "dot_product"), ("attention by broadcast and sum", "broadcast")],
)
def test_other_forms_of_attention_are_taken(name, form, monkeypatch):
    monkeypatch.setitem(attention.FORMS, form, attention.Form(lambda *given: "taken"))
    q = np.zeros((2, 5, 3, 8), np.float32)
    with gains.forms()[name][0]():
        assert attention.attend("auto", q, q, q, None) == "taken"


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

    monkeypatch.setattr(type(program), "train_step", step)
    monkeypatch.setattr(jax, "block_until_ready", lambda found: states.append(int(found[0].step)))
    for together, joined, _ in gains.feeds().values():
        gains.fed(program, table, rows, together, joined)()
    assert states == [32, 64] * len(gains.feeds())
