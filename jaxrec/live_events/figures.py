"""Figures of simulated strategies as SVG: devices updated and requests by time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxrec.live_events.fleet.results import curve
from jaxrec.live_events.fleet.strategies import StrategyRun


def write_figures(folder: Path, outcomes: Sequence[StrategyRun]) -> list[str]:
    """Write the figures of strategies, and return their names.

    Lines differ by style and marker besides the colour.

    Args:
        folder: Folder of the figures, which exists.
        outcomes: Strategies of one scenario.
    """
    from jaxrec.reporting.pages import figures  # imports matplotlib

    until = max(float(np.max(o.updates[np.isfinite(o.updates)], initial=1.0)) for o in outcomes)
    updated, loads = [], []
    for outcome in outcomes:
        times, shares = curve(outcome, until)
        updated.append(figures.Series(outcome.strategy, shares, at=times))
        if outcome.service is not None:
            log = outcome.service
            seconds = log.first_s + np.arange(len(log.offered))
            shown = (seconds >= 0) & (seconds <= until)
            values = np.log10(np.maximum(log.offered[shown] + outcome.base, 1))
            loads.append(figures.Series(outcome.strategy, values.tolist(), at=seconds[shown].tolist()))
    pictures = {
        "updated.svg": figures.curves(
            updated, "seconds after the start", "updated share of online devices", True
        ),
        "requests.svg": figures.curves(loads, "seconds after the start", "log10 of requests/s"),
    }
    for name, picture in pictures.items():
        (folder / name).write_text(picture)
    return [*pictures]
