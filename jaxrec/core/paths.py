"""Paths of datasets, workdirs and checkpoints: on this machine, or in a bucket (gs://, s3://).

A path of this machine is a `pathlib.Path`; one in a bucket is an `etils.epath.Path`, over fsspec's gcsfs
or s3fs. A bucket has no folders, so nothing is renamed into place as a whole, and no file is appended to:
a file appears whole once it is closed, and what is many files is complete when the last of them is there.
"""

import os
import re
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import fsspec
from etils import epath

from jaxrec.core.errors import InputError

Remote: TypeAlias = epath.Path
AnyPath: TypeAlias = Path | Remote

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs"}  # a scheme, and what fsspec reads it with
ALLOWED = "a path of this machine, gs://bucket/path or s3://bucket/path"
_AT_ONCE = 16  # files on their way
_CHUNK = 1 << 20

# One file system for every scheme. Else epath takes TensorFlow's where that happens to be installed, which
# is slow to import, takes an accelerator's memory, and has no s3 of its own.
os.environ.setdefault("EPATH_USE_TF", "false")
for _scheme in LIBRARIES:
    # What another process has written since a listing would not be seen.
    fsspec.config.conf.setdefault(_scheme, {}).setdefault("use_listings_cache", False)


def scheme_of(path: str) -> str:
    """ "gs" of "gs://bucket/x"; "" of a path of this machine. Raises InputError on any other scheme, and
    where no bucket is named."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)", path)
    if not found:
        return ""
    if found[1] not in LIBRARIES:
        raise InputError(f"{path}: {found[1]}:// is not known; allowed: {ALLOWED}")
    if not found[2]:
        raise InputError(f"{path}: names no bucket; allowed: {ALLOWED}")
    return found[1]


def as_path(path: str | os.PathLike) -> AnyPath:
    """The path of a dataset, workdir or checkpoint. Raises InputError as `scheme_of` does, and where the
    library that reads its scheme is not installed."""
    if isinstance(path, Path | Remote):
        return path
    text = os.fspath(path)
    scheme = scheme_of(text)
    if not scheme:
        return Path(text)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        library = LIBRARIES[scheme]
        raise InputError(
            f"{text}: {scheme}:// needs {library}, which does not import ({error}): pip install {library}; "
            "allowed without it: a path of this machine"
        ) from error
    return Remote(text)


def cache_folder(name: str) -> Path:
    """`jaxrec/<name>` under XDG_CACHE_HOME or ~/.cache: what can be deleted at any time. An XDG_CACHE_HOME
    that is not an absolute path does not count, as its specification asks."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "jaxrec" / name


# ---------------------------------------------------------------- files to and from a bucket


def files(folder: Remote) -> dict[str, int]:
    """Bytes of every file below, by its path from there; {} where there is none."""
    system, root = fsspec.core.url_to_fs(str(folder))
    root = root.rstrip("/") + "/"
    found = system.find(root, detail=True)
    return {name.removeprefix(root): info["size"] for name, info in found.items() if name != root}


def send(file: Path, to: Remote) -> None:
    with file.open("rb") as source, to.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)


def fetch(file: Remote, size: int, to: Path) -> None:
    """Copies a file of so many bytes here. Raises OSError where others come."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as source, to.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
    if to.stat().st_size != size:
        raise OSError(f"{file}: {to.stat().st_size} bytes came of {size}")


def send_folder(folder: Path, to: Remote, last: str) -> None:
    """Copies all files of a folder; `last`, which says that all are there, when they are."""
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    sign = folder / last
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sent = [pool.submit(send, path, to / str(path.relative_to(folder))) for path in every if path != sign]
        for each in sent:
            each.result()
    send(sign, to / last)


def fetch_folder(folder: Remote, to: Path, without: Collection[str] = ()) -> None:
    """Copies all files below a folder here, but for those in its folders `without`."""
    wanted = {name: size for name, size in files(folder).items() if name.partition("/")[0] not in without}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        come = [pool.submit(fetch, folder / name, size, to / name) for name, size in wanted.items()]
        for each in come:
            each.result()


def remove_folder(folder: Remote, first: str) -> None:
    """Removes all files of a folder, `first`, the sign that it is complete, before the others."""
    (folder / first).unlink(missing_ok=True)
    folder.rmtree(missing_ok=True)
