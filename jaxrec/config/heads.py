"""Heads of the ranking model: what they score, the term that trains them, and the labels that they read."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from jaxrec.config.declarations import Head, Label, Reward
from jaxrec.core import rewards
from jaxrec.core.registry import HEADS
from jaxrec.core.row_format import label_is_known

INTENT = "intent"  # name and term of the head of `objective.intent`
REWARD, TITLE = "reward:", "title:"  # prefixes of `Head.of`; without one it is a label
KIND = "token:kind"  # `Head.of` of the kinds of the next token
FILLED = "filled:"  # prefix of a label whose share of known entries counts predictions too


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


class Page(NamedTuple):
    """Requests that a blend serves.

    Attributes:
        blend: Name of the blend.
        where: "user" or "context".
        column: Column of the category in the integer array of `where`.
        id: Id of the value.
        otherwise: Head that orders the titles of other requests.
    """

    blend: str
    where: str
    column: int
    id: int
    otherwise: str


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


class _Declarations(Protocol):
    """Fields of `Config` that declare what heads learn."""

    labels: tuple[Label, ...]
    rewards: tuple[Reward, ...]


class _WithObjective(Protocol):
    """Field of `Config` that declares heads."""

    objective: Any


def label_heads(config: _WithObjective) -> tuple[Head, ...]:
    """Return the trained heads that predict a label or a reward."""
    heads = (head for head in config.objective.heads if head.weight)
    return tuple(head for head in heads if head.of != KIND and not head.of.startswith(TITLE))


def reward_of(of: str, config: _Declarations) -> Reward | None:
    """Return the reward that a head learns, by its `of`; None for a label or a feature."""
    return next((reward for reward in config.rewards if of == REWARD + reward.name), None)


def reward_versions(config: Any) -> dict[str, str]:
    """Return "reward/<name>" -> version, for each reward that a trained head learns.

    Args:
        config: Config of the run.
    """
    learned = [reward_of(head.of, config) for head in label_heads(config)]
    return {f"reward/{reward.name}": rewards.version(reward) for reward in learned if reward}


def labels_read(of: str, config: _Declarations) -> list[Label]:
    """Return the labels that a head reads: its own, or those of its reward."""
    reward = reward_of(of, config)
    names = {of} if reward is None else {term.label for term in reward.terms}
    return [label for label in config.labels if label.name in names]


def reads_filled(of: str, config: _Declarations) -> bool:
    """Return True if a head learns from predicted labels too: of a label, or of a reward with "filled"."""
    reward = reward_of(of, config)
    return reward is None or reward.unknown == "filled"


def head_values(
    of: str, label: Any, label_known: Any, config: _Declarations, stored: Sequence[str], xp: Any,
    label_filled: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Return the values of a label or a reward, and where they are known, [...] each.

    With `label_filled`, predictions count as known if `reads_filled`.

    Args:
        of: `Head.of`: a label, or "reward:<name>".
        label: Values [..., T] of the stored labels.
        label_known: [...] uint32; bit i is set where label i is known.
        config: Config of the run, with its labels and rewards.
        stored: Names of the T stored labels.
        xp: numpy or jax.numpy.
        label_filled: [...] uint32; bit i is set where label i is a prediction. None: predictions are unknown.
    """
    if label_filled is not None and reads_filled(of, config):
        label_known = label_known | label_filled
    y, known = {}, {}
    for name in (read.name for read in labels_read(of, config)):
        i = stored.index(name)
        y[name] = label[..., i].astype(xp.float32)
        known[name] = label_is_known(label_known, i)
    reward = reward_of(of, config)
    return (y[of], known[of]) if reward is None else rewards.value(reward, y, known, xp)
