"""How a gate's weights are summed up, on rows made by hand."""

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
    """Requests that show so many titles, the last of them played so many seconds ago; an abandoned title, a
    minute old, stands after them in every history."""
    out = np.zeros(len(titles), ROW)
    for row, n, s in zip(out, titles, seconds, strict=True):
        row["history_title"][23 - n :] = 7
        row["history_abandoned"][23] = 1
        row["history_age"][23 - n :] = np.log1p(100 * DAY)
        row["history_age"][22] = np.log1p(s)
        row["history_age"][23] = np.log1p(60)
    out["mood"] = mood
    return out


def test_information_is_what_the_choice_tells_of_the_user():
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = gate_analysis.gate_report(np.tile(sure, (3, 1)), rows([1] * 6, [60] * 6, np.nan), False)
    assert found["entropy"] == 0 and found["entropy_of_mean"] == pytest.approx(np.log(2))
    assert found["information"] == pytest.approx(np.log(2)) and not found["collapsed"]
    assert "by_mood" not in found
    same = np.tile([[0.2, 0.8]], (6, 1))
    found = gate_analysis.gate_report(same, rows([1] * 6, [60] * 6, np.nan), False)
    assert found["mean"] == pytest.approx([0.2, 0.8])
    assert found["entropy"] == pytest.approx(-0.2 * np.log(0.2) - 0.8 * np.log(0.8))
    assert found["information"] == pytest.approx(0) and found["collapsed"]


def test_groups_of_queries():
    titles = [0, 1, 2, 3, 4, 5, 21]
    seconds = [0, 10, HOUR - 60, 2 * HOUR, 2 * DAY, 8 * DAY, 40 * DAY]
    gate = np.stack([np.arange(7) / 10, 1 - np.arange(7) / 10], 1)
    found = gate_analysis.gate_report(gate, rows(titles, seconds, np.arange(7) / 10), False)
    assert {k: v["queries"] for k, v in found["by_history"].items()} == {
        "none": 1, "1": 1, "2": 1, "3 to 4": 2, "5 to 7": 1, "21 or more": 1
    }  # fmt: skip
    assert found["by_history"]["3 to 4"]["weights"] == pytest.approx([0.35, 0.65])
    assert {k: v["queries"] for k, v in found["by_gap"].items()} == {
        "under an hour": 2, "under a day": 1, "under a week": 1,
        "under four weeks": 1, "four weeks or more": 1,
    }  # fmt: skip
    assert found["by_gap"]["four weeks or more"]["weights"] == pytest.approx([0.6, 0.4])
    assert sum(v["queries"] for v in found["by_mood"].values()) == 7 and len(found["by_mood"]) == 5
    assert found["by_mood"]["0.00 to 0.12"]["weights"] == pytest.approx([0.05, 0.95])


def test_abandoned_titles_count_where_they_are_shown():
    made = rows([0, 1], [0, 2 * DAY], 0.3)
    found = gate_analysis.gate_report(np.full((2, 2), 0.5), made, True)
    assert set(found["by_history"]) == {"1", "2"} and set(found["by_gap"]) == {"under an hour"}
    assert list(found["by_mood"]) == ["0.30 to 0.30"]  # a service whose moods are all alike
