"""True choice probability of the titles that an order of the catalogue shows, on a simulated service."""

import numpy as np

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.evaluation_arrays import TruthArrays

COLUMN = "true_choice@10"  # in the metrics of an order


def mean_choice(top: np.ndarray, truth: TruthArrays, row_index: np.ndarray | None = None) -> float | None:
    """Return the mean probability, in [0, 1], that a title shown is the next play of the user.

    The mean is first over the titles of a query, then over the queries whose truth is stored. Ten times the
    value is the expected HR@10 of full lists of ten titles.

    Args:
        top: Ids [Q, k] of the titles shown, 0 for none.
        truth: Truth at some rows of the split.
        row_index: [Q] rows of the queries in the split; None: all of it.

    Returns:
        The mean; None where no query with a stored truth shows a title.
    """
    rows = np.arange(len(top)) if row_index is None else row_index
    _, query, stored = np.intersect1d(rows, truth.rows, assume_unique=True, return_indices=True)
    shown_Qxk = top[query]
    present_Qxk = shown_Qxk > 0
    choice_Qxk = truth.choice[stored[:, None], np.maximum(shown_Qxk - FIRST_TITLE, 0)]
    count_Q = present_Qxk.sum(axis=1)
    sum_Q = np.where(present_Qxk, choice_Qxk, 0.0).sum(axis=1, dtype=np.float64)
    has_titles_Q = count_Q > 0
    return float((sum_Q[has_titles_Q] / count_Q[has_titles_Q]).mean()) if has_titles_Q.any() else None
