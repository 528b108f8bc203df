"""Table of the quality by slice, as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxrec.core.ids import CATALOGUE, LISTS

WHY = {
    "unseen": "unseen", "divergence": "JS bits", "divergence_by_chance": "by chance", "history": "history",
    "calibration": "calibr.", "new": "new",
}  # fmt: skip
_MOST_NAME = 24


def shown_columns(slices: Mapping[str, Any]) -> list[str]:
    """Return the metrics that tables of slices show: NDCG@1 of lists, NDCG@10 of all titles."""
    wanted = [*(f"{name}/ndcg@1" for name in LISTS), f"{CATALOGUE}/ndcg@10"]
    stored: Mapping[str, Any] = next(iter(slices["by"].values()), {"metrics": {}})["metrics"]
    return [column for column in wanted if column in stored]


def mark(table: Mapping[str, Any], i: int) -> str:
    """Return "worse", "better" or nothing for a slice of a regret."""
    return "worse" if table["worse"][i] else "better" if table["better"][i] else ""


def slice_lines(slices: Mapping[str, Any]) -> list[str]:
    """Return the lines of the tables, one for each slicing and metric.

    Args:
        slices: JSON values, as `evaluation.slices.results.with_slices` adds them.
    """
    lines: list[str] = []
    for name, part in slices["by"].items():
        for column in shown_columns(slices):
            lines += ["", *_table(name, part, column, slices["against"])]
        if part.get("orders"):
            lines += ["", *_orders(name, part)]
        lines += ["", *_why(name, part)]
    return lines[1:]


def _table(name: str, part: Mapping[str, Any], column: str, against: str | None) -> Iterator[str]:
    """Yield the table of one metric: the mean, its interval, regrets, and the smallest visible difference."""
    of_metric = part["metrics"][column]
    head = f"{f'{column} by {name}':<{_MOST_NAME}}{'users':>8}{'mean':>8}{'95% interval':>18}"
    regrets = [kind for kind in ("regret", "oracle_regret") if column in part.get(kind, {})]
    for kind in regrets:
        head += f"{'regret' if kind == 'regret' else 'to oracle':>10}{'95% interval':>20}{'q':>8}{'':>8}"
    yield head + f"{'visible':>9}"
    for i, label in enumerate(part["slices"]):
        line = (
            f"{label[: _MOST_NAME - 1]:<{_MOST_NAME}}{part['users'][i]:>8,}{_cell(of_metric['mean'][i]):>8}"
        )
        line += f"{_interval(of_metric, i):>18}"
        for kind in regrets:
            table = part[kind][column]
            line += f"{_cell(table['mean'][i], '+'):>10}{_interval(table, i, '+'):>20}"
            line += f"{_cell(table['q'][i]):>8}{mark(table, i):>8}"
        smallest = part[regrets[0]][column] if regrets else of_metric
        yield line + f"{_cell(smallest['visible'][i]):>9}"
    if against:
        yield f"regret: {against} minus this run; worse, better: at a false discovery rate of 5%"


def _orders(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of all orders of the catalogue, one line for each slice and order."""
    columns = next(iter(part["orders"].values()))
    yield f"{f'{CATALOGUE} by {name}':<{_MOST_NAME}}{'order':<20}" + "".join(f"{x:>10}" for x in columns)
    for i, label in enumerate(part["slices"]):
        for order, values in part["orders"].items():
            cells = "".join(f"{_cell(values[column][i]):>10}" for column in columns)
            yield f"{label[: _MOST_NAME - 1]:<{_MOST_NAME}}{order:<20}{cells}"


def _why(name: str, part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of the properties of the slices."""
    yield f"{f'why, by {name}':<{_MOST_NAME}}{'queries':>9}" + "".join(f"{x:>11}" for x in WHY.values())
    for i, label in enumerate(part["slices"]):
        cells = "".join(f"{_cell(part['why'][key][i]):>11}" for key in WHY)
        yield f"{label[: _MOST_NAME - 1]:<{_MOST_NAME}}{part['queries'][i]:>9,}{cells}"


def _interval(table: Mapping[str, Any], i: int, sign: str = "") -> str:
    low, high = table["low"][i], table["high"][i]
    return "-" if low is None or high is None else f"[{low:{sign}.4f}, {high:{sign}.4f}]"


def _cell(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"
