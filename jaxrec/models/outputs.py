"""Outputs of the ranking model: encoded users and histories, scores of heads and of retrieval."""

from typing import Any, NamedTuple

import jax


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
