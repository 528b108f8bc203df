"""Labels of the targets of a partition, as rows store them."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Config, Data, Label
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.core.tables import Lists
from jaxrec.data.events import splits
from jaxrec.data.events.cleaning import milliseconds_of
from jaxrec.data.events.event_log import Log
from jaxrec.data.labels.extraction import extract
from jaxrec.data.labels.tables import PLAY, Anchors, Events, LabelTitles
from jaxrec.data.storage.arrays import Arrays, split_columns


class TargetLabels(NamedTuple):
    """Values of L labels at Q targets.

    Attributes:
        y: [Q, L] float32; where a label is unknown, the value of the events so far.
        known: [Q] uint32; bit i is set where label i is known.
    """

    y: np.ndarray
    known: np.ndarray


class LabelInputs(NamedTuple):
    """Inputs of labels that all partitions share.

    Attributes:
        titles: Properties of titles, by rank.
        rank_of_row: [V] rank of each row of the catalogue.
        log_end: Time after the last play of the log, in milliseconds.
    """

    titles: LabelTitles
    rank_of_row: np.ndarray
    log_end: int


@dataclass(frozen=True, eq=False)
class PartitionLabels:
    """Labels of the plays of a partition.

    Attributes:
        config: Config of the dataset, with its labels.
        log: Sorted log of the partition, whose `rank` numbers the titles.
        signals: [M] sorted records of `data.signals.records`.
        inputs: What all partitions share.
    """

    config: Config
    log: Log
    signals: np.ndarray
    inputs: LabelInputs

    def at(self, event: np.ndarray, split: np.ndarray) -> TargetLabels:
        """Return the labels of targets; all targets of the partition are anchors of one call.

        Args:
            event: [Q] events of the log that are targets.
            split: [Q] index into SPLITS of each.

        Raises:
            InputError: An own rule returned wrong arrays.
        """
        log = self.log
        anchors = Anchors(log.user[event], log.rank[event], log.time[event])
        return self.of_anchors(anchors, split, self.config.labels)

    def of_anchors(self, anchors: Anchors, split: np.ndarray, labels: tuple[Label, ...]) -> TargetLabels:
        """Return labels of anchors, which compete for events.

        Args:
            anchors: Q anchors whose users and titles are numbered as in the log; users ascend.
            split: [Q] index into SPLITS of each.
            labels: Labels to compute.

        Raises:
            InputError: An own rule returned wrong arrays.
        """
        config = self.config
        ends = split_ends(config.data, anchors.user, anchors.time, split, self.inputs.log_end)
        names = tuple(signal.name for signal in config.signals)
        values = extract(
            anchors, self._plays, self._events, self.inputs.titles, labels, ends, names,
            config.data.abandon_threshold,
        )  # fmt: skip
        y = np.zeros((len(anchors.time), len(labels)), np.float32)
        known = np.zeros(len(anchors.time), np.uint32)
        for i, label in enumerate(labels):
            y[:, i] = values[label.name].y
            known |= values[label.name].known.astype(np.uint32) << np.uint32(i)
        return TargetLabels(y, known)

    @cached_property
    def _plays(self) -> Events:
        log = self.log
        viewed = np.where(log.viewed < 0, np.nan, log.viewed / 1000.0)  # negative: without watch time
        kind = np.full(len(log.user), PLAY, np.int8)
        return _sorted(Events(log.user, log.rank, log.time, kind, viewed))

    @cached_property
    def _events(self) -> Events:
        records = self.signals
        user = np.searchsorted(self.log.hash, records["user"])  # sorting kept users of the log only
        rank = np.append(self.inputs.rank_of_row, -1)[records["title"]]  # row -1: no title
        return _sorted(Events(user, rank, records["time"], records["kind"], records["value"]))


def _sorted(events: Events) -> Events:
    return events.take(np.lexsort((events.time, events.title, events.user)))


def split_ends(data: Data, user: np.ndarray, time: np.ndarray, split: np.ndarray, log_end: int) -> np.ndarray:
    """Return the end [Q] of what the split of each target may see, in milliseconds.

    A label whose window crosses it is unknown: it would hold what happened on held-out days.

    "users": the end of the log. "time": the day on which the next split begins. "last": the user's first
    target of a later split. None is after the end of the log.

    Args:
        data: Settings of the split.
        user: [Q] users of the targets, ascending.
        time: [Q] their times.
        split: [Q] index into SPLITS.
        log_end: End of the log.
    """
    ends = np.full(len(time), log_end, np.int64)
    if data.split == "time":
        names = ("validation_from", "test_from")
        edges = [milliseconds_of(getattr(data, name), f"data.{name}") for name in names]
        ends = np.minimum(ends, np.append(edges, log_end)[split])
    elif data.split == "last" and len(user):
        for later in (splits.VALIDATION, splits.TEST):
            first = np.full(int(user[-1]) + 1, log_end, np.int64)
            np.minimum.at(first, user[split >= later], time[split >= later])
            earlier = split < later
            ends[earlier] = np.minimum(ends, first[user])[earlier]
    return ends


def label_titles(config: Config, arrays: Arrays, features: tuple[FeatureSpec, ...]) -> LabelTitles:
    """Return the properties of titles that the labels of a config read, by rank.

    The categories are those that models read: at most `Feature.most` of a list.

    Args:
        config: Config of the dataset.
        arrays: Arrays of the catalogue.
        features: Specs of the features of titles, in the order of their columns.
    """
    read = {label.feature for label in config.labels if label.feature}
    columns = split_columns(features, arrays.title_categories[arrays.id_of_rank], None)
    lists = {}
    for name in sorted(read):
        present = columns[name] > UNKNOWN
        lists[name] = Lists(columns[name][present], np.append(0, np.cumsum(present.sum(axis=1))))
    return LabelTitles(arrays.title_runtime[arrays.id_of_rank - FIRST_TITLE], lists)


def check_half(labels: TargetLabels, names: tuple[str, ...]) -> None:
    """Raise InputError where a value is beyond float16, in which sequences store labels."""
    largest, most = np.abs(labels.y).max(axis=0, initial=0), float(np.finfo(np.float16).max)
    for name, value in zip(names, largest.tolist(), strict=True):
        if value > most:
            allowed = "at most 65,504, in rows of the task next_item"
            raise InputError(f"label {name!r} has the value {value:g}; allowed: {allowed}")
