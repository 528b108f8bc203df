"""Encoding of raw columns by the vocabulary that a dataset or a checkpoint stores."""

from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import FIRST_TITLE, PAD, TITLE_ID, UNKNOWN
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.core.tables import Lists
from jaxrec.data.columns.category_codes import FIRST_VALUE, is_missing
from jaxrec.data.events.history_columns import TitleIndex
from jaxrec.data.events.title_features import pad_lists
from jaxrec.data.events.vocabulary import standardise, text_ids


class EncodedColumns(NamedTuple):
    """Encoded features of N rows, with masks of the values that are present."""

    categories: np.ndarray  # [N, columns] int32, UNKNOWN for a missing or new value
    numbers: np.ndarray  # [N, columns] float32, standardised; 0, which is the mean, where missing
    has_category: np.ndarray  # [N, columns] bool
    has_number: np.ndarray  # [N, columns] bool

    def replaced_by(self, other: "EncodedColumns") -> "EncodedColumns":
        """Return the columns of `other` where a value is present there, else these."""
        return EncodedColumns(
            np.where(other.has_category, other.categories, self.categories),
            np.where(other.has_number, other.numbers, self.numbers),
            self.has_category | other.has_category,
            self.has_number | other.has_number,
        )

    def select(self, rows: np.ndarray) -> "EncodedColumns":
        """Return the selected rows."""
        return EncodedColumns(*(column[rows] for column in self))


class StoredVocabulary:
    """Vocabulary of the categorical features and moments of the numbers.

    A value that was not seen in preparation is encoded as unknown. Whole numbers and their text are the same
    value, because a CSV file holds text only.

    Args:
        layout: Layout with the features.
        categories: Values of each categorical feature in the order of their ids, as in a manifest.
        title_key: [T] keys of the titles by id, which contexts of kind "title" name; None: none.
    """

    def __init__(
        self, layout: Layout, categories: dict[str, list], title_key: np.ndarray | None = None
    ) -> None:
        self._layout = layout
        self._titles = TitleIndex(np.empty(0, np.int64) if title_key is None else title_key)
        self._ids = {
            name: {_text(value): FIRST_VALUE + i for i, value in enumerate(values)}
            for name, values in categories.items()
        }

    def encode(self, where: str, columns: dict[str, np.ndarray], rows: int) -> EncodedColumns:
        """Encode the features of "user" or "context".

        Args:
            where: Table of the features.
            columns: Raw columns [rows] by feature name; a declared feature may be absent.
            rows: Number of rows.
        """
        specs = self._layout.of(where)
        categories = [
            self._encode_category(s, columns.get(s.name), rows) for s in specs if s.kind != "number"
        ]
        numbers = [_encode_number(s, columns.get(s.name), rows) for s in specs if s.kind == "number"]
        return EncodedColumns(
            _stack([ids for ids, _ in categories], rows, np.int32),
            _stack([values for values, _ in numbers], rows, np.float32),
            _stack([present for _, present in categories], rows, bool),
            _stack([present for _, present in numbers], rows, bool),
        )

    def _encode_category(
        self, spec: FeatureSpec, column: np.ndarray | None, rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if spec.kind == "text":
            ids = np.zeros((rows, spec.columns), np.int32) if column is None else text_ids(column)
            return ids, np.repeat(ids.any(axis=1, keepdims=True), spec.columns, axis=1)
        if spec.kind == "title":
            return self._encode_titles_of(column, rows)
        if column is None:
            return np.full(rows, UNKNOWN, np.int32), np.zeros(rows, bool)
        unique, inverse = np.unique(column, return_inverse=True)
        known = self._ids[spec.name]
        # The loop is over the distinct values of a chunk, not over its rows.
        ids = np.array([known.get(_text(value), UNKNOWN) for value in unique.tolist()], np.int32)
        return ids[inverse], ~is_missing(column)

    def _encode_titles_of(self, column: np.ndarray | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids [rows] of the titles that contexts name, and where there is one."""
        if column is None:
            return np.full(rows, PAD, np.int32), np.zeros(rows, bool)
        present, row = ~is_missing(column), self._titles.rows(column)
        ids = np.where(row < 0, UNKNOWN, row + FIRST_TITLE)
        return np.where(present, ids, PAD).astype(np.int32), present

    def encode_titles(
        self, columns: dict[str, np.ndarray | Lists], rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode the features of titles; a declared feature may be absent, and is unknown then.

        Returns:
            Ids [rows, columns] int32 and standardised numbers [rows, columns] float32.
        """
        ids, numbers = [], []
        for spec in self._layout.of("title"):
            column = columns.get(spec.name)
            if spec.name == TITLE_ID or spec.kind == "codes":
                continue
            if spec.kind == "number":
                assert not isinstance(column, Lists)
                numbers.append(_encode_number(spec, column, rows)[0][:, None])
                continue
            if spec.kind == "text":
                assert not isinstance(column, Lists)
                ids.append(self._encode_category(spec, column, rows)[0])
                continue
            if column is None:
                column = Lists(np.empty(0, str), np.zeros(rows + 1, np.int64))
            lists = column if isinstance(column, Lists) else Lists(column, np.arange(rows + 1))
            encoded = self._encode_category(spec, lists.values, len(lists.values))[0]
            ids.append(pad_lists(encoded, lists.offsets, spec.columns))
        wide = np.concatenate(ids, axis=1) if ids else np.empty((rows, 0), np.int32)
        return wide, np.concatenate(numbers, axis=1) if numbers else np.empty((rows, 0), np.float32)


def _encode_number(spec: FeatureSpec, column: np.ndarray | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
    if column is None:
        return np.zeros(rows, np.float32), np.zeros(rows, bool)
    values = column.astype(np.float64)
    return standardise(values, spec), np.isfinite(values)


def _text(value: object) -> str:
    """Return the text of a value; a whole number may be a float where its column has gaps."""
    return str(value).removesuffix(".0")


def _stack(columns: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    """Join columns [rows] and blocks of columns [rows, columns]."""
    return np.column_stack(columns).astype(dtype) if columns else np.empty((rows, 0), dtype)
