"""The benchmark of values along post-training: a small run of PPO."""

import copy
from types import SimpleNamespace

import pytest

from benchmarks import along
from configs import policy
from jaxrec.config.schema import Post
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.training import trainer


def test_values_along_a_small_run_are_those_of_its_steps(tmp_path, monkeypatch):
    tiny = policy.get_config("tiny")
    tiny.data.directory, tiny.train.duration = str(tmp_path / "data"), "2 steps"
    ensure_dataset(tiny, tmp_path / "data")
    trainer.train(tiny, Dataset(tmp_path / "data"), tmp_path / "bc", SimpleNamespace(requested=None))
    post = copy.deepcopy(tiny)
    post.post = Post("ppo", "stars", "model", reward_models=4)
    post.optimizer.learning_rate = 0.02
    monkeypatch.setattr(policy, "get_config", lambda name: copy.deepcopy(post))
    args = SimpleNamespace(
        objective="ppo", start=str(tmp_path / "bc"), dataset=str(tmp_path / "data"), raters="", every=2,
        steps=4, queries=40, figure=str(tmp_path / "along.svg"),
    )  # fmt: skip
    report = along.main(args)
    columns = report.figures["columns"]
    assert columns["step"] == [0, 2, 4] and len(report.rows) == 4
    assert columns["value"][2] != columns["value"][0] and columns["own"][2] != columns["own"][0]
    assert all(0 < value < 1 for value in columns["value"]) and all(0 < r < 5 for r in columns["own"])
    assert report.figures["fall"] == pytest.approx(max(columns["value"]) - columns["value"][-1])
    assert (tmp_path / "along.svg").read_text().startswith("<svg")
