"""Units of times, watch times and runtimes, inferred from the sizes of values and from names of columns."""

from typing import NamedTuple

import numpy as np
import polars as pl

from jaxrec.sources.columns import ISO_TIME
from jaxrec.sources.proposals.summary import TableSample

_FIRST_SECOND, _LAST_SECOND = 631_152_000, 4_102_444_800  # 1990 and 2100
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOSTLY = 0.95  # fraction of values that must be of a kind
_MINUTES = {"min": 1.0, "s": 1 / 60, "ms": 1 / 60_000, "h": 60.0}  # of runtimes and watch times
_WATCH_UNITS, _RUNTIME_UNITS = ("s", "ms", "min"), ("min", "s", "ms", "h")
_FAR = np.log(20.0)  # a completion of the longest plays beyond 1/20 to 20 contradicts a unit


class TimeUnit(NamedTuple):
    """Unit of a column of times; `decimals` is `Columns.time_decimals`."""

    unit: str
    decimals: bool
    reason: str


class WatchUnits(NamedTuple):
    """Units of watch times and runtimes, as in `Columns`; `runtime` is "" without runtimes."""

    watch: str
    runtime: str
    reason: str


def time_unit(sample: TableSample, column: str) -> TimeUnit | None:
    """Return the unit of a column of times, or None if its values are no times between 1990 and 2100."""
    values = sample.frame[column]
    if values.dtype.is_temporal():
        return TimeUnit("ms", False, "the values are timestamps")
    if values.dtype.is_nested():
        return None
    if sample.number_share(column) >= _MOSTLY:
        numbers = sample.numbers(column)
        median = float(numbers.median() or 0)  # type: ignore[arg-type]
        for unit, factor in _PER_SECOND.items():
            if _FIRST_SECOND * factor <= median < _LAST_SECOND * factor:
                day = np.datetime64(int(median / factor), "s").astype("datetime64[D]")
                decimals = values.cast(pl.Int64, strict=False).null_count() > numbers.null_count()
                decimals = decimals or values.dtype.is_float()
                return TimeUnit(unit, decimals, f"the median {median:.0f} is {day} in {unit} since 1970")
        return None
    text = values.drop_nulls().cast(pl.String)
    matching = float(text.str.contains(ISO_TIME).mean() or 0)  # type: ignore[arg-type]
    return (
        TimeUnit("ms", False, f"{matching:.0%} of the values are ISO 8601") if matching >= _MOSTLY else None
    )


def watch_units(
    watch: np.ndarray, runtime: np.ndarray | None, named_watch: str, named_runtime: str
) -> WatchUnits | None:
    """Return the units of watch times and runtimes.

    Units in names hold unless the longest plays would be more than 20 times or less than 1/20 of the runtime.
    Other units are those in which the 90th percentile of the completion is nearest to 1 and the median
    runtime is that of a video, a song or a film.

    Args:
        watch: [N] watch times of plays, NaN where missing.
        runtime: [N] runtimes of the titles played, NaN where missing; None: there are none.
        named_watch: Unit in the name of the column of watch times, or "".
        named_runtime: Unit in the name of the column of runtimes, or "".

    Returns:
        The units, or None where watch times are no parts of the runtime and there are no runtimes.
    """
    part = _part_of_runtime(watch[np.isfinite(watch)], named_watch)
    known = runtime is not None and bool((runtime > 0).any())
    if part:
        unit = ""
        if runtime is not None and known:
            unit = named_runtime or min(_RUNTIME_UNITS, key=lambda u: _unlikely(_median(runtime, u)))
        return WatchUnits(part[0], unit, part[1])
    if runtime is None or not known:
        return None
    usable = np.isfinite(watch) & (runtime > 0) & (watch >= 0)
    ratio = float(np.quantile(watch[usable] / runtime[usable], 0.9)) if usable.any() else 1.0

    def score(pair: tuple[str, str]) -> float:
        return abs(_log(ratio * _MINUTES[pair[0]] / _MINUTES[pair[1]])) + _unlikely(_median(runtime, pair[1]))

    every = [(w, r) for w in _WATCH_UNITS for r in _RUNTIME_UNITS]
    pairs = [(w, r) for w, r in every if named_watch in ("", w) and named_runtime in ("", r)] or every
    best, stated = min(pairs, key=score), "the names of the columns state a unit; " if len(pairs) == 1 else ""
    if abs(_log(ratio * _MINUTES[best[0]] / _MINUTES[best[1]])) > _FAR:
        contradicted, best = best, min(every, key=score)
        if best != contradicted:
            stated = f"the names state {' and '.join(contradicted)}, but the values contradict them; "
    quantile = ratio * _MINUTES[best[0]] / _MINUTES[best[1]]
    reason = (
        f"{stated}the 90th percentile of the watch time in {best[0]} is {quantile:.2g} of the runtime in "
        f"{best[1]}, whose median is {_median(runtime, best[1]):.3g} min"
    )
    return WatchUnits(best[0], best[1], reason)


def _part_of_runtime(watch: np.ndarray, named: str) -> tuple[str, str] | None:
    """Return "fraction" or "percent" with the reason, or None for watch times."""
    if not len(watch):
        return None
    high, largest = float(np.quantile(watch, 0.95)), float(watch.max())
    if named in ("fraction", "percent"):
        unit = "fraction" if high <= 2 else "percent" if high <= 150 else named
        return unit, f"the name states a part of the runtime, and the 95th percentile is {high:.3g}"
    if not named and largest <= 1 and (watch % 1 != 0).any():
        return "fraction", f"all values are in [0, 1], the largest is {largest:.3g}"
    return None


def _median(runtime: np.ndarray, unit: str) -> float:
    """Return the median of the known runtimes in minutes."""
    return float(np.median(runtime[runtime > 0])) * _MINUTES[unit]


def _unlikely(minutes: float) -> float:
    """Return 0 for the median runtime of films and episodes, more for one that is less likely."""
    if 20 <= minutes <= 240:
        return 0.0
    return 0.5 if 0.1 <= minutes < 20 else 3.0


def _log(ratio: float) -> float:
    return float(np.log(max(ratio, 1e-12)))
