"""Paths of datasets, workdirs and checkpoints, local or in a bucket.

Buckets are those of gs:// and s3://. A local path is a `pathlib.Path`; a path in a bucket is an
`etils.epath.Path`, over fsspec's gcsfs or s3fs. A bucket has no folders, so a folder cannot be renamed into
place, and no file can be appended to. A file appears as a whole when it is closed. A set of files is complete
once its marker file, written last, exists.
"""

import os
import re
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import fsspec
from etils import epath

from jaxrec.core.errors import InputError

Remote: TypeAlias = epath.Path
AnyPath: TypeAlias = Path | Remote

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs"}  # scheme -> library through which fsspec reads it
ALLOWED = "a path of this machine, gs://bucket/path or s3://bucket/path"
_MAX_TRANSFERS = 16  # files transferred concurrently
_CHUNK = 1 << 20  # bytes

# fsspec for every scheme. Without this setting epath uses TensorFlow's file system where TensorFlow is
# installed, which is slow to import, reserves accelerator memory, and has no s3 support of its own.
os.environ.setdefault("EPATH_USE_TF", "false")
for _scheme in LIBRARIES:
    # A cached listing would hide files that another process has written since.
    fsspec.config.conf.setdefault(_scheme, {}).setdefault("use_listings_cache", False)


def scheme_of(path: str) -> str:
    """Return the scheme of a path in a bucket, or "" for a local path.

    Example: "gs" for "gs://bucket/x".

    Raises:
        InputError: The scheme is not a key of LIBRARIES, or the bucket name is empty.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)", path)
    if not match:
        return ""
    if match[1] not in LIBRARIES:
        raise InputError(f"{path}: {match[1]}:// is not supported; allowed: {ALLOWED}")
    if not match[2]:
        raise InputError(f"{path}: the bucket name is empty; allowed: {ALLOWED}")
    return match[1]


def as_path(path: str | os.PathLike) -> AnyPath:
    """Convert the path of a dataset, workdir or checkpoint to a path object.

    Raises:
        InputError: The scheme is not supported, the bucket name is empty, or the library that reads the
            scheme cannot be imported.
    """
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
            f"{text}: {scheme}:// needs {library}, which cannot be imported ({error}): "
            f"pip install {library}; allowed without it: a path of this machine"
        ) from error
    return Remote(text)


def inside(folder: AnyPath, name: str) -> AnyPath:
    """Return the path of a file whose name was read from a file, which must stay in its folder.

    Args:
        folder: The folder.
        name: Relative path of the file, with "/" between its parts.

    Raises:
        InputError: The name leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise InputError(f"{folder}: {name!r} is no file of this folder; the file that names it was changed")
    return folder / name


def cache_folder(name: str) -> Path:
    """Return the folder `jaxrec/<name>` under XDG_CACHE_HOME or ~/.cache.

    The folder may be deleted at any time. A relative XDG_CACHE_HOME is ignored, as required by the XDG
    specification.
    """
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "jaxrec" / name


# ---------------------------------------------------------------- files to and from a bucket


def files(folder: Remote) -> dict[str, int]:
    """Return the sizes in bytes of all files below a folder, by relative path.

    The result is empty where no file exists.
    """
    system, root = fsspec.core.url_to_fs(str(folder))
    root = root.rstrip("/") + "/"
    listing = system.find(root, detail=True)
    return {name.removeprefix(root): info["size"] for name, info in listing.items() if name != root}


def send(file: Path, to: Remote) -> None:
    """Copy a local file to a bucket."""
    with file.open("rb") as source, to.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)


def fetch(file: Remote, size: int, to: Path) -> None:
    """Copy a file of `size` bytes from a bucket to this machine.

    Raises:
        OSError: The number of bytes received is not `size`.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    with file.open("rb") as source, to.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
    if to.stat().st_size != size:
        raise OSError(f"{file}: received {to.stat().st_size} bytes; expected {size}")


def send_folder(folder: Path, to: Remote, last: str) -> None:
    """Copy all files of a local folder to a bucket, the marker file last.

    Args:
        folder: Local folder.
        to: Target folder in a bucket.
        last: Relative path of the marker file, sent once all other files have arrived. The marker's
            presence in the bucket shows that the folder is complete.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    marker = folder / last
    with ThreadPoolExecutor(_MAX_TRANSFERS) as pool:
        transfers = [
            pool.submit(send, path, to / str(path.relative_to(folder))) for path in paths if path != marker
        ]
        for transfer in transfers:
            transfer.result()
    send(marker, to / last)


def fetch_folder(folder: Remote, to: Path, without: Collection[str] = ()) -> None:
    """Copy all files below a folder in a bucket to this machine.

    Args:
        folder: Folder in a bucket.
        to: Local target folder.
        without: Names of top-level entries of `folder` that are not copied.

    Raises:
        OSError: A file was not received completely.
    """
    sizes = {name: size for name, size in files(folder).items() if name.partition("/")[0] not in without}
    with ThreadPoolExecutor(_MAX_TRANSFERS) as pool:
        transfers = [pool.submit(fetch, folder / name, size, to / name) for name, size in sizes.items()]
        for transfer in transfers:
            transfer.result()


def remove_folder(folder: Remote, first: str) -> None:
    """Remove all files of a folder in a bucket, starting with the marker file `first`."""
    (folder / first).unlink(missing_ok=True)
    folder.rmtree(missing_ok=True)
