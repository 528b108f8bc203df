"""Arrays of the catalogue, and rows as words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxrec.codes.trie import build_trie
from jaxrec.core.batch import TitleTable, TitleTrie
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import FeatureSpec, Layout

NO_CODE = -1  # tokens of an id without a code


@dataclass(frozen=True)
class Arrays:
    """Arrays of the catalogue: with the config, all that a checkpoint needs.

    V is the number of title ids, including 0 and 1. T = V - 2 titles, or fewer where `Layout.has_gaps`: the
    last ids then have no title, and titles that the source does not have any more have no rank.

    Attributes:
        title_key: [T] keys of the source, by id.
        title_runtime: [T] float64 minutes.
        title_plays: [V] int64 plays by training users.
        rank_of_id: [V] int32 popularity rank, V for padding, unknown and ids without a title.
        id_of_rank: [<= T] int32 id at each popularity rank.
        title_categories: [V, columns] int32 ids.
        title_numbers: [V, columns] float32, standardised.
        title_codes: [V, levels + 1] int32 tokens of each title, 0 for padding and unknown, NO_CODE for ids
            without a code; None: the titles have no codes. A dataset has none, a checkpoint has those that
            its model generates or reads.
    """

    title_key: np.ndarray
    title_runtime: np.ndarray
    title_plays: np.ndarray
    rank_of_id: np.ndarray
    id_of_rank: np.ndarray
    title_categories: np.ndarray
    title_numbers: np.ndarray
    title_codes: np.ndarray | None = None

    def title_table(self) -> TitleTable:
        """Return the titles' features, popularity ranks and codes for the device."""
        return TitleTable(self.title_categories, self.title_numbers, self.rank_of_id, trie=self._trie())

    def _trie(self) -> TitleTrie | None:
        if self.title_codes is None:
            return None
        ids = FIRST_TITLE + np.flatnonzero(self.title_codes[FIRST_TITLE:, 0] != NO_CODE)
        tokens = self.title_codes[ids]
        return build_trie(tokens, ids, len(self.title_codes), int(tokens.max(initial=0)) + 1)

    def stored(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, without those that are None."""
        return {name: array for name, array in vars(self).items() if array is not None}


# Names of the arrays that every dataset and every checkpoint has.
CATALOGUE_ARRAYS = tuple(name for name in Arrays.__dataclass_fields__ if name != "title_codes")


def grown_codes(title_codes: np.ndarray | None, titles: int) -> np.ndarray | None:
    """Return the codes of a catalogue with more title ids V, those after the old ones without a code."""
    if title_codes is None:
        return None
    new = np.full((titles - len(title_codes), title_codes.shape[1]), NO_CODE, np.int32)
    return np.concatenate([title_codes, new])


def check_lengths(arrays: Arrays, layout: Layout, what: str, advice: str) -> None:
    """Raise InputError unless each array has a row for each title of the layout."""
    titles = layout.num_titles
    for name, array in arrays.stored().items():
        by_id = name in ("title_plays", "rank_of_id", "title_categories", "title_numbers", "title_codes")
        expected, rows = titles if by_id else titles - FIRST_TITLE, len(array)
        if rows != expected and not (layout.has_gaps and not by_id and 0 < rows < expected):
            raise InputError(f"{what}: {name} has {rows:,} rows in place of {expected:,}; {advice}")


def as_words(rows: np.ndarray) -> np.ndarray:
    """Return structured rows [N] as [N, words] uint32.

    The result is a view where the rows are contiguous.
    """
    return np.ascontiguousarray(rows).view("<u4").reshape(len(rows), rows.dtype.itemsize // 4)


def split_columns(
    specs: Sequence[FeatureSpec], categories: np.ndarray | None, numbers: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return the columns of each feature, [N, columns], from the arrays that hold all of them.

    Args:
        specs: Features in the order of their columns.
        categories: [N, columns] ids; None: rows do not store them.
        numbers: [N, columns]; None: rows do not store them.
    """
    features: dict[str, np.ndarray] = {}
    used = {True: 0, False: 0}
    for spec in specs:
        is_number = spec.kind == "number"
        first = used[is_number]
        used[is_number] += spec.columns
        array = numbers if is_number else categories
        if array is not None:
            features[spec.name] = array[:, first : first + spec.columns]
    return features
