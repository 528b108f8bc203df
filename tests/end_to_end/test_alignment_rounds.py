"""Rounds of pairs of a generative model and of a title policy: candidates by brute force, and two rounds."""

import copy
import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxrec.analysis.reward_models import with_reward_models
from jaxrec.analysis.rewritten.preference_pairs import write_pairs
from jaxrec.analysis.rewritten.rewriting import content_digest, parameters_digest
from jaxrec.analysis.tokenising import tokenise
from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Codes, Post, Task
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.writer import DatasetWriter
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.tasks.loading import load_checkpoint
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


def test_the_users_of_a_round_do_not_depend_on_the_names_of_folders(title, model):
    loaded = load_checkpoint(model, "last")
    config = copy.deepcopy(loaded.meta["config"])
    config["codes"]["path"] = "elsewhere"
    moved = dataclasses.replace(loaded, meta=loaded.meta | {"config": config})
    assert content_digest(moved) != content_digest(loaded)
    assert (
        parameters_digest(moved)
        == parameters_digest(loaded)
        != parameters_digest(load_checkpoint(title, "last"))
    )


def copy_before(patch, call, owner, method, folder, copy):
    """Copy a folder as it is when a method is called for the nth time: as `kill -9` would leave it."""
    calls, original = itertools.count(1), getattr(owner, method)

    def copying(self, *arguments):
        if next(calls) == call:
            if isinstance(self, Checkpointer):
                self.wait()  # the files of a save that is under way appear and vanish
            shutil.copytree(folder, copy)
        return original(self, *arguments)

    patch.setattr(owner, method, copying)


def a_round(coded, title, start, folder):
    """Return the manifest of the pairs of a policy, and the config of a round, before its training."""
    config = of_round(coded, start, samples=8, pair_users=0.5)
    manifest, _ = write_pairs(start, title, config, folder / "pairs")
    config.data.directory = str(folder / "pairs")
    config.train.checkpoint_every_seconds = 1e-6  # a checkpoint at each step
    return manifest, config


@pytest.fixture(scope="module")
def first_round(title, coded, model, tmp_path_factory):
    """The manifest of the pairs, the folder of a round, and copies of it in its pairs and its training."""
    folder = tmp_path_factory.mktemp("round")
    whole, in_pairs, in_steps = (folder / name for name in ("whole", "in_pairs", "in_steps"))
    with pytest.MonkeyPatch.context() as patch:
        copy_before(patch, 2, DatasetWriter, "add", whole, in_pairs)
        copy_before(patch, 4, Checkpointer, "save", whole, in_steps)
        manifest, config = a_round(coded, title, model, whole)
        train(config, whole / "run")
    return manifest, whole, in_pairs, in_steps


def test_a_round_that_is_killed_ends_in_the_same_parameters(title, coded, model, first_round):
    manifest, whole, in_pairs, in_steps = first_round
    assert [path.name for path in in_pairs.iterdir() if path.is_dir()] == [".pairs.partial"]
    again, _ = a_round(coded, title, model, in_pairs)
    assert again["fingerprint"] == manifest["fingerprint"] and not (in_pairs / ".pairs.partial").exists()
    assert load_checkpoint(in_steps / "run", "last").step == 3
    _, config = a_round(coded, title, model, in_steps)
    train(config, in_steps / "run")
    ends = [load_checkpoint(folder / "run", "last") for folder in (whole, in_steps)]
    assert ends[0].step == ends[1].step == 6
    assert jax.tree.all(jax.tree.map(np.array_equal, *(jax.device_get(end.params) for end in ends)))


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rounds_of_a_generative_model(rounds, title, coded, first_round, tmp_path):
    start, users = None, []
    for _ in range(rounds):
        if start is None:
            manifest, folder = first_round[:2]
        else:
            folder = tmp_path
            manifest, config = a_round(coded, title, start, folder)
            train(config, folder / "run")
        start, rows = folder / "run", Dataset(folder / "pairs").rows("train").all()
        users.append((rows["pair_winner"] > 0).any(1))
        share = manifest["pairs"]["states"] / (rows["title"] > 0).sum()
        assert 0.2 < share < 0.4 and manifest["pairs"]["pairs"] > 100
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
