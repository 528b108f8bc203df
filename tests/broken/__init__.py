"""Important lines of jaxrec, by area, which `python -m tests.broken` breaks one at a time."""

from tests.broken import (
    analysis,
    availability,
    backends,
    data,
    evaluation,
    examples,
    filling,
    gradients,
    heads,
    integrity,
    labels,
    models,
    past_signals,
    policies,
    runs,
    settings,
    signals,
    simulator,
    sources,
    training,
    wiring,
)
from tests.broken.line import ROOT as ROOT
from tests.broken.line import Line as Line

AREAS = (
    analysis,
    evaluation,
    models,
    training,
    data,
    sources,
    runs,
    integrity,
    wiring,
    settings,
    backends,
    signals,
    past_signals,
    simulator,
    labels,
    availability,
    examples,
    gradients,
    heads,
    filling,
    policies,
)
LINES: tuple[Line, ...] = tuple(line for area in AREAS for line in area.LINES)
