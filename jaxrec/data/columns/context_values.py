"""Values of contexts once titles have ids: titles that contexts name, and rules for missing values.

A context of kind "title" holds the id of a title: 0 where there is none, 1 for a title that is not in the
catalogue. `Feature.impute` gives a missing value another one: "most_frequent" that of the log, and
"name_of:<feature>" the n-grams of the name of the title in that feature, which is missing without one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.config.rules.declared.contexts import named_title
from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, PAD, UNKNOWN
from jaxrec.core.row_format import Layout
from jaxrec.data.columns.category_codes import FIRST_VALUE
from jaxrec.data.events.history_columns import TitleIndex


class ContextValues(NamedTuple):
    """Conversion of the ids of contexts to those that rows store.

    Attributes:
        titles: Column of a context -> title id [values] int32 of each id of its vocabulary.
        names: First column of a text -> the column of the titles whose names it takes where it is missing.
        name_ids: [titles, n-grams] int32 ids of the n-grams of the names of titles.
        frequent: Column of a category -> the id that it has where it is missing.
    """

    titles: dict[int, np.ndarray]
    names: dict[int, int]
    name_ids: np.ndarray
    frequent: dict[int, int]

    def stored(self, categories: np.ndarray) -> np.ndarray:
        """Return the ids [N, columns] that rows store, from those of the vocabularies."""
        out = categories.copy()
        for column, id_of_value in self.titles.items():
            out[:, column] = id_of_value[categories[:, column]]
        return self.imputed(out, out == UNKNOWN)

    def imputed(self, categories: np.ndarray, is_missing: np.ndarray) -> np.ndarray:
        """Return ids [N, columns] of contexts with other values in place of missing ones.

        Args:
            categories: [N, columns] ids, of titles those of the catalogue.
            is_missing: [N, columns] bool; read for categories. Text without an n-gram is missing.
        """
        out, width = categories.copy(), self.name_ids.shape[1]
        for column, value in self.frequent.items():
            out[is_missing[:, column], column] = value
        for column, title in self.names.items():
            text = out[:, column : column + width]
            without = ~text.any(axis=1) & (out[:, title] >= FIRST_TITLE)
            text[without] = self.name_ids[out[without, title]]
        return out


def context_values(
    features: tuple[Feature, ...], layout: Layout, title_categories: np.ndarray,
    values: Mapping[str, list], title_key: np.ndarray,
) -> ContextValues:  # fmt: skip
    """Return the conversion of the contexts of a dataset.

    Args:
        features: Declared features.
        layout: Layout of the rows.
        title_categories: [titles, columns] int32 ids of the features of titles.
        values: Feature -> raw values in the order of its ids; for a feature of kind "title", keys of titles.
            Without its values, the ids of a feature are those of titles already.
        title_key: [T] keys of the titles, by id.

    Raises:
        InputError: No value of a feature of kind "title" is a title of the catalogue.
    """
    titles, names, frequent, name_ids = {}, {}, {}, np.zeros((len(title_categories), 0), np.int32)
    specs = {spec.name: spec for spec in layout.of("context")}
    for f in (f for f in features if f.where == "context" and f.kind != "number"):
        column = layout.category_column("context", f.name)
        if f.kind == "title" and f.name in values:
            titles[column] = _ids_of_titles(f.name, values[f.name], title_key)
        if specs[f.name].imputed:
            frequent[column] = specs[f.name].imputed
        if source := named_title(f):
            names[column] = layout.category_column("context", source)
            name = next(spec for spec in layout.of("title") if spec.kind == "text")
            first = layout.category_column("title", name.name)
            name_ids = title_categories[:, first : first + name.columns]
    return ContextValues(titles, names, name_ids, frequent)


def _ids_of_titles(name: str, values: list, title_key: np.ndarray) -> np.ndarray:
    """Return the title ids [FIRST_VALUE + values] int32 of the ids of a vocabulary of keys."""
    row = TitleIndex(title_key).rows(np.array(values))
    if len(values) and (row < 0).all():
        raise InputError(
            f"feature {name}: kind='title' but none of its {len(values)} values is a title of the catalogue, "
            f"such as {values[0]!r}; allowed: keys of the titles table"
        )
    ids = np.where(row < 0, UNKNOWN, row + FIRST_TITLE)
    return np.concatenate([np.full(FIRST_VALUE, PAD), ids]).astype(np.int32)
