"""Outputs of the ranking model, and the correction of scores for rankings of the catalogue."""

from typing import Any, NamedTuple

import jax
import numpy as np


class UserEncoding(NamedTuple):
    """Encoded examples, to be scored for any number of candidate lists.

    With the target in the sequence, each candidate has its own encoding: the shapes are [B, C, ...], and the
    encodings are scored for these candidates only.
    """

    vector_BxF: jax.Array  # mixture (Eq. 11), user features, context
    gate_BxE: jax.Array  # weights of the mixture; ones [B, 1] for one expert
    clean_gate_BxE: jax.Array  # the weights without noise


class EncodedHistories(NamedTuple):
    """Encoded histories of B examples, to which candidates are appended."""

    experts: tuple[Any, ...]  # results of `SequenceEncoder.encode_history`, one per expert
    customer_BxF: jax.Array
    context_BxF: jax.Array


class RetrievalScores(NamedTuple):
    """Retrieval scores of the positives and of N titles sampled from all titles."""

    positive_BxK: jax.Array
    negative_BxN: jax.Array
    there_BxN: jax.Array  # bool: the sampled title is not one of the positives


class RankingOutput(NamedTuple):
    """Scores in at least float32; "ctr" is a logit, "completion" is in (0, 1)."""

    scores: dict[str, jax.Array]  # task -> [B, C]
    gate_BxE: jax.Array  # [B, C, E] with the target in the sequence
    clean_gate_BxE: jax.Array
    retrieved: RetrievalScores | None = None  # in training, if the model has a retrieval head


class Correction(NamedTuple):
    """Rule that orders all titles of the catalogue: `scale` * score of `head` + `log_q_V`.

    A head trained with sampled negatives estimates log p / q, where p is the probability of the next play and
    q the density of the negatives (Bengio & Senecal 2008; Menon et al. 2021). Lists whose negatives are drawn
    with q are ranked by the score. A catalogue, and everything that is shown to a person, is ranked by the
    score plus log q.
    """

    head: str  # head whose scores are corrected, one of `Task.catalogue_heads`
    scale: float = 1.0  # factor of the scores; 1 for a head that estimates log p / q
    log_q_V: np.ndarray | None = None  # [V] float32 log density of the negatives; None: no correction
    form: str = "none"  # name of the estimate of q, for people

    def __call__(self, scores_BxV: jax.Array, id_BxN: jax.Array | None = None) -> jax.Array:
        """Return the corrected scores of all titles, or of the titles `id_BxN` [B, N]."""
        scaled = self.scale * scores_BxV if self.scale != 1.0 else scores_BxV
        if self.log_q_V is None:
            return scaled
        return scaled + (self.log_q_V if id_BxN is None else self.log_q_V[id_BxN])

    def to_json(self) -> dict[str, Any]:
        """Return the head, the scale and the estimate of q, without the array."""
        return {"head": self.head, "scale": self.scale, "form": self.form}
