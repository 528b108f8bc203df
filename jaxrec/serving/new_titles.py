"""Titles launched since the training, served from their metadata."""

from typing import Any

import numpy as np

from jaxrec.config.rules.codes import CODES, GENERATIVE
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, MISSING, TITLE_ID
from jaxrec.core.row_format import Layout
from jaxrec.data.events.history_columns import title_rows
from jaxrec.data.events.stored_vocabulary import StoredVocabulary
from jaxrec.data.storage.arrays import Arrays, grown_codes
from jaxrec.sources.histories import read_catalogue


def append_titles(
    arrays: Arrays, titles: Any, config: Config, layout: Layout, categories: dict[str, list]
) -> Arrays:
    """Append the titles of a table that the catalogue does not have.

    The new titles have ids after all others and the last popularity ranks, in the order of the table. A model
    reads their features; the id of a new title is unknown to the model, and its code is missing.

    Args:
        arrays: Arrays of the catalogue.
        titles: Table of titles, in the columns of the config's titles table; None: no title is new.
        config: Config of the checkpoint.
        layout: Layout of the rows.
        categories: Values of each categorical feature, in the order of their ids.

    Raises:
        InputError: The table is invalid, or the model reads no feature of titles but the id.
    """
    if titles is None:
        return arrays
    read = [
        s.name
        for s in layout.of("title")
        if s.kind != CODES and (not config.model.features or s.name in config.model.features)
    ]
    if not set(read) - {TITLE_ID}:
        raise InputError("titles: the model reads no feature of a title but its id; a new title is unknown")
    if config.task.name == GENERATIVE:
        raise InputError("titles: a model that generates codes has none for new titles; train again on them")
    table = read_catalogue(config.source, config.stored_features, titles)
    new = title_rows(table.key, arrays.title_key) < 0
    if not new.any():
        return arrays
    wide, tall = StoredVocabulary(layout, categories).encode_titles(table.features, len(new))
    try:
        key = table.key[new].astype(np.int64 if arrays.title_key.dtype.kind in "iu" else str)
    except ValueError as error:
        raise InputError(f"titles: {error}; allowed: whole numbers, as in the training") from error
    first = len(arrays.rank_of_id)
    rank_of_id = np.concatenate([arrays.rank_of_id, len(arrays.id_of_rank) + np.arange(len(key))])
    rank_of_id[:first][arrays.rank_of_id >= first] = len(rank_of_id)
    # Ids without a title, before those of the new titles; their keys are unlike any other.
    unused = np.arange(first - FIRST_TITLE - len(arrays.title_key))
    no_key = (
        MISSING + unused if arrays.title_key.dtype.kind in "iu" else np.char.add("\x00", unused.astype(str))
    )
    return Arrays(
        np.concatenate([arrays.title_key, no_key, key]),
        np.concatenate([arrays.title_runtime, np.full(len(unused), np.nan), table.runtime[new]]),
        np.concatenate([arrays.title_plays, np.zeros(len(key), np.int64)]),
        rank_of_id.astype(np.int32),
        np.concatenate([arrays.id_of_rank, first + np.arange(len(key))]).astype(np.int32),
        np.concatenate([arrays.title_categories, wide[new]]),
        np.concatenate([arrays.title_numbers, tall[new]]),
        grown_codes(arrays.title_codes, len(rank_of_id)),
    )
