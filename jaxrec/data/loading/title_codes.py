"""Codes of titles on the device: the trie of models that generate codes, and prefixes as a feature.

A feature of kind "codes" is not stored in datasets. Its columns follow those of the other categories of
titles: the id of each prefix of a title's code, without the last token, which only separates titles.
"""

from dataclasses import replace

import numpy as np

from jaxrec.config.rules.codes import CODES, GENERATIVE, has_codes
from jaxrec.config.schema import Codes, Config
from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.arrays import Arrays


def prefix_ids(tokens: np.ndarray, codes: Codes) -> np.ndarray:
    """Return the ids [V, levels] int32 of the prefixes of codes [V, levels + 1].

    The id of a prefix of l tokens is 1 + size + ... + size^(l - 1), and the number that the tokens are with
    the base `size`. It does not depend on the codes of other titles. Ids are 0 for padding, for the unknown
    title and for titles without a code.

    Args:
        tokens: int32 tokens by title id.
        codes: Number of levels, and of tokens of a level.
    """
    ids = np.zeros((len(tokens), codes.levels), np.int64)
    number, first = np.zeros(len(tokens), np.int64), 1
    for level in range(codes.levels):
        number = number * codes.size + tokens[:, level]
        ids[:, level] = first + number
        first += codes.size ** (level + 1)
    ids[:FIRST_TITLE] = 0  # tokens of NO_CODE, -1, give 0 at all levels
    return ids.astype(np.int32)


def with_code_features(layout: Layout, config: Config) -> Layout:
    """Return the layout of a model's inputs: with the features of kind "codes", which no row holds."""
    codes = config.codes
    size = 1 + sum(codes.size**level for level in range(1, codes.levels + 1))
    specs = tuple(
        FeatureSpec(f.name, f.kind, f.where, f.width, size=size, columns=codes.levels)
        for f in config.features
        if f.kind == CODES
    )
    return replace(layout, features=(*layout.features, *specs)) if specs else layout


def stored_layout(layout: Layout) -> Layout:
    """Return the layout of the rows: the inverse of `with_code_features`."""
    return replace(layout, features=tuple(f for f in layout.features if f.kind != CODES))


def table_with_codes(arrays: Arrays, config: Config) -> TitleTable:
    """Return the title table of a run on the host, with what its model reads of the titles' codes."""
    if arrays.title_codes is None:
        assert not has_codes(config), "the titles have no codes"
        return arrays.title_table()
    if config.task.name == GENERATIVE:
        table = arrays.title_table()
    else:
        table = replace(arrays, title_codes=None).title_table()
    columns = [prefix_ids(arrays.title_codes, config.codes) for f in config.features if f.kind == CODES]
    return table._replace(categories=np.concatenate([table.categories, *columns], axis=1))
