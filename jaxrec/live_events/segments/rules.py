"""Segments of users: by features, by k-means over the model's user vectors, one, or each user alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.row_format import Layout
from jaxrec.evaluation.slices.slicing import TIMES, slice_queries, sliceable
from jaxrec.live_events.scenario import MOST_SEGMENTS

FEATURE, KMEANS, ONE, USER = "feature", "kmeans", "one", "user"
_ALLOWED = f"{FEATURE}:NAME,NAME, {KMEANS}:K, {ONE} or {USER}"
OTHER = "other"  # users whose value is unknown


class Rule(NamedTuple):
    """Rule that divides users into segments.

    Attributes:
        kind: One of FEATURE, KMEANS, ONE and USER.
        features: Features of a rule by features.
        clusters: Number of clusters of k-means.
    """

    kind: str
    features: tuple[str, ...] = ()
    clusters: int = 0

    def __str__(self) -> str:
        end = ",".join(self.features) or (str(self.clusters) if self.clusters else "")
        return f"{self.kind}:{end}" if end else self.kind


def parse_rule(text: str) -> Rule:
    """Return the rule of a text, such as "kmeans:64".

    Raises:
        InputError: The text is no rule.
    """
    kind, colon, rest = text.partition(":")
    if kind in (ONE, USER) and not colon:
        return Rule(kind)
    names = tuple(rest.split(","))
    if kind == FEATURE and all(names):
        return Rule(FEATURE, names)
    if kind == KMEANS and rest.isdecimal() and len(rest) < 10 and 1 <= int(rest) <= MOST_SEGMENTS:
        return Rule(KMEANS, clusters=int(rest))
    end = f", K from 1 to {MOST_SEGMENTS}" if kind == KMEANS else ""
    raise InputError(f"--segments={text:.100}; allowed: {_ALLOWED}{end}")


def by_features(
    rule: Rule, groups: Sequence[np.ndarray], layout: Layout, categories: Mapping[str, Sequence]
) -> tuple[list[np.ndarray], list[str]]:
    """Return the segment [N] int32 of each query, group by group, and the names of the segments.

    The bins of a number are those of all queries together.

    Args:
        rule: Rule by features.
        groups: Queries, such as those of training users and those of a split.
        layout: Layout of the queries.
        categories: Feature -> its values, in the order of their ids.

    Raises:
        InputError: The queries have no such feature.
    """
    name, first = TIMES.join(rule.features), groups[0]
    fields = [
        f"{where}_{kind}" for where in ("user", "context") for kind in ("categories", "numbers")
        if f"{where}_{kind}" in (first.dtype.names or ())
    ]  # fmt: skip
    if not fields:
        raise InputError(f"--segments={rule}; allowed: {_ALLOWED}; the rows hold no feature of users")
    joined = np.concatenate([np.asarray(g[fields]) for g in groups])
    known = {f.name for f in sliceable(layout, joined.dtype)}
    unknown = [f for f in rule.features if f not in known]
    if unknown or len(set(rule.features)) < len(rule.features):
        reason = f"{unknown[0]!r} is no feature of users" if unknown else "a feature is there twice"
        raise InputError(f"--segments={rule}: {reason}; allowed: {', '.join(sorted(known)) or 'none'}")
    (slicing,) = slice_queries((name,), joined, layout, categories)
    names = [*slicing.names, *([OTHER] if (slicing.group < 0).any() else [])]
    segment = np.where(slicing.group < 0, len(slicing.names), slicing.group).astype(np.int32)
    return np.split(segment, np.cumsum([len(g) for g in groups])[:-1]), names


def names_of(rule: Rule) -> list[str]:
    """Return the names of the segments of a rule of k-means, or of one segment."""
    return [ONE] if rule.kind == ONE else [f"cluster {i}" for i in range(rule.clusters)]
