"""Features proposed for the model: columns of the tables, their kinds and widths."""

from typing import NamedTuple

import polars as pl

from jaxrec.config.schema import Feature
from jaxrec.core.ids import INTERACTION_FEATURES, TITLE_ID
from jaxrec.sources.proposals.names import CONTEXT_NAMES, normalised
from jaxrec.sources.proposals.summary import TableSample

_MOST_CATEGORIES = 1_000
_MOST_WHOLE_CATEGORIES = 200  # distinct whole numbers up to which they are categories
_MOST_MISSING = 0.5
_LIST_SEPARATORS = ("|", ";", ",", " ")
_LEAST_LISTS = 0.05  # fraction of values with a separator that makes a column one of lists
_LEAST_REPEATS = 3  # mean number of rows of a value, or of an element of lists


class FeatureChoices(NamedTuple):
    """Proposed features, columns left out, and the separator of lists.

    Attributes:
        features: The features.
        reasons: Name of a feature -> reason.
        left_out: Column -> reason.
        separator: Separator of the lists of the titles table; "" without lists.
    """

    features: tuple[Feature, ...]
    reasons: dict[str, str]
    left_out: dict[str, str]
    separator: str


def propose_features(
    tables: dict[str, TableSample], used: dict[str, set[str]], has_watch_times: bool, width: int
) -> FeatureChoices:
    """Return the features of a titles table, a users table and a log, and those that jaxrec computes.

    Args:
        tables: Samples by place: "title", "user" and "context" (the log).
        used: Columns with a role, by place.
        has_watch_times: False for a log without watch times.
        width: Width of the embedding of titles.
    """
    features = [Feature(TITLE_ID, "category", "title", width)]
    reasons, left_out, separator = {TITLE_ID: "the id of the title"}, {}, ""
    taken = {TITLE_ID, *INTERACTION_FEATURES}
    for where, table in tables.items():
        for column in table.frame.columns:
            if column in used[where]:
                continue
            kind, reason, found_separator = _kind(table, column, where)
            if kind and column in taken:
                kind, reason = "", "another feature has this name; rename the column to use it"
            if kind == "categories" and separator not in ("", found_separator):
                kind, reason = (
                    "",
                    f"its lists are split by {found_separator!r}, those before by {separator!r}",
                )
            if not kind:
                left_out[column] = reason
                continue
            separator = separator or found_separator
            taken.add(column)
            reasons[column] = reason
            most = 3 if kind == "categories" else 0
            features.append(Feature(column, kind, where, max(width // (2 if most else 8), 4), most))
    for name in INTERACTION_FEATURES:
        if has_watch_times or name != "completion":
            features.append(Feature(name, "number", "interaction", max(width // 8, 4)))
            reasons[name] = "computed by jaxrec"
    return FeatureChoices(tuple(features), reasons, left_out, separator)


def _kind(table: TableSample, column: str, where: str) -> tuple[str, str, str]:
    """Return the kind of a column, "" to leave it out, with the reason and the separator of lists."""
    values = table.frame[column]
    rows, present = len(values), len(values) - values.null_count()
    if isinstance(values.dtype, pl.Struct | pl.Binary):
        return "", f"{values.dtype} values; allowed: single values, and lists of titles", ""
    if where == "context" and normalised(column) not in CONTEXT_NAMES:
        return "", "may be an outcome of the play; declare it if it is known before the title is played", ""
    if present < (1 - _MOST_MISSING) * rows:
        return "", f"{1 - present / rows:.0%} of the values are missing", ""
    if isinstance(values.dtype, pl.List | pl.Array):
        return ("categories", "lists", "") if where == "title" else ("", "lists of titles only", "")
    if values.dtype.is_temporal():
        return "", "times are no features", ""
    distinct = values.n_unique()
    if distinct < 2:
        return "", "all values are equal", ""
    if table.number_share(column) > 0.99:
        numbers = table.numbers(column).drop_nulls()
        if float((numbers % 1 == 0).mean() or 0) == 1 and distinct <= _MOST_WHOLE_CATEGORIES:  # type: ignore[arg-type]
            return "category", f"{distinct:,} distinct whole numbers", ""
        if where == "context" or normalised(column).endswith("id"):
            return "", f"{distinct:,} distinct ids", ""
        return "number", f"{distinct:,} distinct numbers", ""
    text = values.drop_nulls().cast(pl.String)
    for separator in _LIST_SEPARATORS if where == "title" else ():
        parts = text.str.split(separator)
        elements = parts.explode().str.strip_chars()
        if float((parts.list.len() > 1).mean() or 0) >= _LEAST_LISTS:  # type: ignore[arg-type]
            if (
                elements.n_unique() * _LEAST_REPEATS <= len(elements)
                and elements.n_unique() <= _MOST_CATEGORIES
            ):
                return (
                    "categories",
                    f"lists split by {separator!r} of {elements.n_unique():,} values",
                    separator,
                )
            break
    if distinct <= _MOST_CATEGORIES and distinct * _LEAST_REPEATS <= present:
        return "category", f"{distinct:,} distinct values", ""
    return "", f"{distinct:,} distinct texts in {rows:,} rows", ""
