"""Extraction of labels: anchors per second, by rule and for five labels together.

    python -m benchmarks.labels [--anchors 1000000] [--events 2000000] [--json F]

Half of the events are plays, over 90 days, of a user for each 20 anchors, and of popular titles more often. A
third of the plays repeat user and title of another. The other half are events of three signals, each some
hours after a play of its user and title. Anchors are the plays, sorted by user and time, as a dataset's rows
are. With fewer plays than anchors, plays are anchors several times. Calls share nothing: each sorts anchors.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved
from jaxrec.config.declarations import Label
from jaxrec.core.registry import LABEL_RULES
from jaxrec.core.tables import Lists
from jaxrec.data.labels.extraction import extract
from jaxrec.data.labels.tables import PLAY, Anchors, Events, LabelTitles

SIGNALS = ("thumb", "list_add", "trailer")
WANTED = 1_000_000  # anchors per second
_ANCHORS_A_USER, _TITLES, _GENRES = 20, 10_000, 40
_BEGIN, _SPAN = 1_700_000_000_000, 90 * 86_400_000
FIVE = (
    Label("thumb", "last", "thumb", 168),
    Label("listed", "happened", "list_add"),
    Label("finished", "at_least", hours=720, at=0.9),
    Label("completion", "completion"),
    Label("returned", "returned", hours=336),
)


def _flags() -> None:
    flags.DEFINE_integer("anchors", 1_000_000, "anchors", lower_bound=1)
    flags.DEFINE_integer("events", 2_000_000, "plays and events of signals together", lower_bound=2)
    flags.DEFINE_integer("rounds", 7, "rounds; each times all rules once", lower_bound=1)


def sorted_events(events: Events) -> Events:
    """Return events sorted by user, title and time."""
    return events.take(np.lexsort((events.time, events.title, events.user)))


def draw_plays(number: int, users: int, rng: np.random.Generator) -> Events:
    """Draw plays of users and titles; a third are repeats."""
    user = rng.integers(0, users, number)
    title = np.minimum(rng.geometric(1 / 800, number), _TITLES) - 1
    repeats, of = rng.permutation(number)[: number // 3], rng.integers(0, number, number // 3)
    user[repeats], title[repeats] = user[of], title[of]
    seconds = rng.uniform(0, 7200, number).astype(np.float32)
    time = _BEGIN + rng.integers(0, _SPAN, number)
    return sorted_events(Events(user, title, time, np.full(number, PLAY, np.int8), seconds))


def draw_signals(number: int, plays: Events, rng: np.random.Generator) -> Events:
    """Draw events of the signals after plays, of value -1 or 1."""
    events = plays.take(rng.integers(0, len(plays.time), number))
    later = rng.exponential(6 * 3_600_000, number).astype(np.int64)
    kind = rng.integers(0, len(SIGNALS), number).astype(np.int8)
    value = rng.choice(np.array([-1, 1], np.float32), number)
    return sorted_events(events._replace(time=events.time + later, kind=kind, value=value))


def draw_inputs(anchors: int, events: int, seed: int = 0) -> tuple[Anchors, Events, Events, LabelTitles]:
    """Return anchors, plays, events of signals and titles."""
    rng = np.random.default_rng(seed)
    users = max(anchors // _ANCHORS_A_USER, 1)
    plays = draw_plays(events // 2, users, rng)
    others = draw_signals(events - events // 2, plays, rng)
    rows = np.resize(rng.permutation(events // 2), anchors)
    rows = rows[np.lexsort((plays.time[rows], plays.user[rows]))]
    genres = rng.integers(1, 4, _TITLES)
    lists = Lists(rng.integers(0, _GENRES, int(genres.sum())), np.append(0, np.cumsum(genres)))
    titles = LabelTitles(rng.uniform(20, 150, _TITLES), {"genre": lists})
    return Anchors(plays.user[rows], plays.title[rows], plays.time[rows]), plays, others, titles


def label_of(rule: str) -> Label:
    """Return a label of a rule, on the signal that the rule is usual for."""
    signal = {"happened": "list_add", "count": "trailer", "last": "thumb", "positive": "thumb"}.get(
        rule, "play"
    )
    at = 0.9 if rule in ("at_least", "quick") else 0.0
    return Label(rule, rule, signal, at=at, feature="genre" if rule == "discovery" else "")


def measure(anchors: int, events: int, rounds: int) -> dict[str, Any]:
    """Return anchors per second of each rule alone, of five labels, and of all rules together."""
    tables = draw_inputs(anchors, events)
    sets: dict[str, tuple[Label, ...]] = {rule: (label_of(rule),) for rule in LABEL_RULES}
    sets |= {"five labels": FIVE, "all rules": tuple(label_of(rule) for rule in LABEL_RULES)}
    end = _BEGIN + _SPAN
    rivals: dict[str, Callable[[], Any]] = {
        name: partial(extract, *tables, labels, end, SIGNALS) for name, labels in sets.items()
    }
    times = interleaved(rivals, rounds)
    known = {name: float(np.mean(one.known)) for name, one in rivals["all rules"]().items()}
    return {
        "anchors": anchors,
        "events": events,
        "anchors_per_second": {name: timing.rate(anchors) for name, timing in times.items()},
        "labels": {name: len(labels) for name, labels in sets.items()},
        "share_known": known,
    }


def main(args: flags.FlagValues) -> Report:
    figures = measure(args.anchors, args.events, args.rounds)
    rows = []
    for name, rate in figures["anchors_per_second"].items():
        number = figures["labels"][name]
        compared = f"{rate['median'] * number:,.0f} labels/s"
        compared += f"; wanted: {WANTED:,} anchors/s" if name == "five labels" else ""
        rows.append((f"{name}: {number} label{'s' * (number > 1)}", spread(rate, "anchors/s", 0), compared))
    title = f"Labels of {args.anchors:,} anchors from {args.events:,} events"
    return Report(title, figures, rows)


if __name__ == "__main__":
    run(main, _flags)
