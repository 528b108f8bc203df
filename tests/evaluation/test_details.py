"""Measurements for the report: intervals, groups, calibration bins and example users, by hand."""

import json
import math

import numpy as np
import pytest

from jaxrec.config import schema
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.arrays import Arrays
from jaxrec.evaluation.details import calibration, example_users, groups, measurements
from jaxrec.evaluation.details.grouped_means import GroupedMeans, overall


def test_means_and_intervals_of_groups_by_hand():
    user = np.array([7, 7, 9, 9, 9, 4])
    group = np.array([0, 0, 0, 1, 1, -1])
    means = GroupedMeans(user, group, 3)
    assert means.queries.tolist() == [3, 2, 0] and means.users.tolist() == [2, 1, 0]
    mean, half = means.of(np.array([1.0, 0.0, 1.0, 0.25, 0.75, 100.0]))
    assert mean[:2] == pytest.approx([2 / 3, 0.5]) and math.isnan(mean[2])
    # Residuals of the users of group 0: 1 - 2 * 2/3 and 1 - 2/3, so the sum of their squares is 2/9.
    assert half[0] == pytest.approx(1.959964 * math.sqrt(2 / 1 * 2 / 9) / 3)
    assert np.isnan(half[1:]).all()  # a single user, and none


def test_a_user_with_equal_queries_counts_once():
    """Ten copies of each user's query do not narrow the interval."""
    value, user = np.array([1.0, 0.0, 0.0, 1.0, 1.0]), np.arange(5)
    once = overall(user).of(value).half
    assert overall(np.repeat(user, 10)).of(np.repeat(value, 10)).half == pytest.approx(once)
    # One query per user is the mean's usual standard error.
    assert once[0] == pytest.approx(1.959964 * value.std(ddof=1) / math.sqrt(5))


USER = (FeatureSpec("age", "number", "user", 1), FeatureSpec("plan", "category", "user", 2, 5),
        FeatureSpec("id", "category", "user", 2, 99))  # fmt: skip
LAYOUT = Layout(22, 4, 1, (4, 4, 4, 4), 4, USER)
PLANS = {"plan": ["free", "<b>", "family"], "id": list(range(97))}


@pytest.fixture
def arrays():
    """20 titles, ids 2 to 21, whose popularity is the order of their ids."""
    rank = np.concatenate([[22, 22], np.arange(20)]).astype(np.int32)
    keys = np.arange(500, 520)
    return Arrays(
        keys, np.ones(20), np.ones(22), rank, np.arange(2, 22), np.zeros((22, 0)), np.zeros((22, 0))
    )


@pytest.fixture
def rows():
    rows = np.zeros(4, LAYOUT.query_dtype())
    rows["user"] = [0, 0, 1, 2]
    rows["target"][:, 0] = [2, 3, 4, 21]
    rows["target_completion"][:, 0] = [0.1, 0.95, 0.25, 1.0]
    rows["history_title"][:2] = [[0, 0, 5, 6], [5, 6, 7, 8]]
    rows["history_abandoned"][0] = [0, 0, 1, 0]
    rows["history_completion"][0] = [0, 0, 0.01, 0.5]
    rows["user_categories"] = [[2, 2], [2, 2], [3, 3], [1, 4]]  # the last plan is unknown
    return rows


def test_groups_of_queries_by_hand(rows, arrays):
    by_key = {g.key: g for g in groups.group_queries(rows, arrays, LAYOUT, PLANS, keeps_abandoned=False)}
    assert set(by_key) == {"history", "completion", "popularity", "user/plan"}  # ids have too many values
    named = {key: [g.names[i] if i >= 0 else None for i in g.group] for key, g in by_key.items()}
    assert named["history"] == ["1", "3 to 4", "none", "none"]
    assert named["completion"] == ["under 25%", "95% or more", "25 to 50%", "95% or more"]
    assert named["popularity"] == ["1 (most played)", "1 (most played)", "2", "10 (least played)"]
    assert named["user/plan"] == ["free", "free", "<b>", None]
    kept = groups.group_queries(rows, arrays, LAYOUT, PLANS, keeps_abandoned=True)[0]
    assert kept.names[kept.group[0]] == "2"


def test_a_grouping_with_one_group_is_left_out(rows, arrays):
    rows["target_completion"] = 1.0  # ratings, without watch times
    assert "completion" not in {g.key for g in groups.group_queries(rows, arrays, LAYOUT, {}, True)}


def test_breakdown_adds_up(rows, arrays):
    grouping = groups.group_queries(rows, arrays, LAYOUT, PLANS, keeps_abandoned=True)[2]
    ranks = {"enabled": {"model": np.array([1, 2, 1, 1]), "popularity": np.array([2, 2, 2, 1]),
                         "oracle": np.ones(4)}}  # fmt: skip
    out = measurements.breakdown(grouping, rows["user"], ranks)
    assert out["groups"] == ["1 (most played)", "2", "10 (least played)"]
    assert out["queries"] == [2, 1, 1] and out["users"] == [1, 1, 1]
    assert set(out["values"]) == {"enabled/ndcg@1"} and set(out["values"]["enabled/ndcg@1"]) == {
        "model",
        "popularity",
    }
    mean = out["values"]["enabled/ndcg@1"]["model"]["mean"]
    assert mean == [0.5, 1.0, 1.0]
    assert np.dot(mean, out["queries"]) / 4 == (ranks["enabled"]["model"] == 1).mean()


def test_calibration_bins_by_hand():
    predicted = np.repeat([0.1, 0.9], 50)
    observed = np.concatenate([np.ones(10), np.zeros(40), np.ones(45), np.zeros(5)])
    bins = calibration.calibration_bins(predicted, observed, np.arange(100))
    assert bins["count"] == [50, 50]
    assert bins["predicted"] == pytest.approx([0.1, 0.9]) and bins["observed"] == pytest.approx([0.2, 0.9])
    assert bins["error"] == pytest.approx(0.05)
    assert bins["half"][0] == pytest.approx(1.959964 * math.sqrt(50 / 49 * 0.2 * 0.8 / 50))
    ten = calibration.calibration_bins(np.arange(100) / 100, np.zeros(100), np.arange(100))
    assert ten["count"] == [10] * 10


def test_calibration_of_click_and_completion(rows):
    logits = np.full((4, 2, 1, 5), -np.log(4.0))  # a probability of 1/5
    completion = np.zeros((4, 2, 1, 5))
    completion[:, 0, 0, 0] = 0.5
    out = calibration.calibration({"ctr": logits, "completion": completion}, rows)
    for name in ("enabled", "disabled"):  # one of five candidates is the title that was watched
        assert out["click"][name]["predicted"] == pytest.approx([0.2])
        assert out["click"][name]["observed"] == pytest.approx([0.2]) and out["click"][name]["count"] == [20]
    assert out["completion"]["observed"] == pytest.approx([(0.1 + 0.95 + 0.25 + 1.0) / 4])
    assert calibration.calibration({}, rows) == {} == calibration.calibration({"ctr": logits[:0]}, rows[:0])


def test_example_users_have_names_and_no_keys(rows, arrays):
    chosen = example_users.example_queries(rows["user"], 2)
    assert chosen.tolist() == [1, 2]  # the last query of each of the first two users
    names = example_users.names_of_titles(schema.Simulator(), arrays)
    assert names[2:4].tolist() == ["500", "501"]
    names[5] = "<script>"
    top = np.array([[21, 2, 0], [4, 3, 2]])
    ranking = example_users.Ranking(top, np.array([9, 1]), "as recommended")
    out = example_users.describe_examples(rows[[0, 2]], ranking, names, has_completion=True)
    first, second = json.loads(json.dumps(out))["users"]
    assert first["user"] == 1 and first["plays"] == 2 and first["rank"] == 9
    assert first["history"] == [
        {"title": "504", "completion": 0.5, "abandoned": False},
        {"title": "<script>", "completion": pytest.approx(0.01, abs=1e-4), "abandoned": True},
    ]
    assert first["recommended"] == [{"title": "519", "next": False}, {"title": "500", "next": True}]
    assert second["history"] == [] and second["recommended"][0] == {"title": "502", "next": True}
    plain = example_users.describe_examples(rows[[0, 2]], ranking, names, has_completion=False)["users"][0]
    assert plain["history"][0] == {"title": "504"} and plain["next"] == {"title": "500"}


def test_titles_have_the_names_of_their_table(arrays, tmp_path):
    (tmp_path / "titles.csv").write_text("title_id,name\n500,The First\n502,\n")
    source = schema.Tables(interactions="log.csv", titles=str(tmp_path / "titles.csv"))
    names = example_users.names_of_titles(source, arrays)
    assert names[:5].tolist() == ["unknown title", "unknown title", "The First", "501", "502"]


def test_measurements_of_one_checkpoint_are_joined(tmp_path):
    result = {"split": "test", "which": "best"}
    first = {
        "dataset": "d",
        "step": 3,
        "intervals": {"enabled": {"model": {"ndcg@1": 0.1}}},
        "examples": {"users": []},
    }
    second = {
        "dataset": "d",
        "step": 3,
        "intervals": {"catalogue": {"model": {"hr@10": float("nan")}}},
        "examples": None,
    }
    path = tmp_path / "report-test-best.json"
    measurements.write_measurements(tmp_path, result | {"lists": {"enabled": 1}}, first)
    measurements.write_measurements(tmp_path, result | {"lists": {}, "catalogue": 2}, second)
    stored = json.loads(path.read_text())
    assert stored["result"] == result | {"lists": {"enabled": 1}, "catalogue": 2}
    assert stored["intervals"] == {
        "enabled": {"model": {"ndcg@1": 0.1}},
        "catalogue": {"model": {"hr@10": None}},
    }
    assert stored["examples"] is None  # switched off: the examples of an earlier evaluation go
    measurements.write_measurements(tmp_path, result, second | {"step": 4})
    assert set(json.loads(path.read_text())["intervals"]) == {"catalogue"}
