"""One query of each training user, made from the last of the user's training rows."""

import numpy as np

from jaxrec.core.row_format import Layout
from jaxrec.data.storage.dataset import Dataset

MOST_USERS = 2**20  # in memory: some hundred bytes each
_BLOCKS = 64  # read at a time


def training_queries(dataset: Dataset, most: int = MOST_USERS) -> np.ndarray:
    """Return queries [U] of `Layout.query_dtype()`, one for each of the first training users.

    Users are in the order of their hash, so that the first ones are a random sample. The query of a ranking
    row has the history before its target; that of a sequence has all stored plays. Targets and candidate
    lists are empty.

    Args:
        dataset: The dataset.
        most: Largest number of users.
    """
    rows, layout = dataset.rows("train"), dataset.layout
    kept: list[np.ndarray] = []
    number, carried = 0, np.empty(0, rows.dtype)
    for start in range(0, rows.blocks, _BLOCKS):
        blocks = np.arange(start, min(start + _BLOCKS, rows.blocks))
        part = np.concatenate([carried, rows.read(blocks).reshape(-1).view(rows.dtype)])
        # Rows of one user follow one another; the user of the last row may go on in the next block.
        is_last = np.append(part["user"][1:] != part["user"][:-1], False)
        carried = part[-1:]
        kept.append(as_queries(part[is_last], layout))
        number += len(kept[-1])
        if number >= most:
            return np.concatenate(kept)[:most]
    return np.concatenate([*kept, as_queries(carried, layout)])


def as_queries(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """Return training rows as queries without targets and candidate lists.

    Args:
        rows: [N] Layout.row_dtype().
        layout: Layout of the rows.
    """
    queries = np.zeros(len(rows), layout.query_dtype())
    if layout.rows == "next_item":
        queries["user"] = rows["user"]
        prefix = "history_"
        for name in (n for n in queries.dtype.names or () if n.startswith(prefix)):
            queries[name] = rows[name.removeprefix(prefix)][:, -layout.max_history :]
        queries["target_time"] = rows["time"][:, -1]
        return queries
    targets = ("target", "target_completion")
    shared = [n for n in queries.dtype.names or () if n in (rows.dtype.names or ()) and n not in targets]
    for name in shared:
        queries[name] = rows[name]
    return queries
