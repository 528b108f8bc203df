"""Sampling density: how often training draws each title as a negative.

A head trained with sampled negatives estimates log p / q, where q is the density of the negatives (Bengio &
Senecal 2008; Menon et al. 2021). A ranking of the whole catalogue needs p, so log q is added to the scores.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import FIRST_TITLE, PAD, POOLS, SERVED
from jaxrec.data.storage.dataset import BLOCK_ROWS, Rows

_MAX_ROWS = 1_000_000  # training rows that are counted, a systematic sample of blocks
_BLOCKS = 64  # blocks of rows read at a time


class SamplingDensity(NamedTuple):
    """Expected number of times that an example shows each title as a negative.

    The mean is over all epochs, because `choose_negatives` rotates the columns of the stored pools.
    """

    drawn_V: np.ndarray  # [V] float64, from all pools but the hard pool, whose fills are included
    hard_V: np.ndarray  # [V] float64, as a title that the user abandoned

    def log_density(self, hard_weight: float, smoothing: float) -> np.ndarray:
        """Return log q [V] float32; 0 for padding and unknown.

        Args:
            hard_weight: Weight of the hard negatives in q, in [0, 1].
            smoothing: Positive number of draws added to each title, so that log q is finite.
        """
        out = np.log(self.drawn_V + hard_weight * self.hard_V + smoothing)
        out[:FIRST_TITLE] = 0.0
        return out.astype(np.float32)


def count_negatives(training: Rows, titles: int, mix: tuple[int, ...]) -> SamplingDensity:
    """Count the negatives of the training rows, or of a sample of `_MAX_ROWS` rows.

    Rows of exposures have no pools: no title is drawn.

    Args:
        training: Rows of the ranking task.
        titles: Number of title ids V, with padding and unknown.
        mix: Number of negatives of each pool per example, in the order of `POOLS`.
    """
    drawn, hard = np.zeros(titles), np.zeros(titles)
    if "pool_hard" not in (training.dtype.names or ()):
        return SamplingDensity(drawn, hard)
    blocks = np.unique(
        np.linspace(0, training.blocks - 1, min(training.blocks, _MAX_ROWS // BLOCK_ROWS)).astype(int)
    )
    rows_read = 0
    for group in np.split(blocks, range(_BLOCKS, len(blocks), _BLOCKS)):
        rows = training.read(group).reshape(-1).view(training.dtype)
        rows_read += len(rows)
        filled = rows["pool_hard_filled"] != 0
        num_filled = filled.sum(axis=1, keepdims=True)
        num_hard = filled.shape[1] - num_filled
        real = np.minimum(num_hard, mix[0])
        of_hard = np.where(filled, 0.0, real / np.maximum(num_hard, 1))
        of_fill = np.where(filled, (mix[0] - real) / np.maximum(num_filled, 1), 0.0)
        hard += _weighted_counts(rows["pool_hard"], of_hard, titles)
        drawn += _weighted_counts(rows["pool_hard"], of_fill, titles)
        for name, count in zip(POOLS[1:], mix[1:], strict=False):
            if not count:
                continue
            pool = rows[f"pool_{name}"]
            if name == SERVED:
                served = (pool != PAD).sum(axis=1, keepdims=True)
                share = np.where(pool != PAD, np.minimum(served, count) / np.maximum(served, 1), 0.0)
                drawn += _weighted_counts(pool, share, titles)
            else:
                drawn += np.bincount(pool.reshape(-1), minlength=titles) * (count / pool.shape[1])
    return SamplingDensity(drawn / max(rows_read, 1), hard / max(rows_read, 1))


def _weighted_counts(ids: np.ndarray, weights: np.ndarray, titles: int) -> np.ndarray:
    return np.bincount(ids.reshape(-1), weights.reshape(-1), minlength=titles)
