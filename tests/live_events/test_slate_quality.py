"""Quality of slates by number of segments: ranks as devices display them, and the table."""

import json
import shutil

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.data.loading.left_out import LeftOutTitles, left_out_titles
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.truth.shown_titles import shown_values
from jaxrec.live_events.slates.quality import NO_RANK, displayed, with_segments
from jaxrec.live_events.slates.streamed import UserRanker
from jaxrec.reporting.tables.segments import segment_lines
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import load_checkpoint


@pytest.fixture(scope="module")
def evaluation(tiny_run):
    return evaluate(tiny_run / "run", EvaluationOptions(lists=("catalogue",), report_users=0))


@pytest.fixture(scope="module")
def measured(evaluation, tiny_run, slates_folder):
    return with_segments(evaluation, tiny_run / "run", str(slates_folder)).result["segments"]


def test_ranks_are_those_of_the_titles_that_are_left():
    ids = np.array([[2, 3, 4, 5, 6], [6, 5, 0, 0, 0]])
    seen = LeftOutTitles("all", np.array([2, 9, 3, 4, 5]), np.array([0, 2, 2, 4]), np.array([2, 0, 2, 1]))
    target = np.array([4, 4, 6, 5])
    out = displayed(ids, np.array([0, 0, 0, 1]), target, seen, 3)
    # Query 0 has watched 2 and 9; 1 nothing; 2 has watched 3 and 4; 3 its own target, which competes.
    assert out.ranks.tolist() == [2, 3, 3, 2]
    assert out.top[:, :5].tolist() == [[3, 4, 5, 6, 0], [2, 3, 4, 5, 6], [2, 5, 6, 0, 0], [6, 5, 0, 0, 0]]
    assert displayed(ids, np.array([0, 0, 0, 1]), target, seen, 2).ranks.tolist() == [2, NO_RANK, NO_RANK, 2]


def test_with_a_segment_for_each_query_ranks_are_those_of_the_model(evaluation, tiny_run, tiny):
    loaded = load_checkpoint(tiny_run / "run", "best")
    table = replicate(loaded.task.title_table(loaded.arrays))
    correction = load_or_fit_correction(tiny_run / "run", loaded, table, tiny)
    eligible, rows = np.arange(202)[None] >= 2, evaluation.rows
    best = UserRanker(loaded.task, table, correction, eligible, 200)(loaded.params, rows)[:, 0]
    left_out = left_out_titles(tiny, "test", rows, "all")
    out = displayed(best, np.arange(len(rows)), rows["target"][:, 0], left_out, 200)
    expected = evaluation.ranked.by_order["model"]
    assert (out.ranks == expected.ranks).mean() > 0.99  # equal scores count against a target there
    assert (out.top == expected.top).all(axis=1).mean() > 0.99


def test_the_table_has_user_slates_popularity_and_each_kappa(measured, slates_folder):
    names = [row["name"] for row in measured["rows"] if not row["name"].endswith(" by log")]
    assert names == ["model", "popularity", "kappa 1", "kappa 4", "kappa 16", "kappa 64", "delivered"]
    rows = {row["name"]: row["metrics"] for row in measured["rows"]}
    for of_row in rows.values():
        for metric in ("ndcg@10", "recall@40"):
            value = of_row[metric]
            assert value["low"] <= value["mean"] <= value["high"] and 0 < value["mean"] < 1
    assert rows["model"]["below_user_slates"]["mean"] == 0
    difference = rows["model"]["ndcg@10"]["mean"] - rows["kappa 4"]["ndcg@10"]["mean"]
    assert rows["kappa 4"]["below_user_slates"]["mean"] == pytest.approx(difference)
    lines = segment_lines(measured)
    assert lines[0].startswith("slates of 40 titles, 83 users") and lines[1].startswith("user slates")
    assert any(line.startswith("delivered (kmeans:4)") for line in lines)
    share = measured["share_of_way"]
    assert ("64 segments: no share" if share is None else f"64 segments cover {share:.0%}") in lines[-1]


def test_delivered_slates_differ_from_those_of_their_rule_by_titles_of_events_alone(measured):
    """The folder has other regions, and leaves out the title of an event, which is the most popular one."""
    rows = {row["name"]: row for row in measured["rows"]}
    assert rows["delivered"]["segments"] == rows["kappa 4"]["segments"] == 4
    assert rows["delivered"]["metrics"]["ndcg@10"] != rows["kappa 4"]["metrics"]["ndcg@10"]


def test_slates_of_another_checkpoint_are_refused(evaluation, tiny_run, slates_folder, tmp_path):
    copy = shutil.copytree(slates_folder, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"model": "0" * 16}))
    with pytest.raises(InputError, match=f"slates of the checkpoint {'0' * 16} of step .*allowed: slates of"):
        with_segments(evaluation, tiny_run / "run", str(copy))
    names = manifest["segments"] | {"names": [*"abcd", "default"]}
    (copy / "manifest.json").write_text(json.dumps(manifest | {"segments": names}))
    with pytest.raises(InputError, match="segments of another dataset"):
        with_segments(evaluation, tiny_run / "run", str(copy))


def test_true_values_are_means_over_the_titles_shown():
    values = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]], np.float32)
    top = np.array([[2, 3], [3, 4], [2, 3], [2, 3], [4, 0]])  # ids start at 2; 0: none
    query, mean = shown_values(top, values, np.array([1, 4]))
    assert query.tolist() == [1, 4] and mean.tolist() == pytest.approx([(0.3 + 0.2) / 2, 0.2])


def test_a_truth_gives_the_true_choice_and_enjoyment(evaluation, tiny_run, slates_folder, monkeypatch):
    """The truth of two queries in the place of that of a dataset with signals."""
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.data.storage.evaluation_arrays import TruthArrays

    rng = np.random.default_rng(0)
    choice = rng.dirichlet(np.ones(200), 2).astype(np.float32)
    truth = TruthArrays(np.array([3, 100]), choice, np.full((2, 200), 0.25, np.float16))
    monkeypatch.setattr(Dataset, "truth", lambda self, split: truth)
    result = with_segments(evaluation, tiny_run / "run", str(slates_folder)).result["segments"]
    rows, head = result["rows"], segment_lines(result)[0]
    assert "true_enjoyment@10" in head.split()  # apart from the column before
    for row in rows:
        assert row["metrics"]["true_enjoyment@10"]["mean"] == pytest.approx(0.25)
    top = evaluation.ranked.by_order["model"].top[truth.rows] - 2
    # Queries 3 and 100 are of two users.
    mean = np.take_along_axis(choice, top, axis=1).mean()
    assert rows[0]["metrics"]["true_choice@10"]["mean"] == pytest.approx(mean, rel=1e-5)
