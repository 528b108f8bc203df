"""Rounds of pairs of a generative model and of a title policy: candidates by brute force, and two rounds."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxrec.analysis.reward_models import with_reward_models
from jaxrec.analysis.rewritten.preference_pairs import write_pairs
from jaxrec.analysis.tokenising import tokenise
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Codes, Post, Task
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.training import trainer

ROOT = Path(__file__).resolve().parents[2]
TITLES = 60


def title_config(data):
    config = load_config(str(ROOT / "configs/policy.py:tiny"))
    config.data.directory, config.evaluate.report_users = str(data), 0
    config.train.duration = "1 epoch"
    return config


def generative(config):
    """Return the config of a generative model of the same width."""
    config.task, config.post = Task("generative"), Post()
    config.codes = Codes(levels=2, size=8, vectors="random", places=4, decoder=1, beam=8)
    return config


def train(config, workdir):
    check(config)
    trainer.train(config, Dataset(config.data.directory), workdir, SimpleNamespace(requested=None))
    return workdir


def of_round(config, start, **post):
    """Return the config of a round of pairs that starts from a run."""
    config = copy.deepcopy(config)
    config.post = Post("dpo", beta=1.0, candidates="best", rest=0.1, pessimism=0.01, **post)
    config.start.workdir, config.train.duration = str(start), "6 steps"
    config.optimizer.learning_rate = 0.02
    check(config)
    return config


def logged(workdir):
    """Return the lines of metrics of training steps."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


@pytest.fixture(scope="module")
def data(once):
    def make(folder):
        ensure_dataset(title_config(folder / "data"), folder / "data")

    return once("rounds", make) / "data"


@pytest.fixture(scope="module")
def title(data, tmp_path_factory):
    return train(title_config(data), tmp_path_factory.mktemp("title"))


@pytest.fixture(scope="module")
def coded(data, tmp_path_factory):
    config, folder = generative(title_config(data)), tmp_path_factory.mktemp("codes")
    tokenise(config, Dataset(data), folder)
    config.codes.path = str(folder)
    return config


@pytest.fixture(scope="module")
def model(coded, tmp_path_factory):
    return train(coded, tmp_path_factory.mktemp("generative"))


def test_the_pairs_among_all_titles_are_those_of_any_policy(data, title, coded, model, tmp_path):
    every = [
        write_pairs(policy, title, of_round(config, policy, samples=TITLES), tmp_path / str(i))[0]
        for i, (policy, config) in enumerate(((title, title_config(data)), (model, coded)))
    ]
    first, second = (Dataset(tmp_path / str(i)).rows("train").all() for i in (0, 1))
    assert every[0]["pairs"]["pairs"] == every[1]["pairs"]["pairs"] > 1_000
    for name in ("pair_winner", "pair_loser"):
        np.testing.assert_array_equal(first[name], second[name])
    for play in range(1, first["title"].shape[1]):
        earlier = first["title"][:, :play]
        assert not (second["pair_winner"][:, play, None] == earlier)[second["pair_winner"][:, play] > 0].any()


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rounds_of_a_generative_model(rounds, data, title, coded, model, tmp_path):
    start, users = model, []
    for number in range(1, rounds + 1):
        config = of_round(coded, start, samples=8, pair_users=0.5)
        manifest, _ = write_pairs(start, title, config, tmp_path / f"pairs-{number}")
        rows = Dataset(tmp_path / f"pairs-{number}").rows("train").all()
        users.append((rows["pair_winner"] > 0).any(1))
        share = manifest["pairs"]["states"] / (rows["title"] > 0).sum()
        assert 0.2 < share < 0.4 and manifest["pairs"]["pairs"] > 100
        config.data.directory = str(tmp_path / f"pairs-{number}")
        start = train(config, tmp_path / f"round-{number}")
        steps = logged(start)
        assert steps[0]["log_pi_winner"] < 0 and steps[0]["log_pi_loser"] < 0
        assert steps[-1]["margin"] > 0 and steps[-1]["pairs_in_order"] > 0.5
    assert rounds == 1 or (users[0] & ~users[1]).any()  # each round has its own users


def test_a_generative_model_has_a_value_under_reward_models(title, model):
    evaluation = evaluate(model, EvaluationOptions(lists=("catalogue",), report_users=0), which="last")
    rewards = with_reward_models(evaluation, model, title).result["rewards"]
    assert rewards["models"] == 4 and 1.0 < rewards["value"] < 5.0  # stars


def test_the_best_titles_of_a_title_policy_make_a_round(data, title, tmp_path):
    config = of_round(title_config(data), title, samples=8, pair_users=0.5)
    write_pairs(title, title, config, tmp_path / "pairs")
    config.data.directory = str(tmp_path / "pairs")
    steps = logged(train(config, tmp_path / "round"))
    assert steps[-1]["margin"] > 0 and 0.1 < steps[-1]["weight"] < 1


def test_pairs_that_a_generative_model_cannot_give_are_refused(data, title, coded, model, tmp_path):
    config = of_round(coded, model)
    config.post.candidates = "drawn"
    with pytest.raises(InputError, match=r"no pairs with post.candidates='drawn'; allowed: one of best"):
        write_pairs(model, title, config, tmp_path / "d")
    config.post.candidates, config.post.samples = "best", 61
    with pytest.raises(InputError, match=r"post.samples=61; allowed: at most the 60 titles"):
        write_pairs(model, title, config, tmp_path / "d")
    config.post.samples = 8
    with pytest.raises(InputError, match=r"rewards: .* has post.reward_models=0; allowed: 2 or more"):
        write_pairs(model, model, config, tmp_path / "d")
    with pytest.raises(InputError, match="the dataset's rows have none; allowed: a dataset that python -m"):
        train(of_round(coded, model), tmp_path / "d")
    assert not (tmp_path / "d").exists() or not np.any([*(tmp_path / "d").iterdir()])
