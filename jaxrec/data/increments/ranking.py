"""Titles of a dataset once plays are counted: presence, ranks, ids, layout and selection of targets."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxrec.config.rules.declared.contexts import NULL
from jaxrec.config.schema import Config
from jaxrec.core.hashing import of_keys
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.row_format import FeatureSpec
from jaxrec.core.tables import Lists, Titles
from jaxrec.data.columns.context_values import context_values
from jaxrec.data.events.title_features import title_columns
from jaxrec.data.events.vocabulary import FeatureColumns
from jaxrec.data.increments.catalogue import catalogue_arrays
from jaxrec.data.increments.earlier import EarlierDataset, check_keys, known_columns
from jaxrec.data.increments.log_end import end_of_log, titles_at
from jaxrec.data.increments.selection import selection_of
from jaxrec.data.runners import partition_job
from jaxrec.data.storage.dataset import Arrays
from jaxrec.data.text.named_titles import named_titles


class TitleColumns(NamedTuple):
    """Encoded features of the titles of the source; fields as `title_columns` returns them."""

    categories: np.ndarray
    numbers: np.ndarray
    specs: tuple[FeatureSpec, ...]
    values: dict[str, list]


class Columns(NamedTuple):
    """Encoded features of all tables."""

    titles: TitleColumns
    users: FeatureColumns
    context: FeatureColumns


class Counted(NamedTuple):
    """Counts of a log.

    Attributes:
        plays: [rows] plays by training users, by row of the source's titles.
        has_event: [rows] bool, titles with an event.
        end: Time after the last play, in milliseconds.
    """

    plays: np.ndarray
    has_event: np.ndarray
    end: int


def encode_titles(
    titles: Titles, config: Config, earlier: EarlierDataset | None, present: np.ndarray | None = None
) -> TitleColumns:
    """Encode the features of titles; those that are not `present` [rows] count for nothing and are 0.

    Raises:
        InputError: A feature is missing or of another kind, or keys or values are of another type than those
            of the earlier dataset.
    """
    check_keys(earlier, titles.key)
    known = known_columns(earlier)
    if present is None:
        return TitleColumns(*title_columns(titles.features, config.stored_features, len(titles.key), known))
    rows = np.flatnonzero(present)
    features = {name: _select(column, rows) for name, column in titles.features.items()}
    part = TitleColumns(*title_columns(features, config.stored_features, len(rows), known))
    wide, tall = (np.zeros((len(present), x.shape[1]), x.dtype) for x in part[:2])
    wide[rows], tall[rows] = part.categories, part.numbers
    return part._replace(categories=wide, numbers=tall)


def _select(column: np.ndarray | Lists, rows: np.ndarray) -> np.ndarray | Lists:
    """Return the entries of a raw column at ascending rows."""
    if not isinstance(column, Lists):
        return column[rows]
    lengths = np.diff(column.offsets)
    kept = np.zeros(len(lengths), bool)
    kept[rows] = True
    return Lists(column.values[np.repeat(kept, lengths)], np.append(0, np.cumsum(lengths[rows])))


def rank_titles(
    config: Config, titles: Titles, columns: Columns, earlier: EarlierDataset | None, counted: Counted
) -> tuple[partition_job.RankedTitles, Arrays, dict[str, list]]:
    """Rank the titles, give them ids, and define the layout and the targets of rows.

    Args:
        config: Config of the dataset.
        titles: Titles of the source.
        columns: Features; those of titles as of `encode_titles` of all titles.
        earlier: Dataset that this one continues.
        counted: Counts of the log.

    Returns:
        The inputs of row building, the arrays of the catalogue, and the values of each category.

    Raises:
        InputError: No play of a training user remains, or `data.only` names an unknown value.
    """
    present = titles_at(end_of_log(config.data), titles, counted.has_event)
    of_titles = columns.titles if present is None else encode_titles(titles, config, earlier, present)
    order, trending = partition_job.popularity(counted.plays, present)
    arrays = catalogue_arrays(
        titles.key, titles.runtime, counted.plays, order, of_titles.categories, of_titles.numbers, earlier,
        config.data.capacity,
    )  # fmt: skip
    ids = len(arrays.rank_of_id)
    of_ids = tuple(replace(s, size=ids) if s.name == TITLE_ID else s for s in of_titles.specs)
    of_contexts = tuple(replace(s, size=ids) if s.kind == "title" else s for s in columns.context.specs)
    specs = (of_ids, columns.users.specs, of_contexts)
    layout = partition_job.layout_of(config, len(arrays.title_key), *specs)
    values = {**of_titles.values, **columns.users.values, **columns.context.values}
    conversion = None
    if any(f.kind == "title" or f.impute != NULL for f in config.features):
        of_ids_or_keys = arrays.title_categories, values, arrays.title_key
        conversion = context_values(config.features, layout, *of_ids_or_keys)
        values = {name: of for name, of in values.items() if name not in _named_titles(config)}
    selection = selection_of(config, layout, values)
    ranked = partition_job.rank(
        order, trending, arrays, of_keys(titles.key), layout, config, counted.end, selection
    )
    names = named_titles(layout, arrays.title_categories[arrays.id_of_rank]) if layout.matching else None
    return ranked._replace(contexts=conversion, names=names), arrays, values


def _named_titles(config: Config) -> set[str]:
    """Return the names of the features of kind "title", whose values are ids of titles."""
    return {f.name for f in config.features if f.kind == "title"}
