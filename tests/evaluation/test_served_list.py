"""Metrics of the served list: short lists, queries without one, users without one, and comparisons."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from jaxrec.core.errors import InputError
from jaxrec.evaluation import baselines, per_user, results
from jaxrec.evaluation.details.calibration import calibration
from jaxrec.evaluation.details.measurements import intervals

# Three queries of two users: a full list, a list of one title, and none. User 8 has no list at all.
ROWS = np.zeros(3, [("user", "u4"), ("target", "i4", (1,)), ("target_completion", "f4", (1,)),
                    ("list_enabled", "i4", (1, 3)), ("list_served", "i4", (1, 3))])  # fmt: skip
ROWS["user"], ROWS["target"][:, 0] = [0, 0, 1], [9, 8, 7]
ROWS["list_enabled"] = [2, 3, 4]
ROWS["list_served"][:, 0] = [[2, 3, 4], [5, 0, 0], [0, 0, 0]]
SCORES = np.zeros((3, 3, 1, 4))
SCORES[:, 2, 0] = [[2, 3, 1, 0], [1, 0, 5, 5], [0, 9, 9, 9]]  # padding has the best scores
SCORES[:, 0, 0] = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
KEYS = np.array([30, 8])


def evaluation(rows=ROWS, scores=SCORES):
    return SimpleNamespace(
        rows=rows, scores=scores, user_keys=KEYS, lists=("enabled", "served"), next_k=(1,), other_heads={},
        ranked=None, labels={}, observed={}, policy={},
    )  # fmt: skip


def test_padding_does_not_compete_and_queries_without_a_list_do_not_count():
    ranks = results.model_ranks(SCORES, ROWS, ("enabled", "served"))
    assert ranks["served"].tolist() == [2, 1]
    lists = results.model_lists(SCORES, ROWS, 1, ("enabled", "served"))
    assert lists["served"]["ndcg@1"] == 0.5 and lists["served"]["mrr@5"] == 0.75
    assert (lists["served"]["users"], lists["served"]["examples"]) == (1, 2)
    assert (lists["enabled"]["users"], lists["enabled"]["examples"]) == (2, 3)


def test_rows_without_any_slate_have_no_served_list():
    names = ("enabled", "disabled", "served")
    assert results.lists_of_queries(names, ROWS) == names
    assert results.lists_of_queries(names, ROWS[2:]) == names[:2]
    assert baselines.listed(ROWS, "served")[:, 0].tolist() == [True, True, False]


def test_users_without_a_list_have_no_mean_on_it():
    columns = results.per_user(evaluation())
    assert columns["user"].tolist() == [30, 8]
    np.testing.assert_array_equal(columns["served/ndcg@1"], [0.5, np.nan])
    np.testing.assert_array_equal(columns["enabled/ndcg@1"], [0.5, 1.0])
    assert results.per_query(evaluation())["served"].tolist() == [2, 1, 0]


def write(folder, scores):
    folder.mkdir()
    made = evaluation(scores=scores)
    files = per_user.encode("eval-test-best", results.per_user(made), results.per_query(made))
    per_user.write(folder, files)
    (folder / "eval-test-best.json").write_text('{"dataset": "d"}')
    return per_user.read(folder)


def test_runs_are_compared_on_the_queries_that_have_a_list(tmp_path):
    better = SCORES.copy()
    better[0, 2, 0, 0] = 4  # the first query's target is now ahead
    first, second = write(tmp_path / "first", better), write(tmp_path / "second", SCORES)
    compared = per_user.compare(first, second)["metrics"]
    served = compared["served/ndcg@1"]
    assert (served["first"], served["second"]) == (1.0, 0.5)
    assert served["users"]["mean"] == 0.5 and compared["enabled/ndcg@1"]["users"]["mean"] == 0.0
    assert per_user.difference(first, second, "served/mrr@5").tolist() == [0.25]


def test_a_missing_value_of_another_list_is_damage(tmp_path):
    run = write(tmp_path / "run", SCORES)
    file = tmp_path / "run/eval-test-best-per-user.parquet"
    frame = pl.read_parquet(file).with_columns(pl.lit(float("nan")).alias("enabled/ndcg@1"))
    frame.write_parquet(file)
    with pytest.raises(InputError, match="'enabled/ndcg@1' holds values that are no numbers"):
        per_user.read(tmp_path / "run").of_user("enabled/ndcg@1")
    assert np.isnan(run.of_user("served/ndcg@1")).sum() == 1


def test_clicks_are_calibrated_on_what_was_shown():
    logits = np.zeros((3, 3, 1, 4))
    click = calibration({"ctr": logits}, with_disabled())["click"]
    assert click["served"]["observed"] == [2 / 6] and click["served"]["count"] == [6]
    assert click["enabled"]["observed"] == [0.25] and click["enabled"]["count"] == [12]


def with_disabled():
    rows = np.zeros(3, [*ROWS.dtype.descr, ("list_disabled", "i4", (1, 3))])
    for name in ROWS.dtype.names:
        rows[name] = ROWS[name]
    rows["list_disabled"] = [4, 5, 6]
    return rows


def test_intervals_are_those_of_the_listed_queries():
    ranks = {"served": {"model": results.model_ranks(SCORES, ROWS, ("served",))["served"]}}
    half = intervals(ROWS["user"][baselines.listed(ROWS, "served")[:, 0]], ranks)["served"]["model"]
    assert set(half) == {"ndcg@1", "ndcg@5", "recall@5", "mrr@5"}
