"""Notes on the catalogue and the times of a dataset that are well formed and probably wrong."""

from datetime import UTC, datetime

import numpy as np

from jaxrec.core.ids import TITLE_ID, UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.arrays import Arrays
from jaxrec.data.storage.evaluation_arrays import SECONDS_PER_DAY, DailyPlays

_UNKNOWN_SHARE = 0.5  # of the titles, above which an unknown feature is noted
_GAP_DAYS, _GAP_SHARE = 60, 0.5  # a gap of as many days, and of as much of the whole time, is noted
_FEW = 0.05  # of the plays: with as few at one end of the gap
_DAYS, _DAY_SHARE = 30, 0.25  # a day with as many of the plays is noted where there are as many days


def title_notes(arrays: Arrays, layout: Layout) -> list[str]:
    """Return notes on features that are unknown for many titles, and on titles without any.

    Args:
        arrays: Arrays of the catalogue.
        layout: Layout of the dataset.
    """
    unknown, column, number, titles = {}, 0, 0, arrays.id_of_rank
    for spec in layout.of("title"):
        if spec.name == TITLE_ID:
            continue
        if spec.kind == "number":
            unknown[spec.name] = arrays.title_numbers[titles, number] == 0
            number += 1
        else:
            ids = arrays.title_categories[titles, column : column + spec.columns]
            unknown[spec.name] = (ids <= UNKNOWN).all(axis=1)
            column += spec.columns
    if not unknown:
        return []
    notes, count = [], len(titles)
    bare = np.logical_and.reduce([*unknown.values()])
    if bare.any():
        share = arrays.title_plays[titles][bare].sum() / max(1, arrays.title_plays.sum())
        notes.append(
            f"{bare.sum():,} of {count:,} titles ({share:.1%} of the plays) have no known feature: check "
            "the titles table"
        )
    for name, missing in unknown.items():
        if missing.mean() > _UNKNOWN_SHARE:
            notes.append(f"feature {name} is unknown for {missing.sum():,} of {count:,} titles")
    return notes


def time_notes(daily: DailyPlays) -> list[str]:
    """Return notes on a clock that jumps: plays far from all others, and a day that holds many.

    Args:
        daily: Plays by day.
    """
    days, index = np.unique(daily.day, return_inverse=True)
    plays = np.bincount(index, daily.plays).astype(np.int64)
    total, notes = int(plays.sum()), []
    gaps = np.diff(days)
    if len(gaps) and gaps.max() >= max(_GAP_DAYS, _GAP_SHARE * (days[-1] - days[0])):
        at = int(gaps.argmax()) + 1
        before, after = int(plays[:at].sum()), int(plays[at:].sum())
        if min(before, after) <= _FEW * total:
            few, side = (before, "before") if before < after else (after, "after")
            notes.append(
                f"{few:,} of {total:,} first plays ({few / total:.2%}) are {side} a gap of {gaps.max():,} "
                f"days, {_date(days[at - 1])} to {_date(days[at])}: a clock was wrong? data.earliest and "
                "data.latest leave out what is outside"
            )
    most = int(plays.argmax())
    if len(days) >= _DAYS and plays[most] > _DAY_SHARE * total:
        notes.append(
            f"{plays[most]:,} of {total:,} first plays ({plays[most] / total:.1%}) are on "
            f"{_date(days[most])}, one of {len(days):,} days: is it the day of an import?"
        )
    return notes


def _date(day: int) -> str:
    return datetime.fromtimestamp(int(day) * SECONDS_PER_DAY, UTC).date().isoformat()
