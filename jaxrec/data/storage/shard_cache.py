"""Local cache of a remote dataset's shards, each copied once and checked.

The size and the number of blocks of a copy are checked.

array_record reads from a file path; of remote storage it supports Google's buckets only, with one request
per block, while batches read blocks in random order. Shards are therefore read from a copy in the cache
folder. The content of a copy is verified by array_record's hash of each block when the block is read.
"""

import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import logging

from jaxrec.core.errors import InputError
from jaxrec.core.paths import Remote, fetch, files

_THREADS = 8


def local_shards(
    remote: Remote, names: Sequence[str], blocks: Sequence[int], folder: Path, count: Callable[[Path], int]
) -> list[Path]:
    """Return local copies of a dataset's shards, downloading those that are absent.

    The processes of a machine share the copies.

    Args:
        remote: Directory of the dataset.
        names: File names of the shards.
        blocks: Expected number of blocks of each shard.
        folder: Local folder of the copies.
        count: Returns the number of blocks of a local shard.

    Raises:
        InputError: The folder cannot be created, or a shard has another number of blocks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot store copies of {remote}: {error.strerror}; "
            "set XDG_CACHE_HOME to a writable folder"
        ) from error
    if missing := [name for name in names if not (folder / name).exists()]:
        logging.info("dataset %s: copying %d shards to %s", remote, len(missing), folder)
    sizes = files(remote)

    def copy(name: str, expected: int) -> Path:
        path, partial = folder / name, folder / f".{name}.part"
        with (folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # other processes wait, then use this copy
            if not path.exists() or count(path) != expected:
                fetch(remote / name, sizes[name], partial)
                if count(partial) != expected:
                    raise InputError(
                        f"{remote / name}: has {count(partial)} blocks, expected {expected}; "
                        "prepare the dataset again"
                    )
                os.replace(partial, path)
        return path

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(copy, names, blocks))
