"""Tables, verdicts and premises of made-up results whose answers are known."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from jaxrec import study as study_command
from jaxrec.core.json_io import dumps, plain
from jaxrec.evaluation import per_user
from jaxrec.studies import markdown, results
from jaxrec.studies.plan import Claim, Premise, ResultTable, Row, Study, every_run

USERS = 40
METRICS = ("ndcg@1", "ndcg@5", "recall@5", "mrr@5")
BLOCKS = ("enabled", "disabled", "enabled_k3", "disabled_k3")


@pytest.fixture
def write_run(tmp_path):
    """Return a function that writes a run with NDCG@1 at `level`, +/- `pattern`."""

    def write(row, seed, level, pattern=0.0, ctr=None, dataset="d"):
        folder = tmp_path / f"{row}-{seed}"
        folder.mkdir()
        user_values = level + pattern * np.where(np.arange(USERS) % 2, 1, -1)
        columns = {f"{block}/{m}": user_values for block in BLOCKS for m in METRICS}
        lists = {b: dict.fromkeys(METRICS, level) | {"users": USERS, "examples": 100} for b in BLOCKS[:2]}
        result = {"dataset": dataset, "lists": lists, "lists_k3": lists, "baselines": {"popularity": lists}}
        if row == "best":
            gate = {"mean": [0.25 + 0.01 * seed, 0.75 - 0.01 * seed], "information": 0.02 - 0.01 * seed}
            result["gate"] = gate | {"entropy": 0.5, "entropy_of_mean": 0.52, "collapsed": seed == 2}
        if ctr is not None:
            columns |= {
                f"{b.replace('abled', 'abled_ctr')}/{m}": user_values * 0 + ctr
                for b in BLOCKS
                for m in METRICS
            }
            by_ctr = {b: dict.fromkeys(METRICS, ctr) for b in BLOCKS[:2]}
            result["other_heads"] = {"ctr": {"lists": by_ctr, "lists_k3": by_ctr}}
        users = [f"u{i:02}" for i in range(USERS)]
        pl.DataFrame({"user": users, **columns}).write_parquet(folder / "eval-test-best-per-user.parquet")
        pl.DataFrame({"user": users}).write_parquet(folder / "eval-test-best-per-query.parquet")
        (folder / "eval-test-best.json").write_text(json.dumps(result))
        return per_user.read(folder)

    return write


def rows(base):
    return (
        Row("best", {}, {"4": "The best", "5": "K=1"}, {("enabled", 1): (0.6, 0.7, 0.9, 0.65)}),
        Row("mid", {}, {"4": "Middling"}, {("enabled", 1): (0.5, 0.6, 0.8, 0.55)}),
        Row("low", {}, {"4": "Lowest"}, against="mid"),
        Row("missing", {}, {"5": "Never run"}),
    )


@pytest.fixture
def study(tiny_config):
    return Study(
        "made up", tiny_config, rows,
        (ResultTable("4", "Table 4"), ResultTable("5", "Table 5", (1, 3))), ("4",),
        (
            Claim("best over mid over low", (("best", "mid"), ("mid", "low"))),
            Claim("low over mid", (("low", "mid"),), ("enabled",), (1, 3)),
            Claim("best over low", (("best", "low"),), ("disabled",)),
            Claim("best over missing", (("best", "missing"),)),
        ),
        (Premise("the gain with moods", "source.mood", "best", "mid"),),
    )  # fmt: skip


@pytest.fixture
def run_results(write_run):
    """Results: `best` beats `mid` for all seeds, `mid` beats `low` only in the mean."""
    return {
        "best": {s: write_run("best", s, 0.5 + 0.001 * s, 0.05, ctr=0.31) for s in range(3)},
        "mid": {s: write_run("mid", s, 0.4, 0.02) for s in range(3)},
        "low": {s: write_run("low", s, (0.35, 0.42, 0.37)[s], 0.02) for s in range(3)},
        "best-mood-0": {0: write_run("best-mood-0", 0, 0.4, 0.01, dataset="e")},
        "mid-mood-0": {0: write_run("mid-mood-0", 0, 0.42, 0.02, dataset="e")},
    }


def test_table_rows_have_spreads_and_differences(study, run_results):
    result = results.compute_results(study, ("4",), run_results)
    assert [*result["tables"]] == ["4"] and result["premises"] == []
    table = result["tables"]["4"]
    assert [row["label"] for row in table["rows"]] == ["The best", "Middling", "Lowest"]
    best, mid, low = table["rows"]
    assert best["figures"]["enabled"]["ndcg@1"] == pytest.approx({"mean": 0.501, "sd": 0.001})
    assert best["figures"].keys() == set(BLOCKS) and best["paper"] == {
        "enabled": {"ndcg@1": 0.6, "ndcg@5": 0.7, "recall@5": 0.9, "mrr@5": 0.65}
    }
    assert best["other_heads"]["ctr"]["disabled"]["mrr@5"] == {"mean": 0.31, "sd": 0.0}
    assert best["differences"] == {} and (mid["against"], low["against"]) == ("best", "mid")
    assert mid["differences"]["enabled"]["over_users"]["mean"] == pytest.approx(-0.101)
    assert low["differences"]["enabled"]["over_users"]["mean"] == pytest.approx(-0.02)
    assert (table["users"]["enabled"], table["queries"]["enabled"]) == (USERS, 100)
    parts = [row["differences"]["enabled"] for row in (mid, low)]
    assert table["visible"]["enabled"] == {
        over: max(part[f"over_{over}"]["smallest"] for part in parts) for over in ("users", "seeds")
    }


def test_verdicts(study, run_results):
    claims = {
        (c["claim"], c["list"], c["next_k"]): c
        for c in results.compute_results(study, ("4",), run_results)["claims"]
    }
    assert claims.keys() == {
        ("best over mid over low", "enabled", 1), ("best over mid over low", "disabled", 1),
        ("low over mid", "enabled", 1), ("low over mid", "enabled", 3), ("best over low", "disabled", 1),
    }  # fmt: skip
    chain = claims["best over mid over low", "enabled", 1]
    assert [part["verdict"] for part in chain["parts"]] == ["shown", "not significant"]
    assert chain["verdict"] == "not significant"
    assert [part["paper"] for part in chain["parts"]] == [0.1, None]
    # Over users, `low` is clearly below `mid`; the seeds' differences -.05, +.02, -.03 do not show it.
    low = claims["low over mid", "enabled", 1]["parts"][0]
    assert low["over_users"]["t_p"] < 1e-9 < 0.05 < low["over_seeds"]["p"]
    assert claims["best over low", "disabled", 1]["verdict"] == "shown"


def test_a_user_counts_once_whatever_the_number_of_seeds(study, run_results):
    """Tests over users are of 40 means over the seeds, those over seeds of three means over the users."""
    claims = results.compute_results(study, ("4",), run_results)["claims"]
    part = next(c for c in claims if c["claim"] == "best over mid over low")["parts"][0]
    sign = np.where(np.arange(USERS) % 2, 1, -1)
    by_user = [sum((0.5 + 0.001 * s + 0.05 * x) - (0.4 + 0.02 * x) for s in range(3)) / 3 for x in sign]
    mean = sum(by_user) / USERS
    sd = math.sqrt(sum((d - mean) ** 2 for d in by_user) / (USERS - 1))
    users, seeds = part["over_users"], part["over_seeds"]
    assert (users["n"], seeds["n"]) == (USERS, 3)
    assert (users["mean"], users["sd"]) == pytest.approx((mean, sd), rel=1e-6)
    assert users["t"] == pytest.approx(mean / sd * math.sqrt(USERS), rel=1e-6)
    # The bootstrap's interval is within a tenth of that of the normal law; of 120 values it would be .58 as
    # wide.
    half = 1.96 * sd / math.sqrt(USERS)
    assert users["interval"] == pytest.approx((mean - half, mean + half), abs=0.2 * half)
    by_seed = [0.1, 0.101, 0.102]
    assert (seeds["mean"], seeds["sd"]) == pytest.approx((0.101, 0.001), rel=1e-6)
    # Student's t at 97.5% with two degrees of freedom is 4.3027.
    half = 4.302653 * np.std(by_seed, ddof=1) / math.sqrt(3)
    assert seeds["interval"] == pytest.approx((0.101 - half, 0.101 + half), rel=1e-6)


def test_rows_are_also_compared_by_a_common_head(study, run_results):
    """`best` ranks by another head; by the CTR head of both rows it is below `mid`."""
    claims = results.compute_results(study, ("4",), run_results)["claims"]
    chain = next(c for c in claims if c["claim"] == "best over mid over low")
    (by_ctr,) = chain["by_ctr_head"]  # mid and low have one head each
    assert (by_ctr["better"], by_ctr["head"], by_ctr["verdict"]) == ("best", "ctr", "reversed")
    assert by_ctr["over_users"]["mean"] == pytest.approx(0.31 - 0.4)
    assert not any(c["by_ctr_head"] for c in claims if c["claim"] == "low over mid")


def test_a_premise_has_a_point_per_value_with_results(study, run_results):
    (premise,) = results.compute_results(study, ("4", "premise"), run_results)["premises"]
    points = premise["points"]["enabled"]
    assert [point["value"] for point in points] == [0.0, 1.0]  # no runs at 2
    assert [point["over_users"]["mean"] for point in points] == pytest.approx([-0.02, 0.101])
    assert [point["over_seeds"]["n"] for point in points] == [1, 3]


def test_rows_of_two_datasets_are_not_compared(study, run_results):
    run_results["low"] = run_results["mid-mood-0"]
    result = results.compute_results(study, ("4",), run_results)
    assert result["tables"]["4"]["rows"][2]["differences"]["enabled"] is None
    assert not any("low" in claim["claim"] for claim in result["claims"])


def test_a_row_names_the_row_that_it_starts_from(study, run_results, tmp_path):
    """In its table by the label, elsewhere by the name; figures and claims are those of any row."""
    chain = {"mid": "best", "low": "missing"}
    tuned = replace(
        study, rows=lambda base: tuple(replace(r, after=chain.get(r.name, "")) for r in rows(base))
    )
    result = results.compute_results(tuned, ("4",), run_results)
    assert [row["after"] for row in result["tables"]["4"]["rows"]] == ["", "best", "missing"]
    assert result["claims"] == results.compute_results(study, ("4",), run_results)["claims"] != []
    header = {
        "study": "made up",
        "date": "2026-01-02",
        "machine": "a machine",
        "seeds": [0],
        "runs": 9,
        "done": 9,
    }
    markdown.write(tmp_path, header | result)
    text = (tmp_path / "study.md").read_text()
    assert "| The best | .5010" in text and "| Lowest, after missing | " in text
    assert "| Middling, after The best | .4000 ± .0000 | " in text


def test_study_json_has_the_edits_of_a_row_and_what_it_starts_from(tiny_config, run_results, tmp_path):
    chain = (Row("best", {}, {"4": "a"}), Row("mid", {"start.anchor": 0.1}, {"4": "b"}, after="best"))
    tuned = Study("chain", tiny_config, lambda base: chain, (ResultTable("4", "Table 4"),), ("4",))
    every = [
        run._replace(workdir=Path(run_results[run.name][run.seed].workdir))
        for run in every_run(tuned, ("4",), 3, tmp_path)
    ]
    result = study_command._result(tuned, ("4",), every)
    assert result["after"] == {"mid": "best"} and (result["runs"], result["done"]) == (6, 6)
    assert result["edits"]["mid"].keys() == {"name", "train.seed", "start.anchor"}
    assert result["edits"]["mid"]["start.anchor"] == 0.1


def test_each_figure_of_a_claim_is_in_its_column():
    users = {"mean": 0.01, "interval": (-0.02, 0.03), "effect": 0.04, "t": 5.5, "t_p": 0.06,
             "wilcoxon_p": 0.07, "zeros": 8, "n": 9, "smallest": 0.1}  # fmt: skip
    seeds = {"mean": 0.11, "sd": 0.12, "p": 0.13, "n": 14, "smallest": 0.15}
    comparison = {"list": "enabled", "next_k": 3, "paper": 0.16, "over_users": users, "over_seeds": seeds}
    cells = markdown._comparison_line("A over B", "shown", comparison).strip("| ").split(" | ")
    assert cells == [
        "A over B", "enabled", "3", "shown", "+.0100", "[-.0200, +.0300]", "+.1600", "+.040", "5.50 (.0600)",
        ".0700 (8 of 9)", "+.1100 ± .1200 (.1300, 14)", ".1000", ".1500",
    ]  # fmt: skip


def test_study_md_and_json(study, run_results, tmp_path):
    header = {"study": "made up", "date": "2026-01-02", "machine": "a machine", "seeds": [0, 1, 2],
             "runs": 15, "done": 11}  # fmt: skip
    result = header | results.compute_results(study, ("4", "5", "premise"), run_results)
    assert json.loads(dumps(result)) == plain(result)
    markdown.write(tmp_path, result)
    text = (tmp_path / "study.md").read_text()
    assert "2026-01-02, a machine; seeds 0, 1, 2; 11 of 15 trainings." in text
    block = text[text.index("## Table 4") : text.index("### PHNS-disabled, K=1")]
    assert "100 queries of 40 users" in block
    cells = " | .6000 | .5010 ± .0010 | .7000 | .5010 ± .0010 | .9000 | .5010 ± .0010 | .6500 |  |  |"
    assert f"| The best | .5010 ± .0010{cells}" in block
    assert "| - by its ctr head | .3100 ± .0000 | - |" in block
    assert re.search(r"\| Middling \| .*\| -\.1010 \| \[-\.1\d+, -\.\d+\] \|\n", block)
    assert re.search(r"\| Lowest \| .*\| -\.0200 to Middling \|", block)
    assert "| popularity | .5000 | - |" in block
    assert re.search(
        r"^Visible in every row's difference: over users \.0\d+, over seeds \.\d+\.$", block, re.M
    )
    assert "| Never run | - | - |" in text and text.count("### PHNS-enabled, K=3") == 1
    assert re.search(r"^\| best over low \| disabled \| 1 \| \*\*shown\*\* \| \+\.1210 \|", text, re.M)
    assert re.search(r"^\| - best over mid \| enabled \| 1 \| shown \| .* \| \+\.1000 \|", text, re.M)
    assert re.search(r"^\| - both by the CTR head \| enabled \| 1 \| reversed \|", text, re.M)
    widths = {len(line.split("|")) for line in text.splitlines() if line.startswith("|")}
    assert widths == {13, 15, 8}  # rows of tables and gates, of claims, of premises: no row has an extra cell
    assert (
        "| best | .2600 ± .0100, .7400 ± .0100 | .5000 ± .0000 | .5200 ± .0000 | .0100 ± .0100 | 1 of 3 |"
        in text
    )
    assert "| mid |" not in text  # no gate
    assert "![the gain with moods](premise-mood-best-mid.svg)" in text
    assert ElementTree.parse(tmp_path / "premise-mood-best-mid.svg").getroot().tag.endswith("svg")
    assert "best over low" in markdown.summary(result) and "shown" in markdown.summary(result)


def test_rows_without_lists_have_no_tables_of_dashes(tmp_path):
    """Policies on real logs are measured by reward models alone."""
    row = {
        "row": "a",
        "label": "A",
        "paper": {},
        "against": "a",
        "after": "",
        "figures": {},
        "differences": {},
    }
    table = {
        "title": "T", "next_k": (1,), "rows": [row | {"seeds": [0]}], "visible": {}, "queries": {},
        "users": {}, "baselines": {}, "labels": {}, "policies": {}, "delays": {},
    }  # fmt: skip
    lines = markdown._table(table, {})
    assert lines == ["", "## T", "", "The rows rank no candidate list, and no truth is known of them."]
    not_run = markdown._table(table | {"rows": [row | {"seeds": []}]}, {})
    assert "### PHNS-enabled, K=1" in not_run
