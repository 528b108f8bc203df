"""Shards of a remote dataset, copied to this machine once: whole, held to their size and their blocks.

array_record takes a file's path: of buckets it knows none but Google's, one request a block of rows at a
time, and batches take blocks at random. So shards are read as ever, from a copy in the cache folder; what
a copy holds is told by array_record's own hash of every block when it is read.
"""

import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import logging

from jaxrec.core.errors import InputError
from jaxrec.core.paths import Remote, fetch, files

_AT_ONCE = 8


def local_shards(
    remote: Remote, names: Sequence[str], blocks: Sequence[int], folder: Path, count: Callable[[Path], int]
) -> list[Path]:
    """Paths in `folder` of copies of a dataset's shards, each of so many blocks as `count` finds in them.
    Those that are not there yet are fetched; processes of a machine share them.

    Raises InputError where the folder cannot be made, or a shard holds another number of blocks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot hold copies of {remote}: {error.strerror}; "
            "set XDG_CACHE_HOME to a folder that can"
        ) from error
    if missing := [name for name in names if not (folder / name).exists()]:
        logging.info("dataset %s: copying %d shards to %s", remote, len(missing), folder)
    sizes = files(remote)

    def copy(name: str, held: int) -> Path:
        path, part = folder / name, folder / f".{name}.part"
        with (folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other processes wait, and find it there
            if not path.exists() or count(path) != held:
                fetch(remote / name, sizes[name], part)
                if count(part) != held:
                    raise InputError(
                        f"{remote / name}: holds {count(part)} blocks, not {held}; prepare it again"
                    )
                os.replace(part, path)
        return path

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(copy, names, blocks))
