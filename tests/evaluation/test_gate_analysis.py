"""Reports on gate weights, on rows made by hand."""

import numpy as np
import pytest

from jaxrec.evaluation import gate_analysis

ROW = np.dtype(
    [
        ("history_title", "<i4", (24,)),
        ("history_abandoned", "<u1", (24,)),
        ("history_age", "<f2", (24,)),
        ("mood", "<f4"),
    ]
)
HOUR, DAY = 3600.0, 86_400.0


def rows(titles, seconds, mood):
    """Return rows with `titles` titles each, the newest played `seconds` ago.

    Each history ends with an abandoned title, played a minute ago.
    """
    out = np.zeros(len(titles), ROW)
    for row, n, s in zip(out, titles, seconds, strict=True):
        row["history_title"][23 - n :] = 7
        row["history_abandoned"][23] = 1
        row["history_age"][23 - n :] = np.log1p(100 * DAY)
        row["history_age"][22] = np.log1p(s)
        row["history_age"][23] = np.log1p(60)
    out["mood"] = mood
    return out


def test_information_is_mutual_information_of_expert_and_user():
    one_hot = np.array([[1.0, 0.0], [0.0, 1.0]])
    report = gate_analysis.gate_report(np.tile(one_hot, (3, 1)), rows([1] * 6, [60] * 6, np.nan), False)
    assert report["entropy"] == 0 and report["entropy_of_mean"] == pytest.approx(np.log(2))
    assert report["information"] == pytest.approx(np.log(2)) and not report["collapsed"]
    assert "by_mood" not in report
    same = np.tile([[0.2, 0.8]], (6, 1))
    report = gate_analysis.gate_report(same, rows([1] * 6, [60] * 6, np.nan), False)
    assert report["mean"] == pytest.approx([0.2, 0.8])
    assert report["entropy"] == pytest.approx(-0.2 * np.log(0.2) - 0.8 * np.log(0.8))
    assert report["information"] == pytest.approx(0) and report["collapsed"]


def test_groups_of_queries():
    titles = [0, 1, 2, 3, 4, 5, 21]
    seconds = [0, 10, HOUR - 60, 2 * HOUR, 2 * DAY, 8 * DAY, 40 * DAY]
    gate = np.stack([np.arange(7) / 10, 1 - np.arange(7) / 10], 1)
    report = gate_analysis.gate_report(gate, rows(titles, seconds, np.arange(7) / 10), False)
    assert {k: v["queries"] for k, v in report["by_history"].items()} == {
        "none": 1, "1": 1, "2": 1, "3 to 4": 2, "5 to 7": 1, "21 or more": 1
    }  # fmt: skip
    assert report["by_history"]["3 to 4"]["weights"] == pytest.approx([0.35, 0.65])
    assert {k: v["queries"] for k, v in report["by_gap"].items()} == {
        "under an hour": 2, "under a day": 1, "under a week": 1,
        "under four weeks": 1, "four weeks or more": 1,
    }  # fmt: skip
    assert report["by_gap"]["four weeks or more"]["weights"] == pytest.approx([0.6, 0.4])
    assert sum(v["queries"] for v in report["by_mood"].values()) == 7 and len(report["by_mood"]) == 5
    assert report["by_mood"]["0.00 to 0.12"]["weights"] == pytest.approx([0.05, 0.95])


def test_abandoned_titles_count_if_model_reads_them():
    held_out = rows([0, 1], [0, 2 * DAY], 0.3)
    report = gate_analysis.gate_report(np.full((2, 2), 0.5), held_out, True)
    assert set(report["by_history"]) == {"1", "2"} and set(report["by_gap"]) == {"under an hour"}
    assert list(report["by_mood"]) == ["0.30 to 0.30"]  # equal moods form one group
