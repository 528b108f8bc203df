"""The benchmark of heads by history: rows with the first history, and metrics of predictions by hand."""

import numpy as np
import pytest

from benchmarks import first_history
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.evaluation.labels.predictions import HeadPredictions

LAYOUT = Layout(9, 4, 1, (0, 0, 0, 0), 0, (FeatureSpec("like", "number", "interaction", 4),), labels=("up",))


def test_all_rows_of_a_user_have_the_history_of_the_first():
    rows = np.zeros(5, LAYOUT.row_dtype())
    rows["user"], rows["target"][:, 0] = [0, 0, 2, 2, 2], np.arange(5)
    rows["history_title"][:, -1] = rows["history_signals"][:, -1, 0] = [3, 4, 5, 6, 7]
    out = first_history.with_first_history(rows)
    assert out["history_title"][:, -1].tolist() == [3, 3, 5, 5, 5]
    assert out["history_signals"][:, -1, 0].tolist() == [3, 3, 5, 5, 5]
    assert out["target"][:, 0].tolist() == [0, 1, 2, 3, 4] and rows["history_title"][1, -1] == 4


def test_metrics_are_by_head_and_history():
    label, user = np.array([1.0, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 1])
    predicted = {
        name: HeadPredictions("bce", np.array(score), label, np.ones(5, bool))
        for name, score in {"own": [0.2, 0.1, 0.9, 0.8, 0.7], "first": [0.2, 0.1, 0.9, 0.5, 0.7]}.items()
    }
    values = first_history.measure({name: {"up": of} for name, of in predicted.items()}, user)
    assert {key: value.value for key, value in values.items()} == {
        ("up", "own", "AUC"): pytest.approx(4 / 6), ("up", "own", "AUC in users"): pytest.approx(3.5 / 5),
        ("up", "first", "AUC"): pytest.approx(5 / 6), ("up", "first", "AUC in users"): pytest.approx(1),
    }  # fmt: skip
