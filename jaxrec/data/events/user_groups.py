"""Groups of complete users from chunks in any order, with bounded memory."""

import itertools
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxrec.core.hashing import of_keys
from jaxrec.core.tables import Interactions, Signals, Users
from jaxrec.data.events.partitions import merge_ranges, partition_of

Chunk = Interactions | Users | Signals
GROUP_ROWS = 250_000  # rows of a group; about 200 MB while its requests are built
_FILES = 512


def user_groups(chunks: Iterable[Chunk], limit: int = GROUP_ROWS) -> Iterator[list[Chunk]]:
    """Yield groups of chunks that hold all rows of their users.

    Rows up to `limit` are one group in the order of the chunks and stay in memory. More rows are written to
    temporary files by a hash of the user, and the groups come in the order of the hashes.

    Args:
        chunks: Plays, rows of the users table and events of signals, in any order.
        limit: Maximum number of rows in memory. A group exceeds the limit only where one file does.
    """
    buffered: list[Chunk] = []
    rows, iterator = 0, iter(chunks)
    for chunk in iterator:
        buffered.append(chunk)
        rows += len(user_keys(chunk))
        if rows > limit:
            break
    if rows <= limit:
        if rows:
            yield buffered
        return
    with tempfile.TemporaryDirectory(prefix="jaxrec-users-") as folder:
        paths = [Path(folder) / f"{f:05d}" for f in range(_FILES)]
        counts = np.zeros(_FILES, np.int64)
        all_chunks, buffered = itertools.chain(buffered, iterator), []
        for chunk in all_chunks:
            _write(chunk, paths, counts)
        of_file = merge_ranges(counts, -(-int(counts.sum()) // limit))
        for group in range(int(of_file.max()) + 1):
            yield [chunk for f in np.flatnonzero(of_file == group) for chunk in _read(paths[f])]


def user_keys(chunk: Chunk) -> np.ndarray:
    """Return the user key of each row of a chunk: [N] bytes, or integers as the source has them."""
    return chunk.key if isinstance(chunk, Users) else chunk.user


def _write(chunk: Chunk, paths: list[Path], counts: np.ndarray) -> None:
    """Append the rows of a chunk to the files of their users."""
    file_of_row = partition_of(of_keys(user_keys(chunk)), len(paths))
    order = np.argsort(file_of_row, kind="stable")
    in_file = np.bincount(file_of_row, minlength=len(paths))
    ends = np.cumsum(in_file)
    for f in np.flatnonzero(in_file):
        with paths[f].open("ab") as file:
            pickle.dump(_select(chunk, order[ends[f] - in_file[f] : ends[f]]), file, pickle.HIGHEST_PROTOCOL)
    counts += in_file


def _read(path: Path) -> Iterator[Chunk]:
    """Yield the chunks of a file, in the order of writing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            yield pickle.load(file)


def _select(chunk: Chunk, rows: np.ndarray) -> Chunk:
    """Return the selected rows of a chunk."""
    if isinstance(chunk, Users):
        features = {name: column[rows] for name, column in chunk.features.items()}
        return Users(chunk.key[rows], features, None if chunk.split is None else chunk.split[rows])
    if isinstance(chunk, Signals):
        columns = {name: getattr(chunk, name)[rows] for name in ("user", "title", "time", "kind", "value")}
        text = None if chunk.text is None else np.asarray(chunk.text)[rows]
        return replace(chunk, **columns, text=text, row=None if chunk.row is None else chunk.row[rows])
    return replace(
        chunk,
        user=chunk.user[rows],
        title=chunk.title[rows],
        time=chunk.time[rows],
        seconds=chunk.seconds[rows],
        context={name: column[rows] for name, column in chunk.context.items()},
        row=None if chunk.row is None else chunk.row[rows],
    )
