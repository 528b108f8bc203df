"""Outputs of the ranking model: encoded users and histories, scores of heads and of retrieval."""

from typing import Any, NamedTuple

import jax


class UserEncoding(NamedTuple):
    """Encoded examples, to be scored for any number of candidate lists.

    With the target in the sequence, each candidate has its own encoding: the shapes are [B, C, ...], and the
    encodings are scored for these candidates only.

    Attributes:
        vector_BxF: Mixture (Eq. 11), user features and context, concatenated.
        gate_BxE: Weights of the mixture; ones [B, 1] for one expert.
        clean_gate_BxE: Weights without noise.
    """

    vector_BxF: jax.Array
    gate_BxE: jax.Array
    clean_gate_BxE: jax.Array


class EncodedHistories(NamedTuple):
    """Encoded histories of B examples, to which candidates are appended.

    Attributes:
        experts: Results of `SequenceEncoder.encode_history`, one per expert.
        customer_BxF: Vectors of the user features.
        context_BxF: Vectors of the contexts.
    """

    experts: tuple[Any, ...]
    customer_BxF: jax.Array
    context_BxF: jax.Array


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
        scores: Task -> [B, C].
        gate_BxE: Weights of the experts; [B, C, E] with the target in the sequence.
        clean_gate_BxE: Weights without noise.
        retrieved: Retrieval scores in training, if the model has a retrieval head; else None.
    """

    scores: dict[str, jax.Array]
    gate_BxE: jax.Array
    clean_gate_BxE: jax.Array
    retrieved: RetrievalScores | None = None
