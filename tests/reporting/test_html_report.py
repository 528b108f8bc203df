"""The closing table, test.json and report.html of a small hand-written result."""

import json
import xml.etree.ElementTree as ElementTree
from html import escape

import pytest

from jaxrec.reporting import html_report


def test_table_of_rankings_of_all_titles(result):
    values = {"hr@1": 0.1, "hr@10": 0.3, "hr@100": 0.8, "ndcg@10": 0.2, "mrr@10": 0.15,
              "coverage@10": 1.0, "novelty@10": 9.5, "popularity_lift@10": 1.25}  # fmt: skip
    result["catalogue"] = {"model": values, "popularity": values | {"hr@1": 0.02}, "seen": "stored",
                           "titles": 1000, "users": 10, "examples": 1234}  # fmt: skip
    result["lists"] = result["lists_k3"] = {}
    text = html_report.format_table(result)
    assert "PHNS" not in text and "all 1,000 titles, history excluded" in text
    head, model, popular, count = text.split("excluded\n")[1].splitlines()[:4]
    assert head.split() == ["HR@1", "HR@10", "NDCG@10", "MRR@10", "coverage", "novelty", "lift"]
    assert model.split() == ["model", "0.1000", "0.3000", "0.2000", "0.1500", "1.0000", "9.5000", "1.2500"]
    assert popular.split()[:2] == ["popularity", "0.0200"] and count == "1,234 queries of 10 users"
    assert max(map(len, (head, model))) <= 100
    result["catalogue"] |= {"seen": "all", "popularity_7_days": values, "repeated_targets": 34}
    lines = html_report.format_table(result).splitlines()
    assert "all 1,000 titles, all that the user played excluded" in lines
    assert any(line.startswith("popularity 7 days ") for line in lines)
    assert "1,234 queries of 10 users; the target of 34 was played before, and competes" in lines
    result["catalogue"] |= {"model_mmr": values | {"ild@10": 0.75}, "diversity": 0.3}
    lines = html_report.format_table(result).splitlines()
    (mmr,) = (line for line in lines if line.startswith("model mmr  "))
    assert mmr.split()[-2:] == ["1.2500", "0.7500"] and "model mmr: lists chosen with diversity 0.3" in lines
    assert any(line.endswith(" ILD@10") for line in lines) and max(map(len, lines)) <= 100


@pytest.mark.parametrize("filtered, text", [(True, "history excluded"), (False, "history included")])
def test_results_from_before_the_seen_protocols_are_read(result, filtered, text):
    result["catalogue"] = {"model": {}, "filtered": filtered, "titles": 9, "users": 1, "examples": 1}
    assert f"all 9 titles, {text}" in html_report.format_table(result)


def lists(enabled: float, disabled: float) -> dict:
    def one(x: float) -> dict:
        return {
            "ndcg@1": x,
            "ndcg@5": x + 0.1,
            "recall@5": x + 0.2,
            "mrr@5": x + 0.05,
            "users": 10,
            "examples": 1234,
        }

    return {"enabled": one(enabled), "disabled": one(disabled)}


@pytest.fixture
def result() -> dict:
    return {
        "name": "tiny", "split": "test", "which": "best",
        "lists": lists(0.25, 0.5),
        "baselines": {
            "popularity": lists(0.125, 0.4), "abandoned_rule": lists(0.2, 0.4),
            "in_history_rule": lists(0.1, 0.4), "not_in_history_rule": lists(0.21, 0.4),
            "oracle": lists(0.375, 0.6), "oracle_p": lists(0.3, 0.55),
        },
        "lists_k3": lists(0.2, 0.45), "baselines_k3": {"popularity": lists(0.1, 0.35)},
        "gate": {
            "mean": [0.25, 0.75], "entropy": 0.5, "information": 0.0625, "collapsed": False,
            "by_history": {
                "1": {"weights": [0.1, 0.9], "queries": 1234}, "2": {"weights": [0.3, 0.7], "queries": 5},
            },
        },
        "by_hard": {"10": {"ndcg@1": 0.1, "examples": 4}, "2": {"ndcg@1": 0.5, "examples": 1230}},
        "dataset": "abc123", "step": 4321, "seed": 0, "seconds": 62.5,
    }  # fmt: skip


CLOSING = """\
tiny: best checkpoint, step 4,321, test users

K=1                                       PHNS-enabled                       PHNS-disabled
                     NDCG@1   NDCG@5 Recall@5    MRR@5   NDCG@1   NDCG@5 Recall@5    MRR@5
model                0.2500   0.3500   0.4500   0.3000   0.5000   0.6000   0.7000   0.5500
popularity           0.1250   0.2250   0.3250   0.1750   0.4000   0.5000   0.6000   0.4500
abandoned last       0.2000   0.3000   0.4000   0.2500   0.4000   0.5000   0.6000   0.4500
in history first     0.1000   0.2000   0.3000   0.1500   0.4000   0.5000   0.6000   0.4500
in history last      0.2100   0.3100   0.4100   0.2600   0.4000   0.5000   0.6000   0.4500
oracle, p/q          0.3750   0.4750   0.5750   0.4250   0.6000   0.7000   0.8000   0.6500
oracle, p alone      0.3000   0.4000   0.5000   0.3500   0.5500   0.6500   0.7500   0.6000
1,234 queries of 10 users

K=3                                       PHNS-enabled                       PHNS-disabled
                     NDCG@1   NDCG@5 Recall@5    MRR@5   NDCG@1   NDCG@5 Recall@5    MRR@5
model                0.2000   0.3000   0.4000   0.2500   0.4500   0.5500   0.6500   0.5000
popularity           0.1000   0.2000   0.3000   0.1500   0.3500   0.4500   0.5500   0.4000
1,234 queries of 10 users

NDCG@1 by hard negatives in the enabled list (K=1)
hard negatives            2       10
queries               1,230        4
model                0.5000   0.1000

gate: mean weights 0.250, 0.750; entropy 0.500; mutual information 0.0625 nats

enabled: 50% of the way from popularity to the oracle, on NDCG@1
disabled: 50% of the way from popularity to the oracle, on NDCG@1"""


def test_closing_table(result):
    assert html_report.format_table(result) == CLOSING
    assert html_report.format_table(json.loads(json.dumps(result))) == CLOSING  # as read from a file


def test_table_of_one_list_without_an_oracle(result):
    for key in ("lists_k3", "baselines_k3", "by_hard", "gate"):
        del result[key]
    result["lists"] = {"disabled": result["lists"]["disabled"] | {"ndcg@1": float("nan")}}
    other = {"ndcg@1": None, "ndcg@5": 0.5, "recall@5": 0.5, "mrr@5": 0.5}
    popular = result["baselines"]["popularity"]["disabled"]
    result["baselines"] = {"popularity": {"disabled": popular}, "other": {"disabled": other}}
    text = html_report.format_table(result)
    assert text.splitlines()[4:] == [
        "model                     -   0.6000   0.7000   0.5500",
        "popularity           0.4000   0.5000   0.6000   0.4500",
        "other                     -   0.5000   0.5000   0.5000",
        "1,234 queries of 10 users",
    ]


def test_fraction_of_the_gap_between_popularity_and_the_oracle(result):
    assert html_report.oracle_fraction(result) == pytest.approx({"enabled": 0.5, "disabled": 0.5})
    result["baselines"]["oracle"] = lists(0.125, 0.4)  # no gap
    assert html_report.oracle_fraction(result) == {}
    del result["baselines"]["oracle"]
    assert html_report.oracle_fraction(result) == {}


def test_test_json_is_the_result_with_null_for_values_that_are_not_finite(result, tmp_path):
    result["lists"]["enabled"]["mrr@5"] = float("nan")
    path = html_report.write_test_json(tmp_path, result)
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert path.name == "test.json"
    assert written["lists"]["enabled"].pop("mrr@5") is None
    del result["lists"]["enabled"]["mrr@5"]
    assert written == result


LINES = [
    {"step": 1, "epoch": 0.5, "split": "train", "loss": 1.5, "examples_per_second": 100.0, "gate/0": 0.4},
    {"step": 2, "epoch": 1.0, "split": "train", "loss": None, "examples_per_second": 120.0, "gate/0": 0.6},
    {
        "step": 2,
        "epoch": 1.0,
        "split": "validation",
        "loss": 1.0,
        "enabled/ndcg@1": 0.2,
        "disabled/ndcg@1": 0.4,
    },
]


def test_report_is_self_contained(result, tmp_path):
    result["name"] = "<tiny>"
    (tmp_path / "config.json").write_text('{"name": "a<b"}')
    text = html_report.write_html(tmp_path, result, LINES).read_text()
    assert "<h1>&lt;tiny&gt;</h1>" in text and "a&lt;b" in text and "<tiny>" not in text
    assert "src=" not in text and "<link" not in text and "<script" not in text
    titles = (
        "Loss",
        "Validation NDCG@1",
        "Training examples per second",
        "Gate",
        "Gate weights by number of titles in the history",
    )
    titles = (*titles, "NDCG@1 by hard negatives")
    for title in titles:
        after = text[text.index(f"<h2>{escape(title)}") :]
        svg = after[after.index("<svg") : after.index("</svg>") + len("</svg>")]
        assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert ">train gate/0</text>" in text and ">validation enabled/ndcg@1</text>" in text
    # Equal numbers give equal bytes.
    assert html_report.write_html(tmp_path, result, LINES).read_text() == text


def test_run_without_lines_or_hard_negatives_has_a_report(result, tmp_path):
    del result["by_hard"], result["gate"]
    html_report.write_report(tmp_path, result)
    assert (tmp_path / "test.json").exists()
    text = (tmp_path / "report.html").read_text()
    assert "<svg" not in text and "0.2500" in text
