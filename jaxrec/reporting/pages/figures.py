"""Figures as SVG: curves, dots with intervals, calibration, stacked bars, histograms.

Series differ by line style, marker or hatching besides the colour, so that a figure is readable without
colour. Text is drawn as paths: a font of the reader's browser, of another width, would cut labels.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrec.reporting.pages.elements import Html, tag

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#a6568b", "#3d3d3d", "#b07d00")  # distinct for colour blindness
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")
_WIDTH, _HEIGHT = 6.0, 3.2  # inches
_MARKED = 8  # markers of a curve
_LABEL = 24  # characters of a line of a group's name


class Series(NamedTuple):
    """A named series of a figure.

    Attributes:
        label: Name in the legend.
        values: Values of the figure's categories, or points of a curve; None or NaN for none.
        halves: Halves of 95% intervals; empty for none.
        at: Horizontal positions of a curve or of calibration; empty for categories.
    """

    label: str
    values: Sequence[float | None]
    halves: Sequence[float | None] = ()
    at: Sequence[float] = ()


def curves(series: Sequence[Series], xlabel: str, ylabel: str, from_zero: bool = False) -> Html:
    """Plot curves; a series without points is left out.

    Args:
        series: Curves.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.
        from_zero: True to begin the vertical axis at 0, so that a constant with rounding errors is a line.
    """

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for i, one in enumerate(s for s in series if len(s.at)):
            every = max(1, math.ceil(len(one.at) / _MARKED))
            ax.plot(one.at, _floats(one.values), label=one.label, markevery=every, **_style(i))
        if from_zero:
            ax.set_ylim(bottom=0)
        _finish(figure, ax, xlabel, ylabel)

    return _svg(draw, _HEIGHT)


def dots(groups: Sequence[str], panels: Mapping[str, Sequence[Series]]) -> Html:
    """Plot values of groups as dots with intervals, one row per group and one panel per metric.

    Args:
        groups: Names of the groups, the first on top.
        panels: Label of the horizontal axis -> series.
    """

    def draw(figure: Figure) -> None:
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (label, series) in zip(row, panels.items(), strict=True):
            for i, one in enumerate(series):
                shift = 0.18 * (i - (len(series) - 1) / 2)
                ys = [y + shift for y in range(len(groups))]
                style = _style(i) | {
                    "linestyle": "none",
                    "markerfacecolor": _COLORS[i] if i == 0 else "white",
                }
                errors = _floats(one.halves) or None
                ax.errorbar(_floats(one.values), ys, xerr=errors, label=one.label, capsize=2.5, **style)
            ax.set_xlabel(label)
            right = min(ax.get_xlim()[1], 1.05)  # metrics are at most 1, intervals may be wider
            ax.set_xlim(-0.03 * right, right)  # room for markers at 0
            ax.locator_params(axis="x", nbins=4 if len(panels) > 1 else 8)
            ax.grid(axis="x", alpha=0.4)
        row[0].set_yticks(range(len(groups)), names)
        row[0].set_ylim(len(groups) - 0.5, -0.5)
        _legend(figure, row[0])

    names, height = _wrapped(groups)
    return _svg(draw, height)


def calibration(series: Sequence[Series], xlabel: str, ylabel: str) -> Html:
    """Plot observed means against predictions, and the diagonal of perfect calibration."""

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        most = max(max(_finite(s.values) + list(s.at)) for s in series) * 1.08
        ax.plot([0, most], [0, most], color="#777777", linewidth=1, label="perfect calibration")
        for i, one in enumerate(series):
            style = _style(i) | {"linestyle": _LINES[1 + i % (len(_LINES) - 1)]}
            ax.errorbar(one.at, _floats(one.values), yerr=_floats(one.halves) or None, label=one.label,
                        capsize=2.5, **style)  # fmt: skip
        ax.set_xlim(0, most)
        ax.set_ylim(0, most)
        _finish(figure, ax, xlabel, ylabel)

    return _svg(draw, 4.2)


def stacked_bars(groups: Sequence[str], series: Sequence[Series], xlabel: str) -> Html:
    """Plot stacked horizontal bars, one per group."""

    def draw(figure: Figure) -> None:
        ax, base = figure.subplots(), [0.0] * len(groups)
        for i, one in enumerate(series):
            values = _floats(one.values)
            look: dict[str, Any] = {
                "color": _COLORS[i % len(_COLORS)],
                "hatch": _HATCHES[i % len(_HATCHES)],
            }
            ax.barh(range(len(groups)), values, left=base, label=one.label, edgecolor="white", **look)
            base = [b + v for b, v in zip(base, values, strict=True)]
        ax.set_yticks(range(len(groups)), names)
        ax.invert_yaxis()
        ax.set_xlim(0, max(base))
        _finish(figure, ax, xlabel, "")

    names, height = _wrapped(groups)
    return _svg(draw, height)


def histogram(shares: Sequence[float], xlabel: str, ylabel: str) -> Html:
    """Plot fractions of values in bins of equal width over [0, 1]."""

    def draw(figure: Figure) -> None:
        ax, width = figure.subplots(), 1 / len(shares)
        ax.bar([(i + 0.5) * width for i in range(len(shares))], shares, width, color=_COLORS[0],
               edgecolor="white")  # fmt: skip
        ax.set_xlim(0, 1)
        _finish(figure, ax, xlabel, ylabel)

    return _svg(draw, 2.6)


def effects(
    lines: Mapping[str, Sequence[tuple[float, float, float, float]]], xlabel: str, ylabel: str
) -> str:
    """Plot effects against the strength of a premise, with intervals as error bars.

    Args:
        lines: Label of each line -> its points (strength, mean, low, high).
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.

    Returns:
        An SVG element.
    """

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        ax.axhline(0, color="black", linewidth=0.8)
        for i, (label, points) in enumerate(lines.items()):
            xs, means, lows, highs = (list(column) for column in zip(*points, strict=True))
            below = [m - low for m, low in zip(means, lows, strict=True)]
            above = [high - m for m, high in zip(means, highs, strict=True)]
            ax.errorbar(xs, means, yerr=(below, above), label=label, capsize=4, **_style(i))
        _finish(figure, ax, xlabel, ylabel)

    return _svg(draw, _HEIGHT)


def figure_element(title: str, svg: Html, note: str = "") -> Html:
    """Return a figure with its caption.

    Args:
        title: Caption, also for screen readers.
        svg: The figure.
        note: Text below the caption; empty for none.
    """
    caption = tag("figcaption", title)
    below = tag("p", note, class_="note") if note else ""
    return tag("figure", caption, below, tag("div", svg, role="img", aria_label=title))


def _wrapped(groups: Sequence[str]) -> tuple[list[str], float]:
    """Return names broken into lines, and the height in inches of a figure with a row for each."""
    names = [textwrap.fill(name, _LABEL) or " " for name in groups]
    lines = max((name.count("\n") + 1 for name in names), default=1)
    return names, 1.2 + len(names) * max(0.33, 0.18 * lines + 0.06)


def _style(i: int) -> dict[str, Any]:
    return {
        "color": _COLORS[i % len(_COLORS)], "linestyle": _LINES[i % len(_LINES)],
        "marker": _MARKERS[i % len(_MARKERS)], "markersize": 5,
    }  # fmt: skip


def _floats(values: Sequence[float | None]) -> list[float]:
    """Return values with NaN in place of None."""
    return [math.nan if value is None else float(value) for value in values]


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in _floats(values) if math.isfinite(value)]


def _finish(figure: Figure, ax: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes, and draw a grid and a legend."""
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(alpha=0.4)
    ax.set_axisbelow(True)
    _legend(figure, ax)


def _legend(figure: Figure, ax: Axes) -> None:
    """Draw a legend above the axes, where it covers nothing; none for a single series."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) < 2:
        return
    longest = max(map(len, labels))
    columns = next(n for n in itertools.chain((4, 3, 2), (1,)) if n * (longest + 8) <= 84 or n == 1)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, handlelength=3)


def _svg(draw: Callable[[Figure], None], height: float) -> Html:
    """Return a figure as an SVG element, with equal bytes for equal numbers."""
    settings: Any = {
        "svg.hashsalt": "jaxrec", "svg.fonttype": "path", "font.size": 10, "hatch.color": "white",
        "text.parse_math": False,  # names of groups may hold "$"
        "axes.formatter.useoffset": False,
    }  # fmt: skip
    with rc_context(settings):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return Html(text[text.index("<svg") :])
