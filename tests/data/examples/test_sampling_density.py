"""Frequencies of titles among the negatives of training rows: by hand, and against the drawn batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import Layout
from jaxrec.data.examples import sampling_density
from jaxrec.tasks.inputs.pool_negatives import choose_negatives

V = 12
LAYOUT = Layout(V, 4, 1, (4, 4, 2, 2), 3, ())
MIX = (2, 2, 1, 1)  # of the pools hard, trending, tailing, random


class MemoryRows:
    """Training rows in memory, as one block."""

    def __init__(self, rows):
        self.rows, self.dtype, self.blocks, self._array = len(rows), rows.dtype, 1, rows

    def read(self, blocks):
        return self._array.view("<u4").reshape(len(self._array), -1)


@pytest.fixture
def rows():
    rows = np.zeros(3, LAYOUT.row_dtype())
    rows["pool_hard"] = [[2, 3, 4, 5], [2, 6, 7, 8], [9, 10, 11, 2]]
    rows["pool_hard_filled"] = [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]
    rows["pool_trending"] = [[2, 3, 4, 5], [3, 4, 5, 6], [2, 4, 6, 8]]
    rows["pool_tailing"] = [[7, 8], [8, 9], [10, 11]]
    rows["pool_random"] = [[9, 10], [10, 11], [3, 5]]
    return rows


def test_frequencies_by_hand(rows):
    density = sampling_density.count_negatives(MemoryRows(rows), V, MIX)
    # Two of four hard titles, then the single one in every epoch, then none.
    assert density.hard_V * 3 == pytest.approx([0, 0, 0.5 + 1, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0, 0])
    # Titles 2 and 9 to 11 from the fills of the third row, 6 to 8 from those of the second.
    fills = np.array([0, 0, 1 / 2, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1 / 2])
    trending = np.array([0, 0, 2, 2, 3, 2, 2, 0, 1, 0, 0, 0]) / 2
    tailing = np.array([0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 1, 1]) / 2
    random = np.array([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 2, 1]) / 2
    assert density.drawn_V * 3 == pytest.approx(fills + trending + tailing + random)
    assert (density.drawn_V + density.hard_V).sum() == pytest.approx(sum(MIX))


def test_frequencies_are_those_of_the_batches_over_the_epochs(rows):
    fields = {name: jnp.asarray(rows[name]) for name in rows.dtype.names if name.startswith("pool")}
    drawn, hard = np.zeros(V), np.zeros(V)
    epochs = 12  # a multiple of every period of rotation
    for epoch in range(epochs):
        ids, is_hard = choose_negatives(fields, MIX, jnp.int32(epoch))
        ids, is_hard = np.asarray(ids), np.asarray(is_hard)
        drawn += np.bincount(ids[~is_hard], minlength=V)
        hard += np.bincount(ids[is_hard], minlength=V)
    density = sampling_density.count_negatives(MemoryRows(rows), V, MIX)
    np.testing.assert_allclose(density.drawn_V, drawn / epochs / len(rows))
    np.testing.assert_allclose(density.hard_V, hard / epochs / len(rows))


def test_log_density_is_zero_for_reserved_ids(rows):
    density = sampling_density.count_negatives(MemoryRows(rows), V, MIX)
    log_q = density.log_density(0.5, 0.01)
    assert (log_q[:FIRST_TITLE] == 0).all() and log_q.dtype == np.float32
    expected = np.log(density.drawn_V + 0.5 * density.hard_V + 0.01)[FIRST_TITLE:]
    np.testing.assert_allclose(log_q[FIRST_TITLE:], expected, rtol=1e-6)
