"""Policies end to end: imitation, post-training that starts from it, and the truth about both."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.analysis.reward_models import with_reward_models
from jaxrec.analysis.rewritten.preference_pairs import best_pair, write_pairs
from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Post
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import per_user
from jaxrec.evaluation.evaluator import EvaluationOptions, Evaluator, evaluate
from jaxrec.evaluation.truth.policy_value import TOPS
from jaxrec.reporting.result_table import format_table
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import CHECKPOINTS, load_checkpoint
from jaxrec.tasks.preference import compared, inputs
from jaxrec.training import trainer

ROOT = Path(__file__).resolve().parents[2]


def config_of(data, post=None):
    config = load_config(str(ROOT / "configs/policy.py:tiny"))
    config.data.directory, config.evaluate.report_users = str(data), 0
    config.post = post or config.post
    return config


@pytest.fixture(scope="module")
def data(once):
    def make(folder):
        ensure_dataset(config_of(folder / "data"), folder / "data")

    return once("policy", make) / "data"


def train(config, workdir):
    trainer.train(config, Dataset(config.data.directory), workdir, SimpleNamespace(requested=None))
    return workdir


@pytest.fixture(scope="module")
def imitation(data, tmp_path_factory):
    return train(config_of(data), tmp_path_factory.mktemp("imitation"))


@pytest.fixture(scope="module")
def post_trained(data, imitation, tmp_path_factory):
    config = config_of(data, Post("exponential", "stars", beta=1.0))
    config.start.workdir = str(imitation)
    return train(config, tmp_path_factory.mktemp("post"))


def test_the_stored_truth_of_sequences_is_that_of_their_queries(data):
    dataset = Dataset(data)
    truth, seen = dataset.truth(), dataset.seen_titles("test")
    rows = dataset.rows("test").all()[truth.rows]
    assert len(rows) == 64
    np.testing.assert_allclose(truth.choice.sum(axis=1), 1.0, atol=1e-5)  # the choice sums to 1
    for query, (row, at) in enumerate(zip(rows, truth.rows, strict=True)):
        first = seen.start[row["user"]]
        played = seen.title[first : first + seen.num_titles[at]]
        impossible = 2 + np.flatnonzero(truth.choice[query] == 0)
        assert sorted(played.tolist()) == impossible.tolist()  # titles played before, and no other
        assert truth.choice[query, row["target"][0] - 2] > 0
    assert ((truth.reward >= 0) & (truth.reward <= 1)).all()


def test_policy_value_of_a_run_by_brute_force(data, imitation):
    options = EvaluationOptions(lists=("truth", "catalogue"), report_users=0)
    evaluation = evaluate(imitation, options)
    truth = Dataset(data).truth()

    stored = Dataset(data).rows("test").all()[truth.rows]
    assert evaluation.rows.tobytes() == stored.tobytes()

    loaded = load_checkpoint(imitation, "last")
    host = HostBatch(as_words(evaluation.rows), np.ones(len(evaluation.rows), bool))
    scores = loaded.task.score_all_titles(loaded.params, host, replicate(loaded.arrays.title_table()))
    logits = np.asarray(scores.by_head["next_item"], np.float64)[:, 2:]
    pi = np.where(truth.choice > 0, np.exp(logits - logits.max(1, keepdims=True)), 0)
    pi /= pi.sum(1, keepdims=True)
    reward, choice = truth.reward.astype(np.float64), truth.choice.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(pi > 0, pi * np.log(pi / choice), 0).sum(1)
        entropy = -np.where(pi > 0, pi * np.log(pi), 0).sum(1)
    best = np.argsort(-pi, axis=1)
    expected = {"value": (pi * reward).sum(1), "kl": kl, "entropy": entropy} | {
        f"value@{k}": np.take_along_axis(reward, best[:, :k], 1).mean(1) for k in TOPS
    }
    assert evaluation.policy.keys() == {f"truth/{name}" for name in expected}
    for name, values in expected.items():
        np.testing.assert_allclose(
            evaluation.policy[f"truth/{name}"], values, rtol=1e-4, atol=1e-6, err_msg=name
        )
    model = evaluation.result["truth"]["model"]
    low, high = model["interval"]
    assert low < model["value"] < high
    assert model["value"] == pytest.approx(expected["value"].mean(), rel=1e-5)
    assert evaluation.result["truth"]["frontier"]["value"] > model["value"]
    own = evaluate(imitation, EvaluationOptions("validation", ("truth",), report_users=0))
    validation = evaluation.result["truth"]["validation"]
    assert validation.pop("queries") == own.result["truth"]["queries"] == 32
    for name, value in validation.items():  # of other queries, by which settings can be chosen
        assert own.result["truth"]["model"][name] == pytest.approx(value) != model[name]
    assert "validation" not in own.result["truth"]
    choice_row = evaluation.result["truth"]["choice"]
    assert choice_row["value"] == pytest.approx((choice * reward).sum(1).mean(), rel=1e-5)
    assert evaluation.result["catalogue"]["examples"] == evaluation.result["truth"]["queries"] == 64
    assert evaluation.result["protocol"]["name"] == ""  # the usual lists of a policy
    assert "best at that KL" in format_table(evaluation.result)
    assert len(evaluation.ranked.by_order["popularity_7_days"].ranks) == 64
    for name, order in evaluation.ranked.by_order.items():
        shown = [choice[q, ids[ids > 0] - 2].mean() for q, ids in enumerate(order.top)]
        assert evaluation.result["catalogue"][name]["true_choice@10"] == pytest.approx(np.mean(shown))
    assert "p(choice)" in format_table(evaluation.result)


def test_policy_value_under_reward_models_by_brute_force(data, imitation, post_trained):
    plain = evaluate(post_trained, EvaluationOptions(report_users=0))
    evaluation = with_reward_models(plain, post_trained, imitation)
    rows, truth = evaluation.rows, Dataset(data).truth()
    table = replicate(load_checkpoint(imitation, "last").arrays.title_table())
    host = HostBatch(as_words(rows), np.ones(len(rows), bool))
    models, policy = (load_checkpoint(workdir, "last") for workdir in (imitation, post_trained))
    logits = np.asarray(policy.task.policy_logits(policy.params, host, table), np.float64)
    pi = np.where(truth.choice > 0, np.exp(logits - logits.max(1, keepdims=True))[:, 2:], 0)
    pi /= pi.sum(1, keepdims=True)
    state, titles = models.task.encode_queries(models.params, host, table)
    pair = np.broadcast_arrays(np.asarray(state)[:, None], np.asarray(titles)[None, 2:])
    validation = Dataset(data).rows("validation").all()
    known = (validation["label_known"][:, 0] & 1) == 1
    mean = validation["label"][known, 0, 0].mean(dtype=np.float64)
    of_models = models.task.model.apply({"params": models.params}, *map(jnp.asarray, pair), method="rewards")
    rewards = mean + np.asarray(of_models, np.float64).mean(axis=0)
    value = (pi * rewards).sum(1)
    np.testing.assert_allclose(evaluation.policy["rewards/value"], value, rtol=1e-5)
    result = evaluation.result["rewards"]
    assert result["value"] == pytest.approx(value.mean(), rel=1e-6) and result["models"] == 4
    reward, known = rows["label"][:, 0, 0].astype(np.float64), (rows["label_known"][:, 0] & 1) == 1
    predicted = rewards[np.arange(len(rows)), rows["target"][:, 0] - 2]
    residual, spread = reward[known] - predicted[known], reward[known] - reward[known].mean()
    assert result["r2"]["models"] == pytest.approx(1 - (residual**2).sum() / (spread**2).sum(), rel=1e-5)
    assert result["r2"].keys() == {"models", "user_mean", "title_mean", "both_means"}
    high = known & (reward >= np.quantile(reward[known], 0.8))
    ranks = plain.ranked.by_order["model"].ranks[high]
    assert result["high"]["targets"] == high.sum() > 0
    assert result["high"]["recall@10"] == pytest.approx((ranks <= 10).mean())
    assert "R^2 of the rewards of test targets: reward models" in format_table(evaluation.result)
    with pytest.raises(InputError, match=r"post\.reward_models=0; allowed: a run of the task 'preference'"):
        with_reward_models(plain, post_trained, post_trained)


def test_post_training_starts_from_the_imitation_and_is_compared_with_it(imitation, post_trained):
    start = json.loads((post_trained / "start.json").read_text())
    assert any(name.startswith("layers/") for name in start["taken"])
    assert {name.split("/")[0] for name in start["initialised"]} == {"value"}
    assert {name.split("/")[0] for name in start["dropped"]} == {f"reward_{m}" for m in range(4)}
    lines = [json.loads(line) for line in (post_trained / "metrics.jsonl").read_text().splitlines()]
    of_training = [line for line in lines if line["split"] == "train"]
    assert all(0 < line["effective_share"] <= 1 and line["nll"] > 0 for line in of_training)
    assert all(0 <= line["clipped"] < 1 and 1 <= line["reward"] <= 5 for line in of_training)
    for workdir in (imitation, post_trained):
        Evaluator(workdir).run(lists=("truth",), write=True, per_user=True, report_users=0)
    both = [per_user.read(workdir, protocol="truth") for workdir in (post_trained, imitation)]
    difference = per_user.compare(*both)["metrics"]["truth/value"]
    means = [run.result["truth"]["model"]["value"] for run in both]
    assert difference["queries_as_the_paper"]["mean"] == pytest.approx(means[0] - means[1], abs=1e-6)
    assert difference["users"]["n"] == both[0].result["truth"]["users"]


class _StopSoon:
    """Handler whose third look finds a signal to stop."""

    def __init__(self):
        self.looks = 0

    @property
    def requested(self):
        self.looks += 1
        return "SIGTERM" if self.looks > 2 else None

    def notify(self, signal):
        """Take the signal that all processes have agreed on."""


def saved(workdir):
    """Return the arrays of the last checkpoint of a run by name."""
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        return checkpoints.restore_on_host("last", "params", "reference", "anchored", "old")


INTERRUPTED = {
    "ensemble": Post("exponential", "stars", "ensemble", "value", reward_models=2),
    "ppo": Post("ppo", "stars", "model", reward_models=4, kappa=0.1, refresh=3),
    "dpo": Post("dpo", "stars", beta=0.1),
}


@pytest.mark.parametrize("name", ["ensemble", "ppo", pytest.param("dpo", marks=pytest.mark.slow)])
def test_a_post_training_that_was_interrupted_ends_with_the_same_state(
    name, data, pairs, imitation, tmp_path
):
    dataset = pairs if name == "dpo" else data

    def post():
        config = config_of(dataset, INTERRUPTED[name])
        config.start.workdir, config.train.duration = str(imitation), "4 steps"
        return config

    whole, halves = post(), post()
    train(whole, tmp_path / "whole")
    trainer.train(halves, Dataset(dataset), tmp_path / "halves", _StopSoon())
    assert not (tmp_path / "halves" / "checkpoints" / "4").exists()
    train(halves, tmp_path / "halves")
    first, second = (saved(tmp_path / run) for run in ("whole", "halves"))
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(second[key], value, err_msg=key)

    kinds = {key.split("/")[0] for key in first}
    assert kinds == {"params"} | {"ensemble": set(), "ppo": {"reference", "old"}, "dpo": {"reference"}}[name]
    of_start = saved(imitation)
    for key, value in first.items():
        kind, _, parameter = key.partition("/")
        if kind == "reference" and f"params/{parameter}" in of_start:
            np.testing.assert_array_equal(value, of_start[f"params/{parameter}"])
    moved = [key for key in first if key.startswith("params/layers")]
    assert any((first[key] != of_start[key]).any() for key in moved)


@pytest.fixture(scope="module")
def pairs(data, imitation, once):
    config = config_of(data, Post("dpo", "stars", samples=5, pessimism=0.01))
    config.start.workdir = str(imitation)
    folder = once("policy-pairs", lambda folder: write_pairs(imitation, imitation, config, folder))
    manifest, written = write_pairs(imitation, imitation, config, folder)
    assert not written and manifest["pairs"]["pairs"] > 0
    return folder


def test_pairs_of_a_policy_by_brute_force(data, imitation, pairs):
    rows, plain = Dataset(pairs).rows("train").all(), Dataset(data).rows("train").all()
    for name in plain.dtype.names:
        np.testing.assert_array_equal(rows[name], plain[name])
    loaded = load_checkpoint(imitation, "last")
    task, params = loaded.task, {"params": loaded.params}
    x = inputs.training(as_words(plain), task.layout, task.config, task.size, jnp.zeros((len(rows), 2)))
    table = replicate(loaded.arrays.title_table())
    policy = compared.encode(
        task.model, loaded.params, x.windows.window, task.project_titles(loaded.params, table)
    )
    ids = jnp.arange(2, len(policy.title))
    pair = jnp.broadcast_arrays(policy.state[:, :, None], policy.title[ids])
    rewards = np.asarray(task.model.apply(params, *pair, method="rewards"), np.float64)
    low, high = (rewards.mean(0) + sign * 0.01 * rewards.std(0) for sign in (-1, 1))
    kept = 0
    for b, t in zip(*np.nonzero(np.asarray(x.windows.target)), strict=True):
        play = int(x.play[b, t])
        winner, loser = rows[b]["pair_winner"][play], rows[b]["pair_loser"][play]
        assert (winner == 0) == (loser == 0)
        if winner:
            kept += 1
            assert low[b, t, winner - 2] > high[b, t, loser - 2] - 1e-6
            assert {winner, loser}.isdisjoint(rows[b]["title"][:play].tolist())
    counts = Dataset(pairs).manifest["pairs"]
    assert counts["pairs"] == kept == (rows["pair_winner"] > 0).sum() > 100
    assert counts["states"] == (np.asarray(x.windows.target) > 0).sum() >= kept


def test_the_best_pair_of_draws_by_hand():
    title = jnp.asarray([[5, 6, 7], [5, 6, 7]])
    one = jnp.asarray([[4.0, 1.0, 3.0], [4.0, 3.0, 3.5]])
    two = jnp.asarray(
        [[2.0, 1.2, 3.0], [2.0, 3.5, 2.5]]
    )  # means 3, 1.1, 3 and 3, 3.25, 3; deviations 1, .1, 0
    winner, loser = best_pair(title, jnp.stack([one, two]), 1.0)
    assert winner.tolist() == [7, 0] and loser.tolist() == [6, 0]  # of the second all bounds overlap
    winner, loser = best_pair(title, jnp.stack([one, two]), 0.0)
    assert winner.tolist() == [5, 6] and loser.tolist() == [6, 5]
    title = jnp.asarray([[5, 0, 7], [0, 6, 7]])  # 0 is no title; the others of the first row are equal
    winner, loser = best_pair(title, jnp.stack([one, two]), 0.0)
    assert winner.tolist() == [0, 6] and loser.tolist() == [0, 7]


def test_a_policy_of_pairs_is_compared_on_the_queries_of_the_others(data, pairs, imitation, tmp_path):
    config = config_of(pairs, INTERRUPTED["dpo"])
    config.start.workdir, config.train.duration = str(imitation), "1 steps"
    ensure_dataset(config, pairs)  # the digest is that of the dataset without pairs
    train(config, tmp_path / "dpo")
    own, other = (
        evaluate(tmp_path / "dpo", EvaluationOptions(report_users=0), data=folder) for folder in (None, data)
    )
    assert own.result["dataset"] == other.result["dataset"] == Dataset(data).fingerprint
    assert own.result["truth"]["model"] == other.result["truth"]["model"]
    line = json.loads((tmp_path / "dpo" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["margin"] == pytest.approx(0.0, abs=1e-5) and line["log_pi_winner"] < 0


def test_pairs_that_cannot_be_drawn_are_refused(data, pairs, imitation, post_trained, tmp_path):
    config = config_of(data, Post("dpo", "stars", samples=5))
    config.start.workdir = str(imitation)
    with pytest.raises(InputError, match=r"has post\.reward_models=0; allowed: 2 or more"):
        write_pairs(imitation, post_trained, config, tmp_path / "d")
    config.post.samples = 6
    with pytest.raises(InputError, match=r"exists, and is not .* with pairs of"):
        write_pairs(imitation, imitation, config, pairs)
    config.post.pessimism = 1e6
    with pytest.raises(InputError, match=r"no pair at .* states is kept"):
        write_pairs(imitation, imitation, config, tmp_path / "d")
    config.data.directory = str(pairs)
    with pytest.raises(InputError, match="has pairs already; allowed: the dataset that it was made from"):
        write_pairs(imitation, imitation, config, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_ppo_needs_the_reward_models_of_its_start(data, post_trained, tmp_path):
    config = config_of(data, INTERRUPTED["ppo"])
    config.start.workdir = str(post_trained)
    with pytest.raises(InputError, match="lacks reward_0/hidden_0/bias, which the reference must have"):
        train(config, tmp_path / "w")


def test_what_has_no_policy_value_is_refused(imitation):
    with pytest.raises(InputError, match="lists=enabled; allowed for a next-item model: cat"):
        evaluate(imitation, EvaluationOptions(lists=("enabled",)))


def test_a_ranking_model_and_a_dataset_without_truth_have_no_policy_value(
    tiny_run, data, imitation, tmp_path
):
    with pytest.raises(InputError, match="lists=truth: the scores of a ranking model are no probabilities"):
        evaluate(tiny_run / "run", EvaluationOptions(lists=("truth",)))
    config = config_of(tmp_path / "bare")
    config.data.truth_queries = config.data.validation_truth_queries = 0
    ensure_dataset(config, tmp_path / "bare")
    with pytest.raises(InputError, match="stores no truth; allowed: a dataset of the simulated service"):
        evaluate(imitation, EvaluationOptions(lists=("truth",)), data=tmp_path / "bare")
    with pytest.raises(
        InputError, match=r"split=validation: dataset .*bare stores no truth of it; allowed: te"
    ):
        evaluate(imitation, EvaluationOptions("validation", ("truth",)), data=tmp_path / "bare")
