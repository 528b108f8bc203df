"""Important lines of jaxrec, by area, which `python -m tests.broken` breaks one at a time."""

from tests.broken import data, evaluation, integrity, models, runs, sources, training
from tests.broken.line import ROOT as ROOT
from tests.broken.line import Line as Line

AREAS = (evaluation, models, training, data, sources, runs, integrity)
LINES: tuple[Line, ...] = tuple(line for area in AREAS for line in area.LINES)
