"""What the loop is fed by, and says of waiting for it."""

import copy
import itertools

import pytest

from jaxrec.training import input_pipeline


def test_the_stall_is_the_share_of_time_spent_waiting(monkeypatch):
    clock = itertools.count()  # a second passes at each look
    monkeypatch.setattr(input_pipeline.time, "monotonic", lambda: float(next(clock)))
    waited = input_pipeline.StallTimer(iter((["a"], ["b"])))  # since 0
    taken = list(zip(waited, "xy", strict=False))
    assert [batch for batch, _ in taken] == ["a", "b"]
    # a waited from 1 to 2, b from 3 to 4, the end from 5 to 6; asked at 7
    assert waited.stall() == pytest.approx(3 / 7)
    assert waited.stall() == 0.0


@pytest.mark.parametrize("backend, asked, most, steps", [
    ("cpu", 0, 100, 1), ("gpu", 0, 100, 8), ("gpu", 0, 5, 5), ("gpu", 3, 100, 3), ("tpu", 0, 100, 1),
])  # fmt: skip
def test_how_many_steps_a_dispatch_takes(backend, asked, most, steps, tiny_config, monkeypatch):
    monkeypatch.setattr(input_pipeline.jax, "default_backend", lambda: backend)
    config = copy.deepcopy(tiny_config)
    config.train.steps_per_call = asked
    assert input_pipeline.steps_per_call(config, most) == steps
