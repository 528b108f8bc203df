"""Metrics of heads that predict labels: of an evaluated run, of its files, and between two runs."""

import json
import math
import shutil
from dataclasses import fields, replace

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from jaxrec import compare
from jaxrec.config import Head, Label
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import plain
from jaxrec.evaluation import evaluator, per_user
from jaxrec.evaluation.labels import rates
from jaxrec.evaluation.labels.predictions import HeadPredictions, head_predictions, label_metrics
from jaxrec.reporting.result_table import format_table
from jaxrec.reporting.tables.labels import label_lines
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.tasks.ranking import RankingTask


class LabelledTask(RankingTask):
    """The ranking task whose click and completion heads count as heads of labels of the first target.

    A click is a completion above .5, known where the completion is not between .4 and .6.
    """

    label_heads = ("ctr", "completion")

    def head_loss(self, name):
        return {"ctr": "bce", "completion": "mse"}[name]

    def _outcome(self, head, outcome):
        completion_B = outcome.completion[:, 0]
        known_B = jnp.abs(completion_B - 0.5) > 0.1
        if head == "completion":
            return completion_B, jnp.ones_like(known_B)
        return jnp.where(known_B, completion_B > 0.5, jnp.nan), known_B


def clicks(rows):
    """Return the labels of `LabelledTask` of all targets; the rows of the tiny dataset store no labels."""
    completion = rows["target_completion"]
    known = (np.abs(completion - np.float32(0.5)) > np.float32(0.1)) & (rows["target"] > 0)
    return rates.Labels(np.where(known, completion > 0.5, 0.0), known)


@pytest.fixture(scope="module")
def labelled(tiny_run, tmp_path_factory):
    """Return the workdir of an evaluated run with label heads, and the evaluation.

    The config declares the click head as one of a label whose window is an hour, for the baselines.
    """
    workdir = tmp_path_factory.mktemp("labelled") / "run"
    shutil.copytree(tiny_run / "run", workdir)

    def load(*args):
        loaded = load_checkpoint(*args)
        own = LabelledTask(**{f.name: getattr(loaded.task, f.name) for f in fields(RankingTask)})
        objective = replace(loaded.config.objective, heads=(Head("ctr", "clicked"),))
        config = replace(loaded.config, labels=(Label("clicked", "happened", hours=1),), objective=objective)
        return replace(loaded, task=own, config=config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "load_checkpoint", load)
        patch.setattr(rates, "labels_of", lambda head, rows, config, layout: clicks(rows))
        done = evaluator.Evaluator(workdir).run(write=True, per_user=True, next_k=(1,), report_users=0)
    return workdir, done


def test_an_evaluation_measures_its_label_heads(labelled):
    """The metrics are those of the scores of the first target; the table, the file and the page show them."""
    workdir, done = labelled
    completion, user = done.rows["target_completion"][:, 0], done.rows["user"]
    ctr = done.labels["ctr"]
    known = np.abs(completion - 0.5) > np.float32(0.1)
    assert np.array_equal(ctr.known, known) and 0 < known.sum() < len(known)
    assert np.array_equal(ctr.label[known], completion[known] > 0.5) and not ctr.label[~known].any()
    assert np.array_equal(done.labels["completion"].label, completion)
    result = done.result["labels"]
    assert plain(result) == plain(label_metrics(done.labels, user))
    # The other code path: the metric of the completion head, which every run has.
    assert result["completion"]["mse"]["value"] == pytest.approx(
        ((done.labels["completion"].prediction.astype(float) - completion) ** 2).mean()
    )
    assert set(result["ctr"]) == {
        "loss", "queries", "users", "mean", "auc", "gauc", "log_loss", "calibration_error", "calibration"
    }  # fmt: skip
    low, high = result["ctr"]["auc"]["interval"]
    assert low < result["ctr"]["auc"]["value"] < high
    assert json.loads((workdir / "eval-test-best.json").read_text())["labels"] == plain(result)
    assert "\n".join(label_lines(result, done.result["label_baselines"])) in format_table(done.result)
    page = (workdir / "report.html").read_text()
    assert 'id="labels"' in page and f"{result['ctr']['auc']['value']:.4f}" in page
    assert "Calibration of labels" in page


def test_an_evaluation_has_the_baselines_of_its_label_heads(labelled, tiny):
    """Both rates equal a loop over rows, with the strengths of the lowest log loss of the validation rows."""
    workdir, done = labelled
    result = done.result["label_baselines"]
    assert [*result] == ["title_rate", "user_rate", "both"] and [*result["both"]] == ["ctr"]  # none of "mse"
    counts = {}
    training = tiny.rows("train").all()
    label, known = clicks(training)
    mean = (label.sum() + 0.5) / (known.sum() + 1)
    for split in ("validation", "test"):
        rows, time = tiny.rows(split).all(), tiny.seen_titles(split).query_time.astype(int)
        y, is_known = (array[:, 0] for array in clicks(rows))
        counts[split] = {"title_rate": [], "user_rate": []}
        for row, now in zip(rows, time, strict=True):
            same = (training["target"] == row["target"][0]) & known
            counts[split]["title_rate"].append((label[same].sum(), same.sum()))
            earlier = (rows["user"] == row["user"]) & (time + 3_600 < now) & is_known
            counts[split]["user_rate"].append((y[earlier].sum(), earlier.sum()))
        assert max(n for _, n in counts[split]["user_rate"]) > 1
    y, is_known = (array[:, 0] for array in clicks(tiny.rows("validation").all()))

    def logit(split, name, strength):
        positives, number = np.array(counts[split][name], float).T
        p = (positives + strength * mean) / (number + strength)
        return np.log(p / (1 - p))

    def loss(name, strength):
        x = logit("validation", name, strength)[is_known]
        return np.log1p(np.exp(x)).sum() - x[y[is_known] > 0].sum()

    test = done.labels["ctr"]
    for name in ("title_rate", "user_rate"):
        best = min(rates.STRENGTHS, key=lambda strength, name=name: loss(name, strength))
        of_loop = test._replace(prediction=logit("test", name, best).astype(np.float32))
        expected = label_metrics({"ctr": of_loop}, done.rows["user"], rates.REPLICATES)["ctr"]
        assert result[name]["ctr"]["queries"] == expected["queries"] == test.known.sum()
        for metric in ("auc", "gauc", "log_loss"):
            assert result[name]["ctr"][metric]["value"] == pytest.approx(expected[metric]["value"], abs=1e-5)
            assert result[name]["ctr"][metric]["interval"] == pytest.approx(
                expected[metric]["interval"], abs=1e-5
            )
    assert json.loads((workdir / "eval-test-best.json").read_text())["label_baselines"] == plain(result)
    text = format_table(done.result)
    lines = [line for line in text.splitlines() if " rate" in line and "AUC" in line]
    assert len(lines) == 3 and max(map(len, text.splitlines())) < 100
    of_title = result["title_rate"]["ctr"]
    assert f"title rate  AUC {of_title['auc']['value']:.4f} [" in lines[0]
    assert lines[0].endswith(
        f"in users {of_title['gauc']['value']:.4f}, log loss {of_title['log_loss']['value']:.4f}"
    )
    page = (workdir / "report.html").read_text()
    assert "ctr: both rates" in page and f"{result['both']['ctr']['auc']['value']:.4f}" in page


def test_files_of_an_evaluation_hold_what_a_difference_needs(labelled, tmp_path):
    """Two runs on the same queries: the second has the predictions of the first plus noise."""
    workdir, done = labelled
    first = per_user.read(workdir)
    assert first.label_heads == ["ctr", "completion"]
    stored, own = first.predictions("ctr"), done.labels["ctr"]
    assert stored.loss == own.loss == "bce"
    assert all(np.array_equal(a, b) for a, b in zip(stored[1:], own[1:], strict=True))
    result = per_user.compare(first, first)
    assert [*result["labels"]] == ["auc/ctr", "gauc/ctr"]  # none of a head of squared error
    same = result["labels"]["auc/ctr"]
    assert same["first"] == same["second"] == done.result["labels"]["ctr"]["auc"]["value"]
    assert same["users"]["mean"] == 0 and same["users"]["interval"] == (0.0, 0.0)
    assert same["users"]["t_p"] == 1.0
    assert "AUC in users" in compare.table(result) and "enabled/ndcg@1" in compare.table(result)


# ---------------------------------------------------------------- by hand


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a run with one head, `thumb`, and returns its results."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    label = (rng.random(len(user)) < 0.3).astype(np.float32)
    known = (rng.random(len(user)) < 0.8).astype(np.uint8)

    def write(name, prediction, label=label * known, user=user, loss="bce", head="thumb"):
        folder = tmp_path / name
        folder.mkdir()
        keys = np.array([f"u{u:02}" for u in user])
        columns = {
            f"prediction/{head}": np.float32(prediction),
            f"label/{head}": label,
            f"known/{head}": known,
        }
        queries = pl.DataFrame({"user": keys, **columns})
        pl.DataFrame({"user": np.unique(keys)}).write_parquet(folder / "eval-test-best-per-user.parquet")
        queries.write_parquet(folder / "eval-test-best-per-query.parquet")
        result = {"dataset": "d", "labels": {head: {"loss": loss}}}
        (folder / "eval-test-best.json").write_text(json.dumps(result))
        return per_user.read(folder)

    write.label, write.known, write.user = label, known != 0, user
    return write


def test_a_difference_of_auc_is_paired_by_the_resamples(write):
    """The interval of the difference equals that of a loop over resamples, for runs without any list."""
    noise = np.random.default_rng(1).normal(size=(3, len(write.label)))
    good, worse = write.label + noise[0], write.label + noise[0] + 0.5 * noise[1]
    result = per_user.compare(write("a", good), write("b", worse))
    assert result["metrics"] == {}
    compared = result["labels"]["auc/thumb"]
    known, rng = write.known, np.random.default_rng(0)
    label = write.label[known]

    def auc(score, count):
        copies = np.repeat(np.arange(known.sum()), count[write.user[known]])
        s, y = np.float32(score)[known][copies], label[copies]
        s, t = s[y == 1][:, None], s[y == 0][None]
        return ((s > t) + 0.5 * (s == t)).mean()

    counts = [np.bincount(rng.integers(0, 60, 60), minlength=60) for _ in range(1_000)]
    differences = [auc(good, count) - auc(worse, count) for count in counts]
    assert compared["first"] == pytest.approx(auc(good, np.ones(60, int)))
    assert compared["users"]["interval"] == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    assert compared["users"]["t"] == pytest.approx(compared["users"]["mean"] / np.std(differences, ddof=1))
    text = compare.table(result)
    assert f"{compared['users']['mean']:+.4f}" in text and "AUC in users" in text and "Wilcoxon" not in text


def test_runs_whose_queries_or_labels_differ_are_not_compared(write):
    score = np.random.default_rng(2).normal(size=len(write.label))
    first = write("a", score)
    with pytest.raises(InputError, match=r"b: its head 'thumb' predicts another label than that of .*a; all"):
        per_user.compare(first, write("b", score, label=1 - write.label))
    moved = np.sort(np.where(np.arange(len(score)) == 0, 1, write.user))
    with pytest.raises(InputError, match=r"c: its queries differ from the queries of .*a; evaluate both"):
        per_user.compare(first, write("c", score, user=np.r_[moved[1:], moved[:1]]))
    with pytest.raises(InputError, match=r"d: has no list in common with .*a"):
        per_user.compare(first, write("d", score, head="other"))
    with pytest.raises(InputError, match="e: has no list in common"):
        per_user.compare(first, write("e", score, loss="mse"))


def test_a_head_without_known_labels_or_without_numbers_has_no_metrics():
    user, none, every = np.array([0, 0, 1]), np.zeros(3, bool), np.ones(3, bool)
    label = np.array([0.0, 1.0, 0.0], np.float32)
    heads = {
        "unknown": HeadPredictions("bce", label, label, none),
        "broken": HeadPredictions("bce", np.array([0.0, np.nan, 1.0], np.float32), label, every),
        "value": HeadPredictions("mse", label, label, every),
        "score": HeadPredictions("hinge", label, label, every),
    }
    out = label_metrics(heads, user)
    for name in ("unknown", "broken"):
        assert plain(out[name]["auc"]) == {"value": None, "interval": [None, None]}
        assert "calibration" not in out[name]
    assert (out["unknown"]["queries"], out["unknown"]["users"], out["unknown"]["mean"]) == (0, 0, None)
    assert out["value"]["r2"]["value"] == out["value"]["correlation"]["value"] == 1.0
    assert out["score"].keys() == {"loss", "queries", "users", "mean", "auc", "gauc"}
    assert out["score"]["auc"]["value"] == out["score"]["gauc"]["value"] == 1.0
    text = "\n".join(label_lines(out, {}))
    assert "0 queries of 0 users with a known label, mean -" in text
    assert label_metrics({}, user) == {}


def test_predictions_are_the_scores_of_the_first_target():
    scores = np.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    of_head = head_predictions("bce", scores, (np.array([1.0, np.nan]), np.array([True, False])))
    assert of_head.prediction.tolist() == [0.0, 24.0] and of_head.label.tolist() == [1.0, 0.0]
    # A sign is a positive where it is 1, and a count where it is not 0.
    signs = HeadPredictions("bce", np.float32([1, 2, 3]), np.float32([-1, 1, 2]), np.ones(3, bool))
    assert label_metrics({"sign": signs}, np.arange(3))["sign"]["auc"]["value"] == 1.0
    assert math.isfinite(label_metrics({"sign": signs}, np.arange(3))["sign"]["log_loss"]["value"])
