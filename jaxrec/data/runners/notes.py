"""Notes on a prepared dataset: what is well formed and probably wrong, and why a split is empty."""

from typing import NamedTuple

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.data.events.cleaning import LONG, SHORT, WATCHED
from jaxrec.data.examples.ranking import TOO_FEW
from jaxrec.data.runners.partition_job import BUSIEST_USER, KNOWN_USERS, PLAYS

_LONG_SHARE = 0.5  # of the plays, above which units are probably wrong
_SHORT_SHARE = 0.95
_USER_SHARE, _USER_TIMES = 0.01, 20  # of all plays, and of the mean of a user
_UNITS = "check source.columns.seconds_unit and source.columns.runtime_unit"


class Counts(NamedTuple):
    """Counts of a preparation.

    Attributes:
        rows: Rows read.
        kept: As in `Drops`.
        examples: Split -> number of examples.
        users: Split -> number of users.
        other: Other counts by name, such as `TOO_FEW`.
    """

    rows: int
    kept: dict[str, int]
    examples: dict[str, int]
    users: dict[str, int]
    other: dict[str, int]


def notes(config: Config, counts: Counts) -> list[str]:
    """Return notes for the user, each with its numbers and the field that may mend it."""
    kept = counts.kept
    watched = kept.get(WATCHED, 0)
    out = []
    if kept.get(LONG, 0) > _LONG_SHARE * watched:
        out.append(
            f"{kept[LONG]:,} of {watched:,} plays ({kept[LONG] / watched:.1%}) are longer than twice the "
            f"title's runtime and have completion 1: {_UNITS}"
        )
    has_features = any(feature.where == "user" for feature in config.features)
    if has_features and not counts.other.get(KNOWN_USERS, 0):
        out.append(
            f"none of {sum(counts.users.values()):,} users of the log is in the users table, so that every "
            "user feature is unknown: check that both tables write users alike"
        )
    if kept.get(SHORT, 0) > _SHORT_SHARE * watched:
        out.append(
            f"{kept[SHORT]:,} of {watched:,} plays ({kept[SHORT] / watched:.1%}) have a completion below "
            f"data.abandon_threshold={config.data.abandon_threshold:g}: {_UNITS}"
        )
    most, plays = counts.other.get(BUSIEST_USER, 0), counts.other.get(PLAYS, 0)
    mean = plays / max(sum(counts.users.values()), 1)
    if most > max(_USER_SHARE * plays, _USER_TIMES * mean):
        out.append(
            f"one user has {most:,} of {plays:,} plays ({most / plays:.1%}), {most / mean:.0f} "
            "times the mean: a key that stands for many users, or a program? source.columns.null_words names "
            "words that are no key"
        )
    for split in SPLITS:
        lost = counts.other.get(TOO_FEW.format(split=split), 0)
        if lost:
            total = lost + counts.examples[split]
            out.append(f"{lost:,} of {total:,} {split} examples are left out: {_too_few(config, split)}")
    return out


def check_splits(config: Config, counts: Counts) -> None:
    """Raise InputError where a split has no example, with the reason."""
    for split in SPLITS:
        if not counts.examples[split]:
            reason = _reason_of_empty_split(config, counts, split)
            raise InputError(
                f"source: no {split} example is left; allowed: at least one in every split; reason: {reason}"
            )


def _reason_of_empty_split(config: Config, counts: Counts, split: str) -> str:
    """Return why a split has no example: all causes that the counts show, each with its numbers."""
    data, kept = config.data, counts.kept
    users, causes = sum(counts.users.values()), []
    if counts.other.get(TOO_FEW.format(split=split), 0):
        causes.append(_too_few(config, split))
    is_request = data.examples == "requests"
    if is_request and kept.get(WATCHED, 0) and kept.get(SHORT, 0) == kept[WATCHED]:
        causes.append(
            f"all {kept[WATCHED]:,} plays have a completion below data.abandon_threshold="
            f"{data.abandon_threshold:g}: {_UNITS}"
        )
    if data.split == "time":
        days = {"train": f"before data.validation_from={data.validation_from}",
                "validation": f"from data.validation_from={data.validation_from} to "
                              f"data.test_from={data.test_from}",
                "test": f"from data.test_from={data.test_from}"}  # fmt: skip
        causes.append(f"no user has {'a target' if is_request else 'an exposure'} {days[split]}")
    elif data.split == "users" and not counts.users[split]:
        share = f"data.train_share={data.train_share:g} and data.validation_share={data.validation_share:g}"
        share += f" of the users outside of data.fold={data.fold!r}" if data.fold else ""
        causes.append(f"none of {users:,} users is drawn for it, with {share}")
    elif data.split == "last" and split == "validation":
        share = f"data.validation_share={data.validation_share:g}"
        causes.append(f"no user with enough titles is drawn for it, with {share} and few users")
    selects = [f"data.{n}={v}" for n in ("since", "until", "only") if (v := getattr(data, n))]
    if selects:
        causes.append(f"rows are of the targets of {', '.join(selects)} alone")
    if not causes and not is_request:
        causes.append("no exposure (an event of the signal 'impression') has an earlier play of its user")
    if not causes:
        causes.append(
            "no user has two titles, of which the first is the history and the second the target "
            f"({counts.rows:,} rows)"
        )
    return "; ".join(causes)


def _too_few(config: Config, split: str) -> str:
    """Return why a catalogue has too few titles for the negatives of an example."""
    data = config.data
    if split == "train":
        fields = ("hard", "trending", "tailing", "random")
        total = sum(getattr(data, field) for field in fields)
        sizes = ", ".join(f"data.{field}={getattr(data, field)}" for field in fields)
        needed = f"{total} titles for the pools ({sizes})"
    else:
        needed = f"data.negatives={data.negatives} titles for a list"
    return f"too few titles are left that the user never played; an example needs {needed}"
