"""Rules of declared heads and blends, and of what orders the titles."""

import math
import zlib
from typing import Any

from jaxrec.config.declarations import Blend, BlendTerm, Head
from jaxrec.config.heads import KIND, REWARD, TITLE, reward_of
from jaxrec.config.rules.declared.labels import WIDE_VALUES, check_names
from jaxrec.config.schema import Config
from jaxrec.config.tree import among, require
from jaxrec.core.errors import InputError
from jaxrec.core.ids import RETRIEVAL_HEAD, TITLE_ID
from jaxrec.core.registry import HEADS, PAIR_LOSSES, STATE_LOSSES

_CATEGORIES = ("category", "categories")
_TAKEN = (*HEADS, *(entry.weight for entry in HEADS.values()), "entropy", "balance", RETRIEVAL_HEAD, "auto")


def pair_heads(config: Config) -> tuple[str, ...]:
    """Return the names of the trained heads that score candidates, the paper's first."""
    objective = config.objective
    paper = (name for name, entry in HEADS.items() if getattr(objective, entry.weight) > 0)
    return (*paper, *(head.name for head in objective.heads if head.on == "pair" and head.weight > 0))


def check_heads(config: Config) -> None:
    """Raise InputError for the first invalid head or blend, or if nothing orders the titles."""
    heads, blends, evaluate = config.objective.heads, config.evaluate.blends, config.evaluate
    if config.rows == "next_item":
        _check_heads_of_sequences(heads, config)
        allowed = f"be empty with task.name={config.task.name!r}: its only score is that of the next title"
        require(not blends, "evaluate.blends", tuple(blend.name for blend in blends), allowed)
        require(evaluate.ranking_head in ("auto", "ranking", "ctr"), "evaluate.ranking_head",
                evaluate.ranking_head, f"be auto with task.name={config.task.name!r}")  # fmt: skip
        return
    check_names("objective.heads", [head.name for head in heads], _TAKEN)
    for i, head in enumerate(heads):
        _check_head(f"objective.heads[{i}]", head, config)
    pairs = pair_heads(config)
    _check_orders(pairs, config)
    if config.model.head == "dot":
        one = len(pairs) == 1 and pairs[0] in HEADS and not any(head.weight for head in heads)
        allowed = "be matcher unless ctr or ranking is the only task: a dot product is one score"
        require(one, "model.head", "dot", allowed)
    taken = (*_TAKEN, *(head.name for head in heads))
    check_names("evaluate.blends", [blend.name for blend in blends], taken)
    for i, blend in enumerate(blends):
        _check_blend(f"evaluate.blends[{i}]", blend, pairs)
        _check_page(f"evaluate.blends[{i}].where", blend.where, config)
    orders = (*(name for name in pairs if name != "completion"), *(blend.name for blend in blends))
    allowed = f"be auto, or a head with a weight or a blend: {', '.join(orders)}"
    require(evaluate.ranking_head in ("auto", *orders), "evaluate.ranking_head", evaluate.ranking_head,
            allowed)  # fmt: skip


def _check_heads_of_sequences(heads: tuple[Head, ...], config: Config) -> None:
    """Check the heads of a task on sequences: on the states of positions, and of the task next_item."""
    allowed = f"be empty with task.name={config.task.name!r}: its only score is that of the next title"
    has_states = config.task.name == "next_item"
    require(has_states or not heads, "objective.heads", tuple(head.name for head in heads), allowed)
    check_names("objective.heads", [head.name for head in heads], _TAKEN)
    for i, head in enumerate(heads):
        key = f"objective.heads[{i}]"
        allowed = "be state with task.name='next_item': the score of a title is that of the next one"
        require(head.on == "state", f"{key}.on", head.on, allowed)
        allowed = "be False with task.name='next_item': next_item.personalised weighs its titles"
        require(not head.personalised, f"{key}.personalised", head.personalised, allowed)
        _check_head(key, head, config)


def _check_orders(pairs: tuple[str, ...], config: Config) -> None:
    """Check that a head orders the titles; exposures are not ordered, but something must learn from them."""
    ctr = config.objective.ctr
    if config.data.examples == "impressions":
        learns = bool(pairs) or any(head.weight for head in config.objective.heads)
        allowed = (
            "hold a Head with data.examples='impressions': the labels of an exposure are what it teaches"
        )
        require(learns, "objective.heads", (), allowed)
        return
    allowed = "be above 0 where ranking is 0 and no head is on pairs: something must order the titles"
    require(bool(pairs), "objective.ctr", ctr, allowed)
    allowed = "be above 0 where ranking is 0: a completion orders no titles"
    require(pairs != ("completion",), "objective.ctr", ctr, allowed)


def order_by(config: Config, blend: str) -> None:
    """Let a head or a blend order the titles.

    Args:
        config: Config of a run; it is changed.
        blend: Name of a head on pairs or of a blend of the config, or the terms of a new blend, such as
            "ctr=1,like=0.3".

    Raises:
        InputError: There is no such head or blend, or a weight is no number.
    """
    name = blend
    if "=" in blend:
        terms = []
        for part in blend.split(","):
            head, _, weight = part.partition("=")
            try:
                terms.append(BlendTerm(head.strip(), float(weight)))
            except ValueError:
                allowed = "a name, or heads with weights such as ctr=1,like=0.3"
                raise InputError(f"--blend={blend}: {weight!r} is no number; allowed: {allowed}") from None
        name = f"blend_{zlib.crc32(repr(terms).encode()):08x}"
        config.evaluate.blends = (*config.evaluate.blends, Blend(name, tuple(terms)))
    config.evaluate.ranking_head = name
    try:
        check_heads(config)
    except InputError as error:
        raise InputError(f"--blend={blend}: {error}") from None


def _check_head(key: str, head: Head, config: Config) -> None:
    require(0 <= head.weight < math.inf, f"{key}.weight", head.weight, "be at least 0")
    losses = PAIR_LOSSES if head.on == "pair" else STATE_LOSSES
    allowed = f"be one of {', '.join(losses)} with on={head.on!r}"
    require(head.loss in losses, f"{key}.loss", head.loss, allowed)
    if head.on == "state":
        allowed = "be pair with model.target_in_sequence=True: a user has a state for each candidate"
        require(not config.model.target_in_sequence, f"{key}.on", head.on, allowed)
    if head.of == KIND:
        kinds = config.data.tokens
        allowed = "not be of tokens unless data.tokens holds several kinds"
        require(config.rows == "next_item" and len(kinds) > 1, f"{key}.of", head.of, allowed)
        require(head.loss == "softmax", f"{key}.loss", head.loss, f"be softmax with of={head.of!r}")
        return
    if head.of.startswith(TITLE):
        names = [f.name for f in config.features if f.where == "title" and f.kind in _CATEGORIES]
        among(f"{key}.of", head.of, [TITLE + name for name in names if name != TITLE_ID])
        allowed = f"be state with of={head.of!r}: it is a category of the next title, not of a candidate"
        require(head.on == "state", f"{key}.on", head.on, allowed)
        require(head.loss == "softmax", f"{key}.loss", head.loss, f"be softmax with of={head.of!r}")
        return
    known = [label.name for label in config.labels] + [REWARD + reward.name for reward in config.rewards]
    require(bool(known), f"{key}.of", head.of, "be a label or a reward: the config declares none")
    among(f"{key}.of", head.of, known)
    if head.on == "state":
        allowed = f"be bce or mse with of={head.of!r}: it is one number"
        require(head.loss != "softmax", f"{key}.loss", head.loss, allowed)
    low, high = _bounds(head.of, config)
    if head.loss == "bce":
        allowed = f"be mse: {head.of!r} may be outside [0, 1]"
        require(low >= 0 and high <= 1, f"{key}.loss", head.loss, allowed)
    if head.loss in ("hinge", "softmax"):
        allowed = f"be mse: {head.of!r} may be below 0, and it weighs the positives"
        require(low >= 0, f"{key}.loss", head.loss, allowed)


def _bounds(of: str, config: Config) -> tuple[float, float]:
    """Return bounds of the values of a label or a reward; those of an own rule are not known: [0, 1]."""
    reward = reward_of(of, config)
    if reward is not None:
        return reward.low, reward.high
    rule = next(label.rule for label in config.labels if label.name == of)
    return WIDE_VALUES.get(rule, (0.0, 1.0))


def _check_page(key: str, where: str, config: Config) -> None:
    """Check the requests that a blend serves, but not the value, which the dataset has or lacks."""
    if not where:
        return
    places = ("user", "context")
    names = [f.name for f in config.features if f.where in places and f.kind == "category"]
    feature, _, value = where.partition("=")
    allowed = "be FEATURE=VALUE, with a category of the user or of the context: "
    allowed += ", ".join(names) or "there is none"
    require(feature in names and bool(value), key, where, allowed)
    allowed = "be empty with model.target_in_sequence=True, whose candidates have encodings of their own"
    require(not config.model.target_in_sequence, key, where, allowed)


def _check_blend(key: str, blend: Blend, heads: tuple[str, ...]) -> None:
    require(bool(blend.terms), f"{key}.terms", blend.terms, "hold at least one BlendTerm")
    seen: set[str] = set()
    for i, term in enumerate(blend.terms):
        where = f"{key}.terms[{i}]"
        among(f"{where}.head", term.head, heads)
        require(term.head not in seen, f"{where}.head", term.head, "be unlike the heads before it")
        seen.add(term.head)
        weight: Any = term.weight
        require(math.isfinite(weight) and weight != 0, f"{where}.weight", weight, "be a finite number, not 0")
