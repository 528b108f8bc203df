"""Rules of declared labels and rewards.

The functions take the parts of a config that they compare, and import no source and no rule.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from jaxrec.config.declarations import Label, Reward, Signal
from jaxrec.config.rules.declared.signals import PLAY
from jaxrec.config.schema import Config
from jaxrec.config.tree import among, require
from jaxrec.core.registry import ALL_LABEL_RULES, LABEL_RULES

MOST_LABELS = 32  # bits of a row's `label_known`
_CATEGORIES = ("category", "categories")
# Rules by what they read.
THRESHOLDS = ("at_least", "quick")  # of a completion
SECONDS = ("seconds", "completion", *THRESHOLDS)  # the values of a signal of seconds
ZERO_OR_ONE = (
    "happened",
    "positive",
    "at_least",
    "quick",
    "discovery",
    "continues",
    "returned",
    "switched_off",
)  # values
# Values of the other rules: lowest and highest; `completion` lies in [0, 1].
WIDE_VALUES = {"count": (0.0, math.inf), "seconds": (0.0, math.inf), "last": (-math.inf, math.inf)}
AT_REQUEST = ("continues", "discovery")  # read what was before the request, and are final then
PLAYS_ONLY = ("discovery", "continues", "switched_off")
OF_USERS = ("returned",)  # events without a title
_NO_VALUES = ("text", "event")
# A label of these rules on ratings would have no values: plays there have no watch time.
WATCH_TIMES = (*SECONDS, "continues", "switched_off")


class FeatureLike(Protocol):
    """Fields of `config.Feature`."""

    name: str
    kind: str
    where: str


def check_labels(
    labels: Sequence[Label],
    signals: Sequence[Signal],
    features: Iterable[FeatureLike],
) -> None:
    """Check the labels of a config, but not the names of their rules (`check_rules`).

    Args:
        labels: Labels.
        signals: Signals, which have been checked.
        features: Features, which have been checked.

    Raises:
        InputError: One line for the first wrong value.
    """
    by_name = {signal.name: signal for signal in signals}
    categories = [f.name for f in features if f.where == "title" and f.kind in _CATEGORIES]
    check_names("labels", [label.name for label in labels])
    for i, label in enumerate(labels):
        key = f"labels[{i}]"
        among(f"{key}.signal", label.signal, (PLAY, *by_name))
        hours = math.isfinite(label.hours) and label.hours > 0
        require(hours, f"{key}.hours", label.hours, "be a finite number above 0")
        if label.rule in LABEL_RULES:
            _check_rule(key, label, by_name.get(label.signal), categories)


def check_rules(labels: Sequence[Label]) -> None:
    """Check that the rule of each label exists.

    Preparation alone applies rules: a checkpoint is also evaluated where the distribution that brings an own
    rule is not installed.

    Raises:
        InputError: One line for the first unknown rule.
    """
    for i, label in enumerate(labels):
        among(f"labels[{i}].rule", label.rule, ALL_LABEL_RULES)


def check_stored_labels(config: Config) -> None:
    """Check the labels and rewards of a config, and that its rows can store the labels.

    Raises:
        InputError: One line for the first wrong value.
    """
    labels = config.labels
    allowed = f"hold at most {MOST_LABELS} labels, not {len(labels)}"
    require(len(labels) <= MOST_LABELS, "labels", [label.name for label in labels], allowed)
    check_labels(labels, config.signals, config.features)
    check_rewards(config.rewards, labels)
    seconds = {signal.name for signal in config.signals if signal.value == "seconds"}
    for i, label in enumerate(labels if config.rows == "next_item" else ()):
        of_seconds = label.rule == "seconds" or (label.rule == "last" and label.signal in seconds)
        allowed = "not be of seconds for the task next_item, whose rows hold float16; completion is allowed"
        require(not of_seconds, f"labels[{i}].rule", label.rule, allowed)


def _check_rule(key: str, label: Label, signal: Signal | None, categories: Sequence[str]) -> None:
    """Check the fields that a built-in rule reads; `signal` is None for plays."""
    rule = f"with rule={label.rule!r}"
    if label.rule in THRESHOLDS:
        require(0 <= label.at <= 1, f"{key}.at", label.at, f"be a completion in [0, 1] {rule}")
    else:
        readers = " and ".join(THRESHOLDS)
        require(label.at == 0, f"{key}.at", label.at, f"be 0 {rule}: only {readers} read it")
    if label.rule == "discovery":
        allowed = f"be a category feature of titles {rule}: {', '.join(categories) or 'there is none'}"
        require(label.feature in categories, f"{key}.feature", label.feature, allowed)
    else:
        require(
            not label.feature, f"{key}.feature", label.feature, f"be empty {rule}: only discovery reads it"
        )
    if signal is None:
        return
    where = f"{key}.signal"
    require(label.rule not in PLAYS_ONLY, where, label.signal, f"be {PLAY!r} {rule}")
    if label.rule in SECONDS:
        require(signal.value == "seconds", where, label.signal, f"be {PLAY!r} or a signal of seconds {rule}")
    if label.rule in ("last", "positive"):
        allowed = f"be a signal of seconds, numbers or signs {rule}, not of value={signal.value!r}"
        require(signal.value not in _NO_VALUES, where, label.signal, allowed)
    if signal.about == "user":
        allowed = f"be about titles {rule}: a label is of a user and a title"
        require(label.rule in OF_USERS, where, label.signal, allowed)


def check_watch_times(labels: Sequence[Label], why: str) -> None:
    """Refuse labels that read watch times, for a source without them.

    Args:
        labels: Labels that `check_labels` has passed.
        why: End of the message, such as "the source holds ratings".

    Raises:
        InputError: A label reads the watch times of plays.
    """
    for i, label in enumerate(labels):
        reads = label.rule in WATCH_TIMES and label.signal == PLAY
        require(not reads, f"labels[{i}].rule", label.rule, f"not read the watch times of plays: {why}")


def check_rewards(rewards: Sequence[Reward], labels: Sequence[Label]) -> None:
    """Check the rewards of a config.

    Args:
        rewards: Rewards.
        labels: Labels, which have been checked.

    Raises:
        InputError: One line for the first wrong value.
    """
    names = [label.name for label in labels]
    check_names("rewards", [reward.name for reward in rewards])
    for i, reward in enumerate(rewards):
        key = f"rewards[{i}]"
        require(bool(reward.terms), f"{key}.terms", reward.terms, "hold at least one Term")
        for j, term in enumerate(reward.terms):
            where = f"{key}.terms[{j}]"
            require(bool(names), f"{where}.label", term.label, "be a label: the config declares none")
            among(f"{where}.label", term.label, names)
            _check_finite(where, term, ("weight", "at"))
            step = term.shape == "step"
            require(step or term.at == 0, f"{where}.at", term.at, f"be 0 with shape={term.shape!r}")
        _check_finite(key, reward, ("base", "low", "high"))
        require(reward.low < reward.high, f"{key}.low", reward.low, f"be below high={reward.high!r}")


def _check_finite(key: str, tree: Any, names: Iterable[str]) -> None:
    for name in names:
        number = getattr(tree, name)
        require(math.isfinite(number), f"{key}.{name}", number, "be a finite number")


def check_names(key: str, names: Collection[str], taken: Collection[str] = ()) -> None:
    """Check that names are identifiers, each of one entry: they name stored fields and metrics.

    Args:
        key: Key of the entries, for the message.
        names: Name of each entry.
        taken: Names that stand for something else.

    Raises:
        InputError: One line for the first wrong name.
    """
    seen: set[str] = set()
    for i, name in enumerate(names):
        allowed = "be a name of letters, digits and '_' that begins with no digit"
        require(name.isascii() and name.isidentifier(), f"{key}[{i}].name", name, allowed)
        require(name not in seen, f"{key}[{i}].name", name, f"be unlike the {key} before it")
        require(name not in taken, f"{key}[{i}].name", name, f"not be one of {', '.join(taken)}")
        seen.add(name)
