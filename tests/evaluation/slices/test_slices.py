"""Quality by slice: groups, intervals, flags and the properties that may explain them."""

import dataclasses

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec
from jaxrec.data.storage.evaluation_arrays import DailyPlays
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.results import per_user, write_result
from jaxrec.evaluation.slices import results
from jaxrec.evaluation.slices.causes import divergence, new_targets
from jaxrec.evaluation.slices.slicing import slice_queries
from jaxrec.evaluation.statistics import tests as student
from jaxrec.reporting.tables.slices import slice_lines


@pytest.fixture(scope="module")
def evaluation(tiny_run):
    return evaluate(tiny_run / "run", EvaluationOptions(lists=("enabled", "disabled"), report_users=0))


@pytest.fixture(scope="module")
def sliced(evaluation, tiny_run):
    return results.with_slices(evaluation, tiny_run / "run", ("segment", "segment*device"))


def test_slices_divide_the_queries_by_the_values_of_a_feature(tiny, evaluation):
    rows, categories = evaluation.rows, tiny.manifest["categories"]
    segment, both = slice_queries(("segment", "segment*device"), rows, tiny.layout, categories)
    column = tiny.layout.category_column("user", "segment")
    values = np.array([*map(str, categories["segment"])], object)[rows["user_categories"][:, column] - 2]
    assert (np.array(segment.names, object)[segment.group] == values).all()
    device = tiny.layout.category_column("context", "device")
    devices = np.array([*map(str, categories["device"])], object)[rows["context_categories"][:, device] - 2]
    expected = [f"{a} {b}" for a, b in zip(values, devices, strict=True)]
    assert [both.names[i] for i in both.group] == expected
    assert sorted(set(expected)) == sorted(both.names)


def test_a_number_is_divided_into_bins_in_its_own_unit(tiny, evaluation):
    spec = FeatureSpec("age", "number", "user", 2, mean=40.0, std=10.0)
    features = tuple(f for f in tiny.layout.features if f.where != "user")
    layout = dataclasses.replace(tiny.layout, features=(*features, spec))
    rows = np.zeros(8, layout.query_dtype())
    rows["user_numbers"][:, 0] = (np.array([20, 25, 30, 35, 40, 45, 50, 55]) - 40) / 10
    (age,) = slice_queries(("age",), rows, layout, {})
    assert np.bincount(age.group).tolist() == [2, 2, 2, 2]
    assert age.names[0] == "age below 28.75" and age.names[-1] == "age from 46.25"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("country",), "slices=country: 'country' is no slice; allowed: segment, "),
        (("segment*nothing",), "'nothing' is no slice"),
        (("segment", "segment"), "slices=segment: is there twice"),
        (("segment*segment",), "is there twice"),
        (("genres",), "'genres' is no slice"),
    ],
)
def test_an_unknown_slice_is_refused(tiny, evaluation, names, message):
    with pytest.raises(InputError, match=message.replace("*", r"\*")):
        slice_queries(names, evaluation.rows, tiny.layout, tiny.manifest["categories"])


def test_metrics_by_slice_are_means_over_the_users_of_the_slice(evaluation, sliced):
    part = sliced.result["slices"]["by"]["segment"]
    table = per_user(evaluation)
    # A user has one segment, so the means of the slices, weighed by users, are the mean of all users.
    for column in ("enabled/ndcg@1", "disabled/mrr@5"):
        of_slices = part["metrics"][column]
        assert np.average(of_slices["mean"], weights=part["users"]) == pytest.approx(table[column].mean())
        for mean, low, high in zip(*(of_slices[k] for k in ("mean", "low", "high")), strict=True):
            assert low <= mean <= high
    assert sum(part["queries"]) == len(evaluation.rows)


def test_the_interval_covers_the_mean_as_often_as_it_claims():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        of = results.summaries({"x": rng.normal(0.3, 1.0, 150)})["x"]
        covered += of["low"] <= 0.3 <= of["high"]
        assert of["high"] - of["low"] == pytest.approx(2 * 1.96 / np.sqrt(150), rel=0.3)
    assert covered >= 50


def test_users_without_a_list_do_not_count():
    x = np.array([1.0, np.nan, 0.0, 1.0, np.nan])
    of = results.summaries({"served/ndcg@1": x}, with_tests=True)["served/ndcg@1"]
    assert of["mean"] == pytest.approx(2 / 3)
    assert of["p"] == pytest.approx(student(x[~np.isnan(x)]).t_p)
    means = results.user_means(np.array([3, 3, 5, 5]), {"a": np.array([1.0, 0.0, np.nan, np.nan])})
    np.testing.assert_array_equal(means["a"], [0.5, np.nan])
    empty = results.summaries({"a": np.array([np.nan])})["a"]
    assert empty == {"mean": None, "low": None, "high": None, "visible": None}


def test_flags_keep_the_false_discovery_rate():
    """Worked by hand: p of four slices in two slicings, q = p * 4 / rank, made monotone from the end."""
    table = lambda p, mean: {"regret": {"a": {"p": p, "mean": mean}}}  # noqa: E731
    parts = {"x": table([0.01, 0.04], [0.2, -0.3]), "y": table([0.02, None, 0.9], [-0.1, None, 0.5])}
    results._flag(parts)
    one, two = (part["regret"]["a"] for part in parts.values())
    assert one["q"] == pytest.approx([0.04, 0.04 * 4 / 3])
    assert two["q"][0] == pytest.approx(0.04) and two["q"][1] is None and two["q"][2] == pytest.approx(0.9)
    assert (one["worse"], one["better"]) == ([True, False], [False, False])
    assert (two["worse"], two["better"]) == ([False, False, False], [True, False, False])


def test_a_run_against_itself_has_no_regret_and_the_oracle_has_one(evaluation, tiny_run):
    workdir = tiny_run / "run"
    both = results.with_slices(evaluation, workdir, ("segment",), workdir).result["slices"]
    regret = both["by"]["segment"]["regret"]["enabled/ndcg@1"]
    assert regret["mean"] == [0.0] * len(regret["mean"])
    assert not any(regret["worse"]) and not any(regret["better"])
    oracle = both["by"]["segment"]["oracle_regret"]["enabled/ndcg@1"]
    overall = evaluation.result["baselines"]["oracle"]["enabled"]["ndcg@1"]
    assert max(oracle["mean"]) > 0.05 and overall > evaluation.result["lists"]["enabled"]["ndcg@1"]


def test_divergence_by_hand():
    assert divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)
    assert divergence(np.array([2.0, 2.0]), np.array([5.0, 5.0])) == 0.0
    half = divergence(np.array([1.0, 0.0]), np.array([1.0, 1.0]))
    middle = [0.75, 0.25]
    expected = 0.5 * np.log2(1 / middle[0]) + 0.5 * (
        0.5 * np.log2(0.5 / middle[0]) + 0.5 * np.log2(0.5 / middle[1])
    )
    assert half == pytest.approx(expected)


def test_a_title_is_new_for_a_week_after_its_first_play():
    rows = np.zeros(4, [("target", "<i4", (1,))])
    rows["target"][:, 0] = [2, 3, 3, 4]
    daily = DailyPlays(np.array([10, 20, 25], np.int32), np.array([2, 3, 3], np.int32), np.ones(3, np.uint32))
    time = np.array([12, 27, 28, 30]) * 86_400
    # 2 was there on the first day of the log; 3 began on day 20; nobody has played 4.
    assert new_targets(rows, daily, time, 5).tolist() == [False, True, False, True]
    assert new_targets(rows, None, time, 5) is None


def test_the_properties_of_slices_are_those_of_their_queries(sliced, tiny):
    part = sliced.result["slices"]["by"]["segment*device"]
    why = part["why"]
    assert all(len(why[key]) == len(part["slices"]) for key in why)
    assert all(0 <= x <= 1 for key in ("unseen", "divergence", "new") for x in why[key])
    # Random subsets of the same size diverge too; small slices more than large ones.
    order = np.argsort(part["queries"])
    assert why["divergence_by_chance"][order[0]] > why["divergence_by_chance"][order[-1]] > 0


def test_the_table_and_the_report_show_every_slice(sliced, tmp_path):
    lines = slice_lines(sliced.result["slices"])
    part = sliced.result["slices"]["by"]["segment"]
    for name in part["slices"]:
        assert sum(line.startswith(f"{name} ") for line in lines) >= 3
    assert not any("nan" in line for line in lines)
    write_result(tmp_path, sliced, False)
    page = (tmp_path / "report.html").read_text()
    assert "enabled/ndcg@1 by segment" in page and "Why, by segment*device" in page
