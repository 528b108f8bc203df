"""True values of the titles that an order of the catalogue shows, on a simulated service."""

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
    _, values = shown_values(top, truth.choice, truth.rows, row_index)
    return float(values.mean()) if len(values) else None


def shown_values(
    top: np.ndarray, values: np.ndarray, stored: np.ndarray, row_index: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean value of the titles shown, for the queries whose truth is stored and that show any.

    Args:
        top: Ids [Q, k] of the titles shown, 0 for none.
        values: [N, V] values of `TruthArrays`.
        stored: [N] rows of the split.
        row_index: [Q] rows of the queries in the split; None: all of it.

    Returns:
        Indices [M] of the queries, and means [M] float64.
    """
    rows = np.arange(len(top)) if row_index is None else row_index
    _, query, at = np.intersect1d(rows, stored, assume_unique=True, return_indices=True)
    shown_Qxk = top[query]
    present_Qxk = shown_Qxk > 0
    value_Qxk = values[at[:, None], np.maximum(shown_Qxk - FIRST_TITLE, 0)]
    count_Q = present_Qxk.sum(axis=1)
    sum_Q = np.where(present_Qxk, value_Qxk, 0.0).sum(axis=1, dtype=np.float64)
    has_titles_Q = count_Q > 0
    return query[has_titles_Q], sum_Q[has_titles_Q] / count_Q[has_titles_Q]
