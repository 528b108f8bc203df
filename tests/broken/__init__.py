"""Important lines of jaxrec, by area, which `python -m tests.broken` breaks one at a time."""

from tests.broken import (
    analysis,
    availability,
    backends,
    data,
    evaluation,
    examples,
    gradients,
    heads,
    integrity,
    labels,
    models,
    runs,
    served,
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
    simulator,
    labels,
    availability,
    examples,
    gradients,
    heads,
    served,
)
LINES: tuple[Line, ...] = tuple(line for area in AREAS for line in area.LINES)
