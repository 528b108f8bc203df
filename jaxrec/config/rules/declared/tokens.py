"""Rules of tokens: kinds of events in sequences, and the features of their requests."""

import math

from jaxrec.config.rules.declared.signals import PLAY
from jaxrec.config.schema import Config, Data
from jaxrec.config.tree import among, require

PLAYS_ALONE = (PLAY,)
_MOST_KINDS = 32  # a token has a bit for each kind


def token_kinds(config: Config) -> tuple[str, ...]:
    """Return `Layout.token_kinds` of a config; empty where sequences are of plays alone."""
    if config.rows != "next_item" or config.data.tokens == PLAYS_ALONE:
        return ()
    value_of = {PLAY: PLAY} | {signal.name: signal.value for signal in config.signals}
    return tuple(f"{name}:{value_of[name]}" for name in config.data.tokens)


def check_tokens(config: Config) -> None:
    """Raise InputError for kinds of tokens that are no signals, or that no sequence can have."""
    data, signals = config.data, {signal.name: signal for signal in config.signals}
    kinds, minutes = data.tokens, data.merge_minutes
    require(0 <= minutes < math.inf, "data.merge_minutes", minutes, "be a finite number, at least 0")
    for i, name in enumerate(kinds):
        among(f"data.tokens[{i}]", name, (PLAY, *signals))
        require(kinds.index(name) == i, f"data.tokens[{i}]", name, "be unlike the kinds before it")
    require(PLAY in kinds, "data.tokens", kinds, f"hold {PLAY!r}: the targets are plays")
    require(len(kinds) <= _MOST_KINDS, "data.tokens", kinds, f"hold at most {_MOST_KINDS} kinds")
    if kinds == PLAYS_ALONE:
        default = Data().merge_minutes
        allowed = f"be {default:g} with data.tokens={PLAYS_ALONE}: plays are not merged"
        require(minutes == default, "data.merge_minutes", minutes, allowed)
        return
    allowed = f"be {PLAYS_ALONE} with task.name={config.task.name!r}: tokens are of the task next_item"
    require(config.task.name == "next_item", "data.tokens", kinds, allowed)
    rate, allowed = config.sampling.context_dropout, "be 0 with data.tokens: contexts are those of all tokens"
    require(not rate, "sampling.context_dropout", rate, allowed)
    for i, feature in enumerate(config.features):
        allowed = "be category or number in a context of tokens"
        is_allowed = feature.where != "context" or feature.kind in ("category", "number")
        require(is_allowed, f"features[{i}].kind", feature.kind, allowed)
