"""Tests of the training input pipeline: input stall and steps per call."""

import copy
import itertools

import pytest

from jaxrec.training.inputs import input_pipeline


def test_the_stall_is_the_fraction_of_waiting_time(monkeypatch):
    clock = itertools.count()  # advances by a second per reading
    monkeypatch.setattr(input_pipeline.time, "monotonic", lambda: float(next(clock)))
    timer = input_pipeline.StallTimer(iter((["a"], ["b"])))  # starts at 0
    batches = list(zip(timer, "xy", strict=False))
    assert [batch for batch, _ in batches] == ["a", "b"]
    # waits: for a from 1 to 2, for b from 3 to 4, for the end from 5 to 6; `stall` is called at 7
    assert timer.stall() == pytest.approx(3 / 7)
    assert timer.stall() == 0.0


@pytest.mark.parametrize("backend, setting, limit, steps", [
    ("cpu", 0, 100, 1), ("gpu", 0, 100, 8), ("gpu", 0, 5, 5), ("gpu", 3, 100, 3), ("tpu", 0, 100, 1),
])  # fmt: skip
def test_steps_per_call(backend, setting, limit, steps, tiny_config, monkeypatch):
    monkeypatch.setattr(input_pipeline.jax, "default_backend", lambda: backend)
    config = copy.deepcopy(tiny_config)
    config.train.steps_per_call = setting
    assert input_pipeline.steps_per_call(config, limit) == steps
