"""Rows of a split, some blocks at a time."""

from collections.abc import Iterator

import numpy as np

from jaxrec.data.storage.dataset import Rows

_BLOCKS = 16  # blocks in memory at a time


def row_blocks(rows: Rows) -> Iterator[np.ndarray]:
    """Yield the rows of a split as structured arrays [N], so that memory does not grow with their number."""
    for first in range(0, rows.blocks, _BLOCKS):
        blocks = np.arange(first, min(first + _BLOCKS, rows.blocks))
        yield rows.read(blocks).reshape(-1).view(rows.dtype)
