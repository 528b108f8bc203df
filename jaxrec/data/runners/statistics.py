"""Statistics of a log before preparation: dropped rows, completions, sequences, hard negatives.

Rows are cleaned by the code of preparation; targets and hard negatives are those of ranking examples.
Nothing is written. Of a log with more than MAX_EVENTS events a sample of complete users is kept.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxrec.config.schema import Config, Data
from jaxrec.core.errors import InputError
from jaxrec.core.hashing import mix, of_keys
from jaxrec.core.tables import Drops, Source
from jaxrec.data.events.cleaning import COPY, CleanChunk, clean, drop_copies
from jaxrec.data.events.event_log import EventState, Log, event_states
from jaxrec.data.examples import ranking
from jaxrec.data.examples.user_pools import hard_pool
from jaxrec.data.signals.cleaning import SignalTally, clean_signals

MAX_EVENTS = 20_000_000
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_LEAST, _MOST = 0.05, 0.5  # fraction of abandoned titles in which the paper's threshold is kept
_QUERIES = 100_000  # targets whose hard pools are counted at a time
_BINS = 20


class Threshold(NamedTuple):
    """Consequences of a threshold of abandonment.

    Attributes:
        threshold: Completion below which a title counts as abandoned.
        abandoned: Fraction of pairs of a user and a title that are abandoned.
        users: Fraction of users with an abandoned title.
        examples: Number of targets.
        hard_fill: Fraction of the slots of the hard pools that hold an abandoned title.
    """

    threshold: float
    abandoned: float
    users: float
    examples: int
    hard_fill: float


@dataclass
class LogStatistics:
    """Statistics of a log.

    Attributes:
        rows: Rows read.
        drops: Rows left out by reason, with examples; copies too.
        users: Users with a valid event, in the sample.
        titles: Titles of the catalogue.
        played: Titles with a valid event.
        first: First time, in milliseconds since 1970.
        last: Last time.
        one_in: The statistics below are of one in so many users.
        lengths: Quantile -> titles per user.
        completion: Fraction of pairs of a user and a title in each of 20 equal ranges of completion.
        thresholds: The thresholds of THRESHOLDS and of the config; empty without watch times.
        examples: Number of targets, of one in `one_in` users.
        signals: Signal -> number of events read, and of those left out by reason.
    """

    rows: int
    drops: Drops
    users: int
    titles: int
    played: int
    first: int
    last: int
    one_in: int
    lengths: dict[float, int]
    completion: list[float] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)
    examples: int = 0
    signals: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def dropped_share(self) -> float:
        """Fraction of rows left out, without copies, as `data.max_invalid_fraction` counts."""
        return sum(n for reason, n in self.drops.counts.items() if reason != COPY) / max(self.rows, 1)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON."""
        days = [str(np.datetime64(t, "ms").astype("datetime64[D]")) for t in (self.first, self.last)]
        return {
            "rows": self.rows,
            "dropped": {reason: {"rows": count, "example": self.drops.examples[reason]}
                        for reason, count in self.drops.counts.items()},
            "users": self.users, "titles": self.titles, "titles_played": self.played,
            "first_day": days[0], "last_day": days[1], "one_in_users": self.one_in,
            "titles_per_user": {f"{q:g}": n for q, n in self.lengths.items()},
            "completion_histogram": self.completion,
            "thresholds": [t._asdict() for t in self.thresholds],
            "examples": self.examples,
            "signals": self.signals,
        }  # fmt: skip


def log_statistics(source: Source, config: Config) -> LogStatistics:
    """Read a whole log and return its statistics.

    Args:
        source: Source of the config.
        config: Config with the source's columns and the settings of the data.

    Raises:
        InputError: A table is invalid, or no event is valid.
    """
    titles, drops = source.titles(), Drops()
    kept: list[CleanChunk] = []
    rows = events = 0
    one_in = 1
    for chunk in source.interactions():
        cleaned = clean(chunk, titles, config.data, drops, source.has_completion)
        rows += len(chunk.user)
        kept.append(_of_users(cleaned, one_in))
        events += len(kept[-1].user_hash)
        if events > MAX_EVENTS:
            one_in *= 2
            kept = [_of_users(c, one_in) for c in kept]
            events = sum(len(c.user_hash) for c in kept)
    drops.merge(source.drops)
    rows += sum(source.drops.counts.values())
    if not events:
        worst = max(drops.counts, key=lambda r: drops.counts[r], default="")
        because = f": {worst}, {drops.examples[worst]}" if worst else ""
        raise InputError(f"source: none of {rows} rows is a valid event{because}; allowed: at least one")
    log = _log(kept, drops)
    states = event_states(log, titles.runtime)
    first = np.flatnonzero(states.first)
    per_user = np.bincount(log.user[first])
    result = LogStatistics(
        rows, drops, len(log.hash), len(titles.key), len(np.unique(log.rank)), int(log.time.min()),
        int(log.time.max()), one_in,
        {q: int(np.quantile(per_user, q, method="lower")) for q in _QUANTILES},
    )  # fmt: skip
    if source.has_completion:
        total = states.total[first]
        bins = np.minimum((total * _BINS).astype(int), _BINS - 1)
        result.completion = (np.bincount(bins, minlength=_BINS) / len(total)).tolist()
        wanted = sorted({*THRESHOLDS, config.data.abandon_threshold})
        result.thresholds = [
            _threshold(log, states, replace(config.data, abandon_threshold=t)) for t in wanted
        ]
    result.examples = len(ranking.targets(log, states, config.data))
    result.signals = _count_signals(source, config)
    return result


def _count_signals(source: Source, config: Config) -> dict[str, dict[str, Any]]:
    """Return the numbers of events read and left out of the declared signals, by name."""
    tally = SignalTally()
    for chunk in source.signals() if config.signals else ():
        clean_signals(chunk, config.signals, config.data, tally)
    dropped = tally.dropped()
    return {
        signal.name: {
            "read": tally.events.get(kind, 0),
            "dropped": {
                reason: {"rows": count, "example": dropped[kind].examples[reason]}
                for reason, count in dropped[kind].counts.items()
            }
            if kind in dropped
            else {},
        }
        for kind, signal in enumerate(config.signals)
    }


def propose_threshold(statistics: LogStatistics) -> tuple[float, str]:
    """Return a threshold of abandonment and the reason.

    The paper's threshold of 0.05 is kept where 5% to 50% of the titles played are below it. Otherwise the
    nearest threshold of THRESHOLDS in that range is proposed.
    """
    shares = {t.threshold: t.abandoned for t in statistics.thresholds}
    paper = shares[0.05]
    if _LEAST <= paper <= _MOST:
        return 0.05, f"the paper's value: {paper:.0%} of the titles played were left below it"
    inside = [t for t in THRESHOLDS if _LEAST <= shares[t] <= _MOST]
    if inside:
        best = min(inside, key=lambda t: abs(np.log(t / 0.05)))
        share = f"{shares[best]:.0%} of the titles played were left below it"
        return best, f"{share}, {paper:.0%} below the paper's 0.05"
    best = THRESHOLDS[0] if paper > _MOST else THRESHOLDS[-1]
    few = "many" if paper > _MOST else "few"
    share = f"{shares[best]:.0%} were left below {best:g}"
    return best, f"{few} titles are abandoned at any threshold: {share}"


def _of_users(chunk: CleanChunk, one_in: int) -> CleanChunk:
    """Return the events of one in `one_in` users, a power of two."""
    if one_in == 1:
        return replace(chunk, context={})
    kept = mix(chunk.user_hash, 1) % np.uint64(one_in) == 0
    hashes, title, time, viewed = chunk.user_hash, chunk.title, chunk.time, chunk.viewed
    return CleanChunk(hashes[kept], title[kept], time[kept], viewed[kept], {})


def _log(chunks: list[CleanChunk], drops: Drops) -> Log:
    """Return the sorted log of all users without copies, which are added to `drops`."""
    hashes, title, time, viewed = (
        np.concatenate([getattr(chunk, name) for chunk in chunks])
        for name in ("user_hash", "title", "time", "viewed")
    )
    kept = drop_copies(hashes, title, time, viewed)
    copies = len(hashes) - len(kept)
    drops.add(COPY, copies, "equal user, time and title; one row of each group is kept")
    unique, user = np.unique(hashes[kept], return_inverse=True)
    of_events, of_users = (len(kept), 0), (len(unique), 0)  # no features
    return Log(
        unique, np.zeros(len(unique), np.int8), user.astype(np.int64), title[kept], time[kept], viewed[kept],
        np.empty(of_events, np.int32), np.empty(of_events, np.float32),
        np.empty(of_users, np.int32), np.empty(of_users, np.float32),
    )  # fmt: skip


def _threshold(log: Log, states: EventState, data: Data) -> Threshold:
    """Return the consequences of the threshold of `data`."""
    first = np.flatnonzero(states.first)
    abandoned = states.total[first] < data.abandon_threshold
    query = ranking.targets(log, states, data)
    filled = 0
    for i in range(0, len(query), _QUERIES):
        chunk = query[i : i + _QUERIES]
        key = of_keys(chunk)  # which abandoned titles a pool holds does not change how many
        pool = hard_pool(log, states, chunk, log.rank[chunk][:, None], key, data.hard, data)
        filled += int(pool.filled.sum())
    return Threshold(
        data.abandon_threshold,
        float(abandoned.mean()),
        len(np.unique(log.user[first[abandoned]])) / len(log.hash),
        len(query),
        filled / max(len(query) * data.hard, 1),
    )
