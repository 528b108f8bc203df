"""Correction of scores for rankings of the whole catalogue.

A head trained with sampled negatives estimates log p / q, where p is the probability of the next play and q
the density of the negatives (Bengio & Senecal 2008; Menon et al. 2021). Lists whose negatives are drawn with
q are ranked by the score; a catalogue, and everything that is shown to a person, by the score plus log q.
"""

from typing import NamedTuple

import numpy as np


class Correction(NamedTuple):
    """Rule that orders all titles of the catalogue: `scale` * score of `head` + `log_q_V`."""

    head: str  # head whose scores are corrected, one of `Task.ranking_heads`
    scale: float  # factor of the scores; 1 for a head that estimates log p / q
    log_q_V: np.ndarray  # [V] float32 log density of the negatives; 0 for padding and unknown
    form: str = "none"  # how log q was obtained
