"""Comparison of runs: users are matched by key, not by order in the files."""

import json

import numpy as np
import polars as pl
import pytest

from jaxrec import compare
from jaxrec.core.errors import InputError
from jaxrec.evaluation import metrics, per_user

USERS = ["ann", "bob", "cay", "dan"]


def write(folder, ndcg, users=USERS, dataset="d", which="best"):
    """Write an evaluated run in which each user has two queries and one list."""
    folder.mkdir(exist_ok=True)
    columns = {"user": users, "queries": [2] * len(users), **{f"enabled/{m}": ndcg for m in
               ("ndcg@1", "ndcg@5", "recall@5", "mrr@5")}}  # fmt: skip
    pl.DataFrame(columns).write_parquet(folder / f"eval-test-{which}-per-user.parquet")
    ranks = np.where(np.repeat(ndcg, 2) == 1.0, 1, 2).astype(np.uint16)
    order = np.argsort(np.repeat(users, 2), kind="stable")
    queries = pl.DataFrame({"user": np.repeat(users, 2)[order], "enabled": ranks[order]})
    queries.write_parquet(folder / f"eval-test-{which}-per-query.parquet")
    (folder / f"eval-test-{which}.json").write_text(json.dumps({"dataset": dataset}))
    return folder


def test_users_are_matched_by_key(tmp_path):
    a = per_user.read(write(tmp_path / "a", [1.0, 0.0, 1.0, 0.0]))
    b = per_user.read(write(tmp_path / "b", [0.0, 0.0, 0.0, 1.0], users=USERS[::-1]))
    assert per_user.difference(a, b, "enabled/ndcg@1").tolist() == [0.0, 0.0, 1.0, 0.0]
    diffs = per_user.compare(a, b)["metrics"]
    assert list(diffs) == [f"enabled/{m}" for m in ("ndcg@1", "ndcg@5", "recall@5", "mrr@5")]
    assert (diffs["enabled/ndcg@1"]["users"]["mean"], diffs["enabled/ndcg@1"]["users"]["zeros"]) == (0.25, 3)
    queries = diffs["enabled/ndcg@1"]["queries_as_the_paper"]
    assert (queries["n"], queries["mean"], queries["zeros"]) == (8, 0.25, 6)


def test_catalogue_ranks_are_compared_by_catalogue_metrics(tmp_path):
    runs = []
    for name, ranks in (("a", [1, 11]), ("b", [2, 1])):
        folder = write(tmp_path / name, [1.0, 0.0], users=["ann", "bob"])
        hits = {f"catalogue/{m}": f(np.array(ranks)) for m, f in metrics.FULL.items()}
        path = folder / "eval-test-best-per-user.parquet"
        pl.DataFrame({"user": ["ann", "bob"], "queries": [1, 1], **hits}).write_parquet(path)
        queries = pl.DataFrame({"user": ["ann", "bob"], "catalogue": np.array(ranks, np.uint32)})
        queries.write_parquet(folder / "eval-test-best-per-query.parquet")
        runs.append(per_user.read(folder))
    diffs = per_user.compare(*runs)["metrics"]
    assert list(diffs) == [f"catalogue/{m}" for m in metrics.FULL]
    assert diffs["catalogue/hr@10"]["users"]["mean"] == -0.5
    assert diffs["catalogue/mrr@1"]["queries_as_the_paper"]["mean"] == 0.0


def test_difference_uses_second_column_and_ignores_rounding(tmp_path):
    a, b = (per_user.read(write(tmp_path / x, [v, 0.0, 1.0, 0.5])) for x, v in (("a", 0.1 + 0.2), ("b", 0.3)))
    assert 0.1 + 0.2 != 0.3  # in floating point
    assert per_user.difference(a, b, "enabled/ndcg@1").tolist() == [0.0] * 4
    assert per_user.difference(a, b, "enabled/ndcg@1", "queries").tolist() == [-1.7, -2.0, -1.0, -1.5]


def test_incomparable_runs_raise_errors(tmp_path):
    a = per_user.read(write(tmp_path / "a", [1.0, 0.0, 1.0, 0.0]))
    fewer = per_user.read(write(tmp_path / "fewer", [1.0, 0.0], users=USERS[:2]))
    with pytest.raises(
        InputError, match=r"fewer: 2 users are in this run or in .*; allowed: runs evaluated on the same"
    ):
        per_user.compare(a, fewer)
    other = per_user.read(write(tmp_path / "other", [1.0, 0.0, 1.0, 0.0], dataset="e"))
    with pytest.raises(InputError, match=r"other: was evaluated on dataset e, .* on d; allowed"):
        per_user.compare(a, other)
    with pytest.raises(InputError, match=r"a: holds nothing where one eval-validation-"):
        per_user.read(tmp_path / "a", "validation")
    write(tmp_path / "a", [1.0, 0.0, 1.0, 0.0], which="last")
    with pytest.raises(
        InputError, match=r"holds eval-test-best-per-user.parquet, eval-test-last.*use --which or --protocol"
    ):
        per_user.read(tmp_path / "a")
    assert per_user.read(tmp_path / "a", which="best").result == {"dataset": "d"}
    (tmp_path / "a" / "eval-test-last-per-query.parquet").unlink()
    with pytest.raises(InputError, match=r"per-query.parquet: does not exist beside"):
        per_user.read(tmp_path / "a", which="last")


def test_results_of_several_protocols_lie_side_by_side(tmp_path):
    a = write(tmp_path / "a", [1.0, 0.0, 1.0, 0.0], which="best-catalogue-kept")
    assert per_user.read(a).columns  # the only one
    write(tmp_path / "a", [0.0, 0.0, 1.0, 0.0])
    assert per_user.read(a).of_user("enabled/ndcg@1").tolist() == [0.0, 0.0, 1.0, 0.0]
    kept = per_user.read(a, protocol="catalogue-kept")
    assert kept.of_user("enabled/ndcg@1").tolist() == [1.0, 0.0, 1.0, 0.0]
    with pytest.raises(InputError, match=r"a: holds nothing where one eval-test-\*-catalogue-per-user"):
        per_user.read(a, protocol="catalogue")
    write(tmp_path / "b", [1.0, 0.0, 1.0, 0.0], which="best-catalogue-kept")
    with pytest.raises(InputError, match="b: holds nothing where one"):
        per_user.read(tmp_path / "b", protocol="")


def test_catalogues_ranked_without_other_titles_are_not_compared(tmp_path):
    runs = []
    for seen in ("all", "kept"):
        folder = write(tmp_path / seen, [1.0, 0.0, 1.0, 0.0])
        result = {"dataset": "d", "catalogue": {"seen": seen}}
        (folder / "eval-test-best.json").write_text(json.dumps(result))
        runs.append(per_user.read(folder))
    with pytest.raises(InputError) as error:
        per_user.compare(*runs)
    assert str(error.value) == (
        f"{tmp_path}/kept: its catalogue was ranked with --seen=kept, that of {tmp_path}/all with --seen=all"
        "; allowed: runs evaluated with the same --seen"
    )
    per_user.compare(runs[0], runs[0])


def test_each_figure_of_the_printed_comparison_is_in_its_column(tmp_path):
    """Tests over users and over queries, t and Wilcoxon: all p-values differ, each in its place."""
    runs = [
        per_user.read(write(tmp_path / name, values))
        for name, values in (("a", [1.0, 1.0, 1.0, 0.0]), ("b", [0.0, 0.0, 1.0, 0.0]))
    ]
    compared = per_user.compare(*runs)
    lines = compare.table(compared).splitlines()
    tests = compared["metrics"]["enabled/ndcg@1"]
    head = lines[1].split("95% interval")[1].split()
    assert head == ["d", "visible", "t", "p", "Wilcoxon", "p", "equal"]
    rows = [line.split() for line in lines if line.startswith("enabled/ndcg@1")]
    for row, test in zip(rows, (tests["users"], tests["queries_as_the_paper"]), strict=True):
        t, t_p, wilcoxon_p, zeros = row[-4:]
        assert t == f"{test['t']:.2f}" and zeros == str(test["zeros"])
        assert (t_p, wilcoxon_p) == (f"{test['t_p']:.2g}", f"{test['wilcoxon_p']:.2g}")
        assert float(row[1]) == test["mean"] == 0.5
    # Differences 1, 1, 0, 0: t = .5 / (.57735 / 2) with 3 degrees of freedom. Of queries twice as many.
    assert tests["users"]["t"] == pytest.approx(3**0.5) and tests["users"]["t_p"] == pytest.approx(
        0.1817, abs=1e-4
    )
    assert rows[0][-4:] == ["1.73", "0.18", "0.5", "2"] and rows[1][-4:] == ["2.65", "0.033", "0.12", "4"]
    low, high = lines[2].split("[")[1].split("]")[0].split(",")
    assert (float(low), float(high)) == tuple(tests["users"]["interval"]) == (0.0, 1.0)
