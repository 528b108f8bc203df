"""Tests of the training loop: programs compiled before the first step."""

import copy

import pytest

from jaxrec.runtime import parallel_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.training import trainer


@pytest.mark.parametrize("per_epoch, length, steps_per_call, compiled", [
    (7, "2 epochs", 3, [3, 1]),
    (7, "2 epochs", 7, [7]),
    (7, "12 steps", 7, [7, 1]),
    (7, "2 epochs", 1, [1]),
])  # fmt: skip
def test_the_call_and_the_tail_of_an_epoch_are_compiled(
    per_epoch, length, steps_per_call, compiled, tiny, tiny_config, tmp_path, monkeypatch
):
    """A tail shorter than a call runs batch by batch, in a program of its own."""
    lowered_steps = []

    def lower(self, state, batch, table):
        lowered_steps.append(getattr(batch, "steps", 1))
        return lambda: None

    monkeypatch.setattr(parallel_step.ParallelStep, "lower", lower)
    monkeypatch.setattr(trainer._Run, "_train", lambda self, state, start, *_: start)
    config = copy.deepcopy(tiny_config)
    config.train.duration, config.train.steps_per_call = length, steps_per_call
    config.train.batch_size = tiny.rows("train").rows // per_epoch // 2 * 2
    assert tiny.rows("train").rows // config.train.batch_size == per_epoch
    assert trainer.train(config, tiny, tmp_path, PreemptionHandler(1.0)) == 0
    assert lowered_steps == compiled
