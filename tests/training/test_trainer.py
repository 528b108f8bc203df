"""The loop's own order: what it readies before it takes a step."""

import copy

import pytest

from jaxrec.runtime import parallel_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.training import trainer


@pytest.mark.parametrize("per_epoch, length, together, readied", [
    (7, "2 epochs", 3, [3, 1]),
    (7, "2 epochs", 7, [7]),
    (7, "12 steps", 7, [7, 1]),
    (7, "2 epochs", 1, [1]),
])  # fmt: skip
def test_a_dispatch_and_an_epochs_last_steps_are_readied(
    per_epoch, length, together, readied, tiny, tiny_config, tmp_path, monkeypatch
):
    """The last are one by one where they are fewer than a dispatch takes, and a program of their own."""
    taken = []

    def lowered(self, state, batch, table):
        taken.append(getattr(batch, "steps", 1))
        return lambda: None

    monkeypatch.setattr(parallel_step.ParallelStep, "lower", lowered)
    monkeypatch.setattr(trainer._Run, "_steps", lambda self, state, start, *_: start)
    config = copy.deepcopy(tiny_config)
    config.train.duration, config.train.steps_per_call = length, together
    config.train.batch_size = tiny.rows("train").rows // per_epoch // 2 * 2
    assert tiny.rows("train").rows // config.train.batch_size == per_epoch
    assert trainer.train(config, tiny, tmp_path, PreemptionHandler(1.0)) == 0
    assert taken == readied
