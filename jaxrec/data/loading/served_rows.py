"""Training rows whose slate is known, for a training on served titles alone."""

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import PAD
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import BLOCK_ROWS, Rows, SelectedRows
from jaxrec.data.storage.row_blocks import row_blocks


class RepeatedRows(SelectedRows):
    """Selected rows in memory, repeated in order to another number of rows.

    Args:
        selected: [N] structured rows, at least one.
        rows: Number of rows of the result.
    """

    def __init__(self, selected: np.ndarray, rows: int) -> None:
        super().__init__(selected)
        self._selected, self.rows = len(selected), rows
        self.blocks = -(-rows // BLOCK_ROWS)

    def read_into(self, blocks: np.ndarray, out: np.ndarray) -> None:
        """Copy these blocks, in this order, into `out`."""
        index = [np.arange(b * BLOCK_ROWS, min((b + 1) * BLOCK_ROWS, self.rows)) for b in blocks.tolist()]
        if index:
            np.take(self._words, np.concatenate(index) % self._selected, axis=0, out=out)


def training_rows(rows: Rows, layout: Layout, pool_mix: tuple[int, ...] | None) -> Rows:
    """Return the rows that a run trains on: all, or those with a slate where every negative is a served one.

    A row without negatives would only teach that a title was played. Rows with a slate are repeated in turn
    to the number of all rows, so that an epoch has the same steps whatever share of the slates is known. They
    are held in memory.

    Args:
        rows: Rows of the training split.
        layout: Layout of the rows.
        pool_mix: Number of negatives of each pool per example; None: the task has no pools.

    Raises:
        InputError: No row has a slate.
    """
    if pool_mix is None or not layout.has_served or any(pool_mix[:-1]):
        return rows
    parts = [block[block["pool_served"][:, 0] != PAD] for block in row_blocks(rows)]
    selected = np.concatenate([np.zeros(0, rows.dtype), *parts])
    if not len(selected):
        raise InputError(
            "sampling.mix.served=1: no training request has a slate; allowed: less than 1, or a log of "
            "impressions that holds some"
        )
    return RepeatedRows(selected, rows.rows)
