"""Parsing of declared columns to polars expressions and NumPy arrays.

Every expression is elementwise and never raises. A value that is not of the column's kind becomes null; the
caller decides whether a null drops the row or stops the run.
"""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING, TEXT_CHARACTERS, TITLE_ID
from jaxrec.core.tables import Lists

_DAY_MS = 86_400_000
_PARTS_OF_MS = {"us": 1000, "ns": 1_000_000}
_FAR_MS = 2**62  # times are clipped here, so that a wrong unit cannot overflow into the valid range
# ISO 8601, extended or basic, with the zones of PostgreSQL ("+00") and BigQuery (" UTC").
ISO_TIME = (
    r"^(\d{4}-\d{2}-\d{2}|\d{8})"
    r"(?:[Tt ](\d{2}):?(\d{2})(?::?(\d{2})(?:[.,](\d{1,9}))?)?\s?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"
)
MAX_TEXT_BYTES = 256  # of a key or a category; NumPy's strings take the longest value's bytes for each row
MAX_NUMBER = float(np.finfo(np.float32).max)  # of a feature
_EXACT_FLOAT = 2**53  # above this, a float64 does not represent every whole number

ALLOWED = {  # values of a typed column, by kind; a CSV column is text, and is checked by its values
    "key": "whole numbers or strings",
    "whole": "whole numbers",
    "time": "whole numbers, timestamps, dates or ISO 8601 strings",
    "decimal time": "numbers, timestamps, dates or ISO 8601 strings",
    "number": "numbers",
    "category": "single values",
    "categories": "lists of single values, or strings with a separator",
    "flag": "single values",
    "text": "strings",
    "free text": "single values",  # of a feature of kind "text"
}

_TEXT_LIMIT = f"text of at most {MAX_TEXT_BYTES} bytes without the character NUL"
REPRESENTABLE = dict.fromkeys(ALLOWED, _TEXT_LIMIT) | {"number": f"numbers within {MAX_NUMBER:.3g}, or empty"}

TIMES = ("time", "decimal time")  # kinds of times


def advice(kind: str, raw: pl.Series, present: np.ndarray) -> str:
    """Return the field that makes invalid values valid, as the end of a message; "" for none."""
    if kind != "time" or not (is_string(raw.dtype) or raw.dtype.is_float()):
        return ""
    numbers = raw.filter(pl.Series(present)).cast(pl.Float64, strict=False)
    is_decimal = not numbers.has_nulls() and bool(numbers.is_finite().all())
    return "; with source.columns.time_decimals=True also numbers with decimals" if is_decimal else ""


class ColumnRequest(NamedTuple):
    """Column to read, and how to parse its values.

    Attributes:
        column: Name in the file.
        kind: Key of ALLOWED.
        requested_by: Config key or feature that requests the column, for error messages.
        required: True: a row without a value is invalid.
        divisor: Divisor of a "whole" value, rounding down.
    """

    column: str
    kind: str
    requested_by: str
    required: bool = False
    divisor: int = 1


def feature_requests(features: tuple[Feature, ...], where: str) -> dict[str, ColumnRequest]:
    """Return the columns to read for the features of one table, by feature name.

    The title feature TITLE_ID has no column.

    Raises:
        InputError: A list-valued feature is not a title feature.
    """
    requests = {}
    for f in features:
        if f.where == where and (where, f.name) != ("title", TITLE_ID):
            kind = {"text": "free text", "title": "category"}.get(f.kind, f.kind)
            requests[f.name] = ColumnRequest(f.name, kind, f"feature {f.name!r}, where={where!r}")
            if f.kind == "categories" and where != "title":
                raise InputError(
                    f"{requests[f.name].requested_by}: kind='categories'; allowed: category, number"
                )
    return requests


def allows_kind(kind: str, dtype: pl.DataType, text: bool) -> bool:
    """Return True if a column of this type may hold values of this kind.

    Args:
        kind: Key of ALLOWED.
        dtype: Type of the column.
        text: True for CSV, whose columns are all text and may hold any kind.
    """
    if text or isinstance(dtype, pl.Null):
        return True
    string = is_string(dtype)
    if kind in ("key", "whole"):
        return dtype.is_integer() or dtype.is_float() or (string and kind == "key")
    if kind in TIMES:
        return string or dtype.is_numeric() or isinstance(dtype, pl.Datetime | pl.Date)
    if kind == "number":
        return dtype.is_numeric()
    if kind == "text":
        return string
    if kind == "categories":
        return string or (isinstance(dtype, pl.List | pl.Array) and _is_single(dtype.inner))
    return _is_single(dtype)


def is_string(dtype: pl.DataType) -> bool:
    """Return True for a type whose values are text."""
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _is_single(dtype: Any) -> bool:
    """Return True for a type of single values, which have a text or a number."""
    return not dtype.is_nested() and not isinstance(dtype, pl.Binary | pl.Object)


def type_family(kind: str, dtype: pl.DataType) -> str:
    """Return the class of a column's type; see `common_family`. A column without values has "no values"."""
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if isinstance(inner, pl.Null):
        return "no values"
    if kind == "key" and isinstance(dtype, pl.UInt64):
        return "unsigned whole numbers"
    if kind not in ("key", "category", "categories"):
        return "any"
    if inner.is_integer() or isinstance(inner, pl.Boolean) or (kind == "key" and inner.is_float()):
        return "whole numbers"
    return "numbers with decimals" if inner.is_float() else "strings"


def common_family(families: list[str]) -> str:
    """Return the class of a column in all files of a table, "" where the files do not agree.

    A column without values in one file agrees with any other. Numbers with decimals agree with whole numbers:
    so pandas writes whole numbers of which some are missing.
    """
    present = {family for family in families if family != "no values"}
    if present == {"whole numbers", "numbers with decimals"}:
        return "whole numbers"
    if present == {"numbers with decimals"}:
        return "strings"
    return present.pop() if len(present) == 1 else "" if present else "strings"


def parse(request: ColumnRequest, dtype: pl.DataType, family: str, time_unit: str, separator: str) -> pl.Expr:
    """Return an expression that parses a column.

    A missing value, or a value that is not of the kind, becomes null.

    Args:
        request: The column and its kind.
        dtype: Type of the column in the file.
        family: Class of the column's type in all files, from `common_family`.
        time_unit: Unit of times that are numbers: "s", "ms", "us" or "ns".
        separator: Separator of list-valued text.

    Returns:
        Values by kind. key: Int64, UInt64 or String. whole: Int64. time: Int64 milliseconds since 1970, UTC;
        text is parsed only where it is a whole number; `parse_iso` and `parse_decimal` parse the rest.
        number: Float64. category: Int64 or String. categories: a list of Int64 or String. flag: Float64, 0
        for zero and "false", else 1. text: String.
    """
    column, text = pl.col(request.column), is_string(dtype)
    if request.kind == "whole":
        return _whole(column, dtype) // request.divisor
    if request.kind in TIMES:
        if dtype.is_float() and request.kind == "time":
            return _scaled(_whole(column, dtype), time_unit)
        return _time(column.cast(pl.String) if text else column, pl.String() if text else dtype, time_unit)
    if request.kind == "number":
        return column.cast(pl.Float64, strict=False)
    if request.kind == "flag":
        return _flag(_string(column) if text else column, text)
    if request.kind == "free text":  # later characters are not read
        return _string(column.cast(pl.String).str.slice(0, TEXT_CHARACTERS).str.replace_all("\0", " "))
    if request.kind == "text":
        return _string(column)
    if request.kind == "key":
        if family == "unsigned whole numbers":
            return column.cast(pl.UInt64)
        return _whole(column, dtype) if family == "whole numbers" else _string(column)
    if request.kind == "category":
        return _whole(column, dtype) if family == "whole numbers" else _string(column)
    if text:
        parts = column.cast(pl.String).str.split(separator).list.eval(pl.element().str.strip_chars())
        return parts.list.eval(pl.element().filter(pl.element() != ""))
    if isinstance(dtype, pl.Null):
        return column.cast(pl.List(pl.Int64 if family == "whole numbers" else pl.String))
    assert isinstance(dtype, pl.List | pl.Array)
    values = column.arr.to_list() if isinstance(dtype, pl.Array) else column
    if family == "whole numbers":
        values = values.list.eval(_whole(pl.element(), dtype.inner))
    return values.cast(pl.List(pl.Int64 if family == "whole numbers" else pl.String)).list.drop_nulls()


def _whole(column: pl.Expr, dtype: Any) -> pl.Expr:
    """Cast to Int64, UInt64 by its bits; null for text and floats that are not whole numbers."""
    if isinstance(dtype, pl.UInt64):
        return column.reinterpret(signed=True)
    if dtype.is_float():
        exact = (column == column.floor()) & (column.abs() <= _EXACT_FLOAT)
        return pl.when(exact).then(column).cast(pl.Int64, strict=False)
    return column.cast(pl.Int64, strict=False)


def _flag(column: pl.Expr, text: bool) -> pl.Expr:
    """Return 0.0 for zero, and for "false" in text, else 1.0; null for null and NaN."""
    number = column.cast(pl.Float64, strict=False)
    if not text:
        return (number.fill_nan(None) != 0).cast(pl.Float64)
    none = (number == 0).fill_null(False) | (column.str.to_lowercase() == "false")
    return pl.when(column.is_not_null()).then((~none).cast(pl.Float64))


def _string(column: pl.Expr) -> pl.Expr:
    """Cast to strings; null for an empty string."""
    return column.cast(pl.String).replace("", None)


def is_unrepresentable(column: pl.Series, kind: str) -> pl.Series:
    """Return a mask [N] of parsed values that NumPy's arrays or float32 cannot hold, False for null.

    Text is too long, or ends or starts with the NUL character or contains it; a number is infinite or too
    large.
    """
    if column.dtype == pl.String and kind != "free text":
        wrong = (column.str.len_bytes() > MAX_TEXT_BYTES) | column.str.contains("\0", literal=True)
    elif column.dtype == pl.List(pl.String):
        longest = column.list.eval(pl.element().str.len_bytes()).list.max()
        has_nul = column.list.eval(pl.element().str.contains("\0", literal=True)).list.any()
        wrong = (longest > MAX_TEXT_BYTES) | has_nul
    elif kind == "number":
        wrong = column.abs() > MAX_NUMBER  # False for NaN, which is missing
        wrong &= column.is_not_nan()
    else:
        return pl.repeat(False, len(column), eager=True)
    return wrong.fill_null(False)


def _time(column: pl.Expr, dtype: pl.DataType, unit: str) -> pl.Expr:
    """Convert timestamps, dates or whole numbers to milliseconds since 1970."""
    if isinstance(dtype, pl.Datetime):
        return column.dt.epoch("ms")
    if isinstance(dtype, pl.Date):
        return column.cast(pl.Int64) * _DAY_MS
    if dtype.is_float() or isinstance(dtype, pl.Decimal):
        return parse_decimal(column, unit)
    return _scaled(column.cast(pl.Int64, strict=False), unit)


def _scaled(column: pl.Expr, unit: str) -> pl.Expr:
    """Convert whole numbers of `unit` to milliseconds, with seconds clipped."""
    if unit in _PARTS_OF_MS:
        return column // _PARTS_OF_MS[unit]
    return column.clip(-_FAR_MS // 1000, _FAR_MS // 1000) * 1000 if unit == "s" else column


def parse_decimal(column: pl.Expr, unit: str) -> pl.Expr:
    """Parse times with decimals, such as 978300760.5, to Int64 milliseconds since 1970, rounding down.

    A value that is not a finite number becomes null.
    """
    value = column.cast(pl.Float64, strict=False)
    value = pl.when(value.is_finite()).then(value) * (1000 if unit == "s" else 1)
    value = (value / _PARTS_OF_MS.get(unit, 1)).floor()
    return value.clip(-float(_FAR_MS), float(_FAR_MS)).cast(pl.Int64, strict=False)


def parse_time_text(column: pl.Expr, unit: str, decimals: bool) -> pl.Expr:
    """Parse text that is not a whole number to Int64 milliseconds since 1970, UTC.

    Args:
        column: Text.
        unit: Unit of times that are numbers.
        decimals: True: numbers may have decimals. False: only zeros, as pandas writes whole numbers where
            some are missing ("1600000000.0").
    """
    if decimals:
        return pl.coalesce(parse_iso(column), parse_decimal(column, unit))
    whole = column.str.extract(r"^([+-]?\d{1,18})\.0*$").cast(pl.Int64, strict=False)
    return pl.coalesce(parse_iso(column), _scaled(whole, unit))


def parse_iso(column: pl.Expr) -> pl.Expr:
    """Parse the dates and times of `ISO_TIME` to Int64 milliseconds since 1970, UTC.

    A time without an offset is UTC. A value that cannot be parsed becomes null.
    """
    group = column.str.extract_groups(ISO_TIME).struct

    def number(index: str) -> pl.Expr:
        return group.field(index).cast(pl.Int64, strict=False)

    date = group.field("1").str.replace_all("-", "", literal=True)
    day = date.str.to_date("%Y%m%d", strict=False).cast(pl.Int64) * _DAY_MS
    hour, minute, second = number("2").fill_null(0), number("3").fill_null(0), number("4").fill_null(0)
    fraction = group.field("5").fill_null("").str.slice(0, 3).str.pad_end(3, "0").cast(pl.Int64)
    zone = group.field("6").fill_null("Z").replace(dict.fromkeys(("Z", "z", "UTC"), "+00"))
    zone = zone.str.replace(":", "", literal=True).str.pad_end(5, "0")
    sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)  # positive east of Greenwich
    offset = zone.str.slice(1, 2).cast(pl.Int64) * 60 + zone.str.slice(3, 2).cast(pl.Int64)
    time = ((hour * 60 + minute) * 60 + second) * 1000 + fraction - sign * offset * 60_000
    valid = (hour < 24) & (minute < 60) & (second < 61)
    return pl.when(valid).then(day + time)


# ---------------------------------------------------------------- to NumPy


def keys_to_numpy(series: pl.Series) -> np.ndarray:
    """Convert keys without nulls to [N] whole numbers, or to UTF-8 bytes for strings.

    Bytes hash forty times faster than str.
    """
    if series.dtype.is_integer():
        return series.to_numpy()
    return series.cast(pl.Binary).to_numpy().astype("S")


def feature_to_numpy(series: pl.Series, kind: str) -> np.ndarray | Lists:
    """Convert a parsed feature to a raw column [N], as described in `Titles`."""
    if kind == "categories":
        inner = series.filter(series.list.len() > 0).explode()
        offsets = np.zeros(len(series) + 1, np.int64)
        np.cumsum(series.list.len().fill_null(0).to_numpy(), out=offsets[1:])
        return Lists(_categories(inner), offsets)
    if kind in ("category", "free text"):
        return _categories(series)
    if kind in ("whole", *TIMES):
        return series.fill_null(MISSING).to_numpy()
    return series.fill_null(float("nan")).to_numpy()


def _categories(series: pl.Series) -> np.ndarray:
    """Convert categories to int64, MISSING for null, or to strings, "" for null."""
    if series.dtype.is_integer():
        return series.fill_null(MISSING).to_numpy()
    return series.fill_null("").to_numpy().astype(str)
