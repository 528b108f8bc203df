"""Arrays of the catalogue by name, as inputs of exported programs, and the title table that they make."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.codes.trie import trie_from_arrays, trie_to_arrays
from jaxrec.config.schema import Config
from jaxrec.core.batch import TitleTable
from jaxrec.core.row_format import Layout
from jaxrec.data.loading.title_codes import table_with_codes
from jaxrec.data.loading.title_maturity import maturity_of, reads_maturity
from jaxrec.data.storage.arrays import Arrays

_MATURITY = "maturity"  # of models that read the ages and plays of titles
_TRIE = "trie/"  # first part of the names of the trie's arrays, of models that generate codes


def catalogue_inputs(
    config: Config, layout: Layout, arrays: Arrays, log_q_V: np.ndarray, block: int
) -> dict[str, np.ndarray]:
    """Return the arrays of the catalogue that programs read, by name.

    Args:
        config: Config of the run.
        layout: Layout of the rows.
        arrays: Arrays of the catalogue.
        log_q_V: Log density of the correction by id.
        block: Titles of a block, to whose multiple the arrays by popularity rank are padded.
    """
    id_by_rank = np.pad(arrays.id_of_rank, (0, -len(arrays.id_of_rank) % block))
    table = table_with_codes(arrays, config)
    inputs = {
        "categories": table.categories, "numbers": table.numbers, "rank": table.rank, "log_q": log_q_V,
        "id_by_rank": id_by_rank, "log_q_by_rank": log_q_V[id_by_rank],
    }  # fmt: skip
    if reads_maturity(config):
        inputs[_MATURITY] = maturity_of(arrays, layout, config)
    if table.trie is not None:
        inputs |= {f"{_TRIE}{name}": array for name, array in trie_to_arrays(table.trie).items()}
    return inputs


def table_of_inputs(inputs: Mapping[str, Any]) -> TitleTable:
    """Return the title table of `catalogue_inputs`."""
    of_trie = {name.removeprefix(_TRIE): array for name, array in inputs.items() if name.startswith(_TRIE)}
    trie = trie_from_arrays(of_trie) if of_trie else None
    return TitleTable(
        inputs["categories"], inputs["numbers"], inputs["rank"], inputs.get(_MATURITY), trie=trie
    )
