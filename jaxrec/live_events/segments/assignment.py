"""Assignment of training users and of further queries to the segments of rules."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import Dataset
from jaxrec.live_events.segments.kmeans import fit_centroids
from jaxrec.live_events.segments.rules import FEATURE, KMEANS, USER, Rule, by_features, names_of
from jaxrec.live_events.slates.streamed import UserVectors
from jaxrec.tasks.loading import LoadedCheckpoint

_FITTED_ON = 2**18  # users, whose vectors are in memory together


class Assignment(NamedTuple):
    """Segments of a rule.

    Attributes:
        rule: The rule.
        names: Name of each segment.
        training: [U] int32 segment of each training user.
        queries: [Q] int32 segment of each further query.
    """

    rule: Rule
    names: list[str]
    training: np.ndarray
    queries: np.ndarray


def assign(
    loaded: LoadedCheckpoint, dataset: Dataset, table: TitleTable, rules: Sequence[Rule],
    training: np.ndarray, queries: np.ndarray,
) -> list[Assignment]:  # fmt: skip
    """Return the segments of each rule; k-means is fitted on training users alone.

    Args:
        loaded: The checkpoint.
        dataset: Its dataset.
        table: Title features on the devices.
        rules: Rules, other than that of a segment for each user.
        training: [U] queries of training users, in random order.
        queries: [Q] queries of other users.

    Raises:
        InputError: A rule needs a feature that the rows lack, or more users than there are.
    """
    clustered = [rule for rule in rules if rule.kind == KMEANS]
    for rule in clustered:
        if rule.clusters > len(training):
            raise InputError(f"--segments={rule}; allowed: K up to {len(training)}, the training users")
    of_training = of_queries = np.empty((0, 0), np.int32)
    if clustered:
        vectors = UserVectors(loaded.task, table)
        sample = vectors.all(loaded.params, training[:_FITTED_ON])
        centroids = [fit_centroids(sample, rule.clusters) for rule in clustered]
        of_training = vectors.assign(loaded.params, training, centroids)
        of_queries = vectors.assign(loaded.params, queries, centroids)
    out, number = [], 0
    for rule in rules:
        assert rule.kind != USER, "each user is a segment"
        names = names_of(rule)
        if rule.kind == KMEANS:
            segments = of_training[:, number], of_queries[:, number]
            number += 1
        elif rule.kind == FEATURE:
            groups = (training, queries)
            parts, names = by_features(rule, groups, loaded.task.layout, dataset.manifest["categories"])
            segments = parts[0], parts[1]
        else:
            segments = np.zeros(len(training), np.int32), np.zeros(len(queries), np.int32)
        out.append(Assignment(rule, names, *segments))
    return out


def offset_segments(assignments: Sequence[Assignment]) -> tuple[np.ndarray, list[slice]]:
    """Return segments [U, A] that count through all assignments, and the slice of each assignment."""
    ends = np.cumsum([0, *(len(a.names) for a in assignments)])
    columns = [a.training + first for a, first in zip(assignments, ends[:-1], strict=True)]
    return np.stack(columns, axis=1), [slice(*pair) for pair in itertools.pairwise(ends)]
