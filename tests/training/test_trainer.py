"""Tests of the training loop: programs compiled before the first step."""

import copy

import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.config.serialization import to_json
from jaxrec.core.errors import InputError
from jaxrec.evaluation.details.validator import Validator
from jaxrec.runtime import parallel_step
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks.loading import CHECKPOINTS, check_same_run
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


def test_only_a_longer_run_may_be_extended(tiny_config, tmp_path):
    def meta(duration, steps):
        config = copy.deepcopy(tiny_config)
        config.train.duration = duration
        return {"dataset": "d", "config": to_json(config), "total_steps": steps}

    def check(after, steps, extend):
        check_same_run(meta("3 steps", 3), meta(after, steps), tmp_path, extend)

    check("5 steps", 5, True)
    check("3 steps", 3, False)
    with pytest.raises(InputError, match=r"duration='3 steps', .* or --extend to continue the run"):
        check("5 steps", 5, False)
    for extend in (True, False):
        with pytest.raises(InputError, match=r"allowed: the same config, or another --workdir$"):
            check("2 steps", 2, extend)


def test_a_run_ends_where_its_patience_does(tiny, tiny_config, tmp_path, monkeypatch):
    """The best of the epochs is the second: patience 1 ends the run after the third."""
    scores = dict(enumerate([0.1, 0.3, 0.2, 0.0, 0.0], start=1))
    config = copy.deepcopy(tiny_config)
    config.train.batch_size, per_epoch = tiny.rows("train").rows // 2 // 2 * 2, 2
    config.train.duration, config.train.patience = "5 epochs", 1
    validated = []

    def validate(self, params):
        validated.append(scores[len(validated) + 1])
        return {"loss": 1.0}, {self.watched: {self.metric: validated[-1]}}

    monkeypatch.setattr(Validator, "__call__", validate)
    for _ in range(2):  # the second call finds a run that has ended
        assert trainer.train(config, tiny, tmp_path, PreemptionHandler()) == 3 * per_epoch
        assert len(validated) == 3
    with Checkpointer(tmp_path / CHECKPOINTS) as checkpoints:
        assert checkpoints.best_step() == 2 * per_epoch


@pytest.mark.slow
def test_a_finished_run_is_extended_on_request(tiny, tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.train.duration = "3 steps"
    assert trainer.train(config, tiny, tmp_path, PreemptionHandler()) == 3
    config.train.duration = "5 steps"
    assert trainer.train(config, tiny, tmp_path, PreemptionHandler(), extend=True) == 5
    with Checkpointer(tmp_path / CHECKPOINTS) as checkpoints:
        meta = checkpoints.restore_meta("last")
    assert meta["extended"] == [[3, 3, 5]] and meta["config"]["train"]["duration"] == "5 steps"
