"""Outputs of the ranking model, and the correction of scores for rankings of the catalogue."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class UserEncoding(NamedTuple):
    """Encoded examples, to be scored for any number of candidate lists.

    With the target in the sequence, each candidate has its own encoding: the shapes are [B, C, ...], and the
    encodings are scored for these candidates only.

    Attributes:
        vector_BxF: Mixture (Eq. 11), user features and context, concatenated.
        gate_BxE: Weights of the mixture; ones [B, 1] for one expert.
        clean_gate_BxE: Weights without noise.
        served_BxP: [B, pages] bool, True where the blend of a page orders the titles of the example; None:
            there are no pages.
        intent_BxG: Logits of the intent, very low for padding and unknown; None without an intent.
    """

    vector_BxF: jax.Array
    gate_BxE: jax.Array
    clean_gate_BxE: jax.Array
    served_BxP: jax.Array | None = None
    intent_BxG: jax.Array | None = None


class TitlesByRank(NamedTuple):
    """Titles in the order of popularity.

    Attributes:
        id_V: [V] int32 ids by popularity rank; 0 after the last title.
        number: Number of titles.
    """

    id_V: jax.Array
    number: jax.Array


def titles_by_rank(rank_V: Any) -> TitlesByRank:
    """Return the titles that have a popularity rank.

    Args:
        rank_V: [V] rank of each id; V for padding, unknown and ids without a title.
    """
    ids_V, rank_V = jnp.arange(len(rank_V), dtype=jnp.int32), jnp.asarray(rank_V)
    id_V = jnp.zeros_like(ids_V).at[rank_V].set(ids_V, mode="drop")  # the last places hold padding
    return TitlesByRank(id_V, (rank_V < len(rank_V)).sum())


class EncodedHistories(NamedTuple):
    """Encoded histories of B examples, to which candidates are appended or sessions are added.

    Attributes:
        experts: Results of `SequenceEncoder.encode_history`, one per expert; with sessions, the vectors
            [B, D] of the experts of the history.
        customer_BxF: Vectors of the user features.
        context_BxF: Vectors of the contexts.
        memories: With sessions, the keys and values of the history for each expert of sessions.
    """

    experts: tuple[Any, ...]
    customer_BxF: jax.Array
    context_BxF: jax.Array
    memories: tuple[Any, ...] = ()


class RetrievalScores(NamedTuple):
    """Retrieval scores of the positives and of N titles sampled from all titles.

    Attributes:
        positive_BxK: Scores of the positives.
        negative_BxN: Scores of the sampled titles.
        there_BxN: Bool, False where the sampled title is one of the positives.
    """

    positive_BxK: jax.Array
    negative_BxN: jax.Array
    there_BxN: jax.Array


class RankingOutput(NamedTuple):
    """Scores in at least float32; "ctr" is a logit, "completion" is in (0, 1).

    Attributes:
        scores: Head -> [B, C]; [B, outputs] for a head of the state.
        gate_BxE: Weights of the experts; [B, C, E] with the target in the sequence.
        clean_gate_BxE: Weights without noise.
        retrieved: Retrieval scores in training, if the model has a retrieval head; else None.
    """

    scores: dict[str, jax.Array]
    gate_BxE: jax.Array
    clean_gate_BxE: jax.Array
    retrieved: RetrievalScores | None = None


class Correction(NamedTuple):
    """Rule that orders all titles of the catalogue: `scale` * score of `head` + `log_q_V`.

    A head trained with sampled negatives estimates log p / q, where p is the probability of the next play and
    q the density of the negatives (Bengio & Senecal 2008; Menon et al. 2021). Lists whose negatives are drawn
    with q are ranked by the score. A catalogue, and everything that is shown to a person, is ranked by the
    score plus log q.

    Attributes:
        head: Head whose scores are corrected, one of `Task.catalogue_heads`.
        scale: Factor of the scores; 1 for a head that estimates log p / q.
        log_q_V: [V] float32 log density of the negatives; None: no correction.
        form: Name of the estimate of q, for people.
    """

    head: str
    scale: float = 1.0
    log_q_V: np.ndarray | None = None
    form: str = "none"

    def __call__(self, scores_BxV: jax.Array, id_BxN: jax.Array | None = None) -> jax.Array:
        """Return the corrected scores of all titles, or of the titles `id_BxN` [B, N]."""
        scaled = self.scale * scores_BxV if self.scale != 1.0 else scores_BxV
        if self.log_q_V is None:
            return scaled
        return scaled + (self.log_q_V if id_BxN is None else jnp.asarray(self.log_q_V)[id_BxN])

    def to_json(self) -> dict[str, Any]:
        """Return the head, the scale and the estimate of q, without the array."""
        return {"head": self.head, "scale": self.scale, "form": self.form}
