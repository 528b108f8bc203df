"""What a declared column means: text or typed values in, polars expressions and NumPy arrays out.

Every expression is elementwise and never raises: a value that is not of its kind becomes null, and the
table that asked decides whether that costs a row or stops the run.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING, TITLE_ID
from jaxrec.core.tables import Lists

_DAY_MS = 86_400_000
_FAR_MS = 2**62  # times are clipped here, so that a wrong unit cannot wrap round into range
_ISO = (
    r"^(\d{4}-\d{2}-\d{2})"
    r"(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s?(Z|[+-]\d{2}:?\d{2})?)?$"
)

ALLOWED = {  # of a typed column; the columns of a CSV are text, and judged by their values
    "key": "whole numbers or strings",
    "whole": "whole numbers",
    "time": "whole numbers, timestamps, dates or ISO 8601 strings",
    "number": "numbers",
    "category": "single values",
    "categories": "lists, or strings with a separator",
}


class ColumnRequest(NamedTuple):
    """One column that is read."""

    column: str  # in the file
    kind: str  # of ALLOWED
    said: str  # the config key or feature that asks for it, for messages
    required: bool = False  # a row without it is not a row
    per: int = 1  # a "whole" value is divided by this, rounding down


def of_features(features: tuple[Feature, ...], where: str) -> dict[str, ColumnRequest]:
    """The columns that the features of one table ask for, by feature; a title's own id is no column.

    Raises InputError for a list-valued feature of anything but titles.
    """
    wants = {}
    for f in features:
        if f.where == where and (where, f.name) != ("title", TITLE_ID):
            wants[f.name] = ColumnRequest(f.name, f.kind, f"feature {f.name!r}, where={where!r}")
            if f.kind == "categories" and where != "title":
                raise InputError(f"{wants[f.name].said}: kind='categories'; allowed: category, number")
    return wants


def fits(kind: str, dtype: pl.DataType, text: bool) -> bool:
    """Whether a column of this type may hold this kind. `text`: the file is CSV, and types say nothing."""
    if text:
        return True
    string = isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
    if kind == "key":
        return string or dtype.is_integer()
    if kind == "whole":
        return dtype.is_integer()
    if kind == "time":
        return string or dtype.is_integer() or isinstance(dtype, pl.Datetime | pl.Date)
    if kind == "number":
        return dtype.is_numeric()
    if kind == "categories":
        return string or isinstance(dtype, pl.List | pl.Array)
    return not dtype.is_nested() and not isinstance(dtype, pl.Binary | pl.Object)


def family(kind: str, dtype: pl.DataType) -> str:
    """What the files of one table must agree on in a column."""
    if kind == "key" and isinstance(dtype, pl.UInt64):
        return "unsigned whole numbers"
    if kind in ("key", "category", "categories"):
        inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
        return "whole numbers" if inner.is_integer() or isinstance(inner, pl.Boolean) else "strings"
    return "any"


def parse(want: ColumnRequest, dtype: pl.DataType, time_unit: str, separator: str) -> pl.Expr:
    """The column as its kind; null where missing or not of the kind.

    key: Int64, UInt64 or String. whole: Int64. time: Int64 milliseconds since 1970, UTC, of text but the
    whole numbers; `iso` is for the rest.
    number: Float64. category: Int64 or String. categories: a list of either.
    """
    column = pl.col(want.column)
    text = isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
    if want.kind == "key":
        return _string(column) if text else column if isinstance(dtype, pl.UInt64) else column.cast(pl.Int64)
    if want.kind == "whole":
        return column.cast(pl.Int64, strict=False) // want.per
    if want.kind == "time":
        return _time(column.cast(pl.String) if text else column, pl.String() if text else dtype, time_unit)
    if want.kind == "number":
        return column.cast(pl.Float64, strict=False)
    if want.kind == "category":
        if isinstance(dtype, pl.UInt64):
            return column.reinterpret(signed=True)
        return column.cast(pl.Int64) if family("category", dtype) == "whole numbers" else _string(column)
    if text:
        parts = column.cast(pl.String).str.split(separator).list.eval(pl.element().str.strip_chars())
        return parts.list.eval(pl.element().filter(pl.element() != ""))
    whole = family("categories", dtype) == "whole numbers"
    return column.cast(pl.List(pl.Int64 if whole else pl.String), strict=False).list.drop_nulls()


def _string(column: pl.Expr) -> pl.Expr:
    return column.cast(pl.String).replace("", None)


def _time(column: pl.Expr, dtype: pl.DataType, unit: str) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        return column.dt.epoch("ms")
    if isinstance(dtype, pl.Date):
        return column.cast(pl.Int64) * _DAY_MS
    if not isinstance(dtype, pl.String):
        return _scaled(column.cast(pl.Int64, strict=False), unit)
    return _scaled(column.cast(pl.Int64, strict=False), unit)


def _scaled(column: pl.Expr, unit: str) -> pl.Expr:
    if unit == "us":
        return column // 1000
    return column.clip(-_FAR_MS // 1000, _FAR_MS // 1000) * 1000 if unit == "s" else column


def iso(column: pl.Expr) -> pl.Expr:
    """ISO 8601 dates and times as Int64 milliseconds since 1970; without an offset they are UTC."""
    group = column.str.extract_groups(_ISO).struct

    def number(place: str) -> pl.Expr:
        return group.field(place).cast(pl.Int64, strict=False)

    day = group.field("1").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64) * _DAY_MS
    hour, minute, second = number("2").fill_null(0), number("3").fill_null(0), number("4").fill_null(0)
    fraction = group.field("5").fill_null("").str.slice(0, 3).str.pad_end(3, "0").cast(pl.Int64)
    zone = group.field("6").fill_null("Z").replace("Z", "+00:00").str.replace(":", "", literal=True)
    east = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    offset = zone.str.slice(1, 2).cast(pl.Int64) * 60 + zone.str.slice(3, 2).cast(pl.Int64)
    time = ((hour * 60 + minute) * 60 + second) * 1000 + fraction - east * offset * 60_000
    real = (hour < 24) & (minute < 60) & (second < 61)
    return pl.when(real).then(day + time)


# ---------------------------------------------------------------- to NumPy


def keys(series: pl.Series) -> np.ndarray:
    """[N] integers, or strings as UTF-8 bytes, which hash forty times faster than str. No nulls."""
    if series.dtype.is_integer():
        return series.to_numpy()
    return series.cast(pl.Binary).to_numpy().astype("S")


def array(series: pl.Series, kind: str) -> np.ndarray | Lists:
    """A feature as schema.Titles describes raw columns."""
    if kind == "categories":
        inner = series.filter(series.list.len() > 0).explode()
        offsets = np.zeros(len(series) + 1, np.int64)
        np.cumsum(series.list.len().fill_null(0).to_numpy(), out=offsets[1:])
        return Lists(_categories(inner), offsets)
    if kind == "category":
        return _categories(series)
    if kind == "whole":
        return series.fill_null(MISSING).to_numpy()
    return series.fill_null(float("nan")).to_numpy()


def _categories(series: pl.Series) -> np.ndarray:
    if series.dtype.is_integer():
        return series.fill_null(MISSING).to_numpy()
    return series.fill_null("").to_numpy().astype(str)
