"""Specification of a head of the ranking model: what it scores, and the term of the loss that trains it."""

from typing import NamedTuple

from jaxrec.core.registry import HEADS


class HeadSpec(NamedTuple):
    """A head of the ranking model, and its term of the loss.

    Attributes:
        name: Name of the head and of its scores.
        term: Name of the term in metrics, weights and messages.
        target: "module:object" of the term, a `losses.ranking.HeadTerm`.
        weight: Weight of the term in the total.
        on: "pair": a score of each candidate; "state": scores of the user's state alone.
        outputs: Number of scores of a state; 1 for a pair.
        sigmoid: True for a score in (0, 1), False for a logit or an unbounded value.
        ranks: True if the scores order titles by default.
        drawn: True if the term reads the scores of drawn titles too, and not of the positives alone.
        last_bias: False if the term depends only on differences of scores.
        loss: Loss of a declared head; empty for the heads of the paper.
        of: What a declared head learns: a label, "reward:<name>" or "title:<feature>".
        personalised: True to weigh the term of a declared head by Eq. 13.
        share: Share of the entries of a declared head's term that are known in the training rows, in (0, 1].
    """

    name: str
    term: str
    target: str
    weight: float = 1.0
    on: str = "pair"
    outputs: int = 1
    sigmoid: bool = False
    ranks: bool = True
    drawn: bool = True
    last_bias: bool = True
    loss: str = ""
    of: str = ""
    personalised: bool = True
    share: float = 1.0


def paper_head(name: str, weight: float = 1.0) -> HeadSpec:
    """Return the specification of a head of the registry.

    Args:
        name: Key of `registry.HEADS`.
        weight: Weight of its term.
    """
    entry = HEADS[name]
    return HeadSpec(
        name, entry.weight, entry.target, weight, sigmoid=not entry.ranks, ranks=entry.ranks,
        drawn=entry.ranks, last_bias=name != "ranking",
    )  # fmt: skip
