"""True choice probability of shown titles, by hand."""

import numpy as np
import pytest

from jaxrec.data.storage.evaluation_arrays import TruthArrays
from jaxrec.evaluation.truth.shown_titles import mean_choice

CHOICE = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]], np.float32)
TRUTH = TruthArrays(np.array([1, 4]), CHOICE, CHOICE.astype(np.float16))
TOP = np.array([[2, 3], [3, 4], [2, 3], [2, 3], [4, 0]])  # ids start at 2; 0: none


def test_mean_choice_of_the_queries_with_a_truth():
    assert mean_choice(TOP, TRUTH) == pytest.approx(((0.3 + 0.2) / 2 + 0.2) / 2)


def test_queries_are_rows_of_the_split():
    assert mean_choice(TOP[:2], TRUTH, np.array([0, 4])) == pytest.approx((0.7 + 0.2) / 2)


def test_no_query_with_a_truth_shows_a_title():
    assert mean_choice(TOP[:1], TRUTH) is None
    assert mean_choice(np.zeros((2, 2), int), TRUTH) is None
