"""report.html and the page of several runs, from the files of small hand-written workdirs."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from jaxrec.core.errors import InputError
from jaxrec.reporting.pages import elements, figures
from jaxrec.reporting.pages.comparison_page import comparison_page
from jaxrec.reporting.pages.run_files import read_run
from jaxrec.reporting.pages.run_page import write_run_page

LINES = [
    {"step": 1, "epoch": 0.5, "split": "train", "loss": 1.5, "examples_per_second": 100.0, "gate_0": 0.4},
    {"step": 2, "epoch": 1.0, "split": "train", "loss": None, "examples_per_second": 120.0, "gate_0": 0.6},
    {"step": 2, "epoch": 1.0, "split": "validation", "loss": 1.0, "enabled/ndcg@1": 0.2,
     "disabled/ndcg@1": 0.4},
]  # fmt: skip
BINS = {"predicted": [0.1, 0.3], "observed": [0.1, 0.4], "half": [0.05, None], "count": [5, 5], "error": 0.05}
MEASURED = {
    "dataset": "abc123", "step": 4321,
    "intervals": {"enabled": {"model": {"ndcg@1": 0.0123}, "abandoned_rule": {"ndcg@1": 0.0456}}},
    "breakdowns": {
        "user/plan": {
            "title": "plan of the user", "groups": ["<i>free</i>", "$family$"],
            "queries": [1000, 234], "users": [7, 3],
            "values": {"enabled/ndcg@1": {"model": {"mean": [0.25, 0.125], "half": [0.01, None]},
                                          "popularity": {"mean": [0.0625, 0.1], "half": [0.01, 0.01]}}},
        }
    },
    "calibration": {"click": {"enabled": BINS, "disabled": BINS}, "completion": BINS},
    "examples": {
        "order": "as recommended",
        "users": [{"user": 1, "plays": 12, "rank": 4321, "next": {"title": "Next & last", "completion": 0.5},
                   "history": [{"title": "<script>alert(1)</script>", "completion": 0.02, "abandoned": True}],
                   "recommended": [{"title": "Other", "next": False},
                                   {"title": "Next & last", "next": True}]}],
    },
    "data": {"rows": {"read": 9999, "copies": 1, "dropped": {"no <time>": 2}}, "titles": 50,
             "hard_fill_rate": 0.5,
             "splits": {s: {"users": 5, "examples": 6} for s in ("train", "validation", "test")}},
    "environment": {"jax": "0.10.2"},
}  # fmt: skip


@pytest.fixture
def workdir(result, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "test.json").write_text(json.dumps(result | {"name": "<tiny>"}))
    (folder / "config.json").write_text(
        '{"name": "a<b", "train": {"seed": 0}, "model": {"experts": [{"max_len": 7}]}}'
    )
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    (folder / "report-test-best.json").write_text(json.dumps(MEASURED))
    return folder


@pytest.fixture
def light(workdir, result):
    """The workdir without what is drawn, which takes the time."""
    (workdir / "metrics.jsonl").unlink()
    for key in ("gate", "by_hard"):
        del result[key]
    (workdir / "test.json").write_text(json.dumps(result))
    without = {key: value for key, value in MEASURED.items() if key not in ("breakdowns", "calibration")}
    (workdir / "report-test-best.json").write_text(json.dumps(without))
    return workdir


def page(workdir) -> str:
    return write_run_page(workdir).read_text()


def headings(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_report_is_self_contained_and_escaped(workdir):
    text = page(workdir)
    assert headings(text) == ["Candidate lists", "Groups of queries", "Calibration", "Gate", "Training",
                              "Example users", "Data", "Details"]  # fmt: skip
    assert re.findall('href="#([^"]*)"', text)[:8] == re.findall('<section id="([^"]*)"', text)
    assert "src=" not in text and "<link" not in text and "http-equiv" not in text
    svgs = re.findall("<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 9 and all(ElementTree.fromstring(svg).tag.endswith("svg") for svg in svgs)
    assert "<h1>&lt;tiny&gt;</h1>" in text and "a&lt;b" in text
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; (2%, abandoned)" in text
    assert "Next &amp; last (watched next)" in text and "no &lt;time&gt;" in text
    assert "<i>free" not in text and "&lt;i&gt;free&lt;/i&gt;" in text
    assert "expert 1, 7 titles" in text


def test_intervals_stand_beside_the_values_they_belong_to(light):
    text = page(light)
    row = re.search(r"<tr[^>]*><th scope=\"row\">abandoned last</th><td>(.*?)</td>", text)[1]
    assert row == "0.2000<small>± 0.0456</small>"
    assert "<b>0.2500<small>± 0.0123</small></b><span>popularity 0.1250</span>" in text


def test_missing_parts_are_left_out(light):
    (light / "report-test-best.json").write_text(json.dumps(MEASURED | {"step": 1}))  # of another checkpoint
    text = page(light)
    assert headings(text) == ["Candidate lists", "Details"] and "<svg" not in text and "±" not in text
    (light / "test.json").unlink()
    with pytest.raises(InputError, match=r"holds neither test\.json nor eval-"):
        page(light)


def test_no_examples_where_they_are_switched_off(light):
    (light / "report-test-best.json").write_text(
        json.dumps({"dataset": "abc123", "step": 4321, "examples": None})
    )
    assert "Example users" not in headings(page(light)) and "Next &amp; last" not in page(light)


@pytest.mark.parametrize("stored", [False, True])
def test_later_evaluations_are_joined_or_listed(light, result, stored):
    """The result of a later evaluation is in eval-*.json until the next one, and in report-*.json."""
    values = {"hr@1": 0.1, "hr@10": 0.3, "ndcg@10": 0.2, "mrr@10": 0.15, "coverage@10": 1.0}
    catalogue = {
        "model": values,
        "popularity": values,
        "seen": "all",
        "titles": 50,
        "users": 10,
        "examples": 9,
    }
    same = {key: result[key] for key in ("name", "split", "which", "dataset", "step")}
    later = same | {"lists": {}, "catalogue": catalogue, "seconds": 5.0}
    measured = json.loads((light / "report-test-best.json").read_text())
    if stored:
        (light / "report-test-best.json").write_text(json.dumps(measured | {"result": later}))
    else:
        (light / "eval-test-best.json").write_text(json.dumps(later))
    (light / "eval-validation-best.json").write_text(json.dumps(result | {"split": "validation"}))
    text = page(light)
    assert (
        "All titles" in headings(text)
        and "All 50 titles are ranked, all that the user played excluded" in text
    )
    assert "Candidate lists" in headings(text) and "took 62 s" in text
    assert "Other evaluations in the workdir" in text and "eval-validation-best.json" in text


def test_check_json_is_shown_without_its_examples(light):
    statistics = {
        "rows": 100, "first_day": "2024-01-01", "last_day": "2024-02-01", "users": 9, "titles": 50,
        "titles_played": 40,
        "titles_per_user": {"0.5": 3}, "dropped": {"no time": {"rows": 2, "example": "user 4711"}},
        "thresholds": [{"threshold": 0.05, "abandoned": 0.1, "users": 0.5, "hard_fill": 0.25}],
        "completion_histogram": [0.25] * 4,
    }  # fmt: skip
    (light / "check.json").write_text(json.dumps({"statistics": statistics}))
    text = page(light)
    assert "Completion of played titles" in text and "no time" in text and "4711" not in text


def test_series_differ_without_colour():
    values = [figures.Series(f"s{i}", [0.1, 0.2], (), [1, 2]) for i in range(3)]
    svg = figures.curves(values, "epoch", "loss").replace("-", "_")
    assert svg == figures.curves(values, "epoch", "loss").replace("-", "_")  # equal bytes
    assert svg.count("stroke_dasharray") >= 2  # dashed lines besides the solid one
    assert len({(s["linestyle"], s["marker"]) for s in map(figures._style, range(6))}) == 6


def test_names_of_groups_are_no_formulas():
    series = [figures.Series("model", [0.5])]
    assert figures.dots(["$\\bad{$"], {"x": series}).startswith("<svg")


def test_elements_escape_children_and_attributes():
    assert (
        elements.tag("p", "<b>", elements.tag("i", "&"), title='"')
        == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    )
    assert elements.number(None) == elements.number(float("nan")) == "–"
    assert elements.section("a", "A", "", elements.Html("")) == "" == elements.folded("A", "")


def test_runs_side_by_side(light, result, tmp_path):
    second = tmp_path / "second"
    second.mkdir()
    better = json.loads(json.dumps(result))
    better["lists"]["enabled"]["ndcg@1"] = 0.3
    (second / "test.json").write_text(json.dumps(better))
    (second / "config.json").write_text(
        '{"name": "b", "train": {"seed": 1}, "model": {"experts": [{"max_len": 7}]}}'
    )
    users = {
        "n": 10,
        "interval": (0.01, 0.09),
        "t_p": 0.001,
        "wilcoxon_p": 0.002,
        "effect": 0.5,
        "mean": 0.05,
    }
    tests = {"metrics": {"enabled/ndcg@1": {"users": users}, "catalogue/hr@5": {"users": users}}}
    (light / "metrics.jsonl").write_text(json.dumps(LINES[0]))
    runs = [read_run(light), read_run(second), read_run(second)]
    text = comparison_page(runs, [tests, "<no users>"])
    assert headings(text) == ["Metrics", "Paired tests", "Training", "Settings that differ"]
    first = re.search(r"<th scope=\"row\">NDCG@1</th>(.*?)</tr>", text)[1]
    assert first.startswith("<td>0.2500<small>± 0.0123</small></td><td><strong>0.3000</strong></td>")
    assert "B minus A, over 10 users" in text and "+0.0500<small>+0.0100 to +0.0900</small>" in text
    assert "C minus A: no test. &lt;no users&gt;" in text and "HR@5" not in text
    settings = text[text.index("Settings that differ</h2>") :]
    assert "train.<wbr>seed" in settings and "max_len" not in settings and "<wbr>len" not in settings
    assert "different queries" not in text
    other = runs[1]._replace(result=better | {"dataset": "other"})
    assert "different queries" in comparison_page([runs[0], other], ["no"])
