"""Stages of distributed preparation that read and route the events of signals.

They are run beside the stages of `runners/stages.py`, whose messages and rules they share.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.tables import Drops
from jaxrec.data.events.partitions import partition_of
from jaxrec.data.increments.log_end import cut, end_of_log
from jaxrec.data.runners.messages import GlobalStats, Tally, TitlesMessage
from jaxrec.data.runners.stages import HASH_RANGES, Output
from jaxrec.data.signals.cleaning import clean_signals


def read_signals(part: tuple[int, Any], titles: TitlesMessage, config: Config) -> Iterator[Output]:
    """Clean the events of a part: yield "signal_chunks", and the part's tally as "tallies".

    Args:
        part: Number of the part, and the part itself (`Source.signal_parts`).
        titles: Source with its titles.
        config: Config of the dataset.
    """
    number, part_key = part
    source, tally = copy.copy(titles.source), Tally()
    source.drops = Drops()  # as for the plays
    tally.signals.drops[number] = {}
    ranges = max(HASH_RANGES, config.data.partitions)
    end, rows = end_of_log(config.data), len(titles.key_hash)
    for chunk in source.signals(part_key):
        records = clean_signals(cut(chunk, end), config.signals, config.data, tally.signals, number)
        tally.titles += np.bincount(records["title"][records["title"] >= 0], minlength=rows)
        tally.signals.ranges += np.bincount(partition_of(records["user"], ranges), minlength=ranges)
        yield "signal_chunks", records
    yield "tallies", tally


def route_signals(records: np.ndarray, stats: GlobalStats) -> Iterator[Output]:
    """Split a chunk's records by partition: yield "signal_shares".

    Events in a range of user hashes without plays are left out.
    """
    partition = stats.partitions_of(records["user"])
    order = np.argsort(partition, kind="stable")
    records, partition = records[order], partition[order]
    for p in np.unique(partition[partition >= 0]).tolist():
        yield "signal_shares", (p, records[slice(*np.searchsorted(partition, [p, p + 1]))])
