"""Search for the files of a table: a file, a folder or a glob.

Every file that is left out is named in a warning, except hidden ones and those whose name starts with an
underscore, which are marks of other tools and no data.
"""

import glob
import os
from pathlib import Path

from absl import logging

from jaxrec.core.errors import InputError
from jaxrec.sources.text import TAB_SUFFIXES, suffix_of

SUFFIXES = (".csv", ".parquet")  # of files that jaxrec writes
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_TABLE_SUFFIXES = (".csv", *TAB_SUFFIXES, *PARQUET_SUFFIXES)
_OTHER_TEXT = (".txt", ".dat", ".data")  # tables only where a folder holds no file of a table's suffix
TEXT_SUFFIXES = (".csv", *TAB_SUFFIXES, *_OTHER_TEXT)  # each may be followed by .gz, .zst or .zstd
_ALLOWED = f"{', '.join(TEXT_SUFFIXES)} (also .gz and .zst) or {', '.join(PARQUET_SUFFIXES)}"
_MAX_NAMED = 5  # files named in a warning


def find_files(key: str, pattern: str) -> list[str]:
    """Return the sorted files of one table, each once, and name the files left out in a warning.

    Suffixes may be in upper case. Links to folders are followed.

    Args:
        key: Config key of the pattern, for messages.
        pattern: A file, a folder or a glob of both. A folder is searched recursively, without names that
            start with "." or "_". Its .txt, .dat and .data files are tables only where it has no other.

    Raises:
        InputError: No file matches, a file that the pattern names is neither text nor Parquet, or text and
            Parquet are mixed.
    """
    if not pattern:
        raise InputError(f"{key} is empty; allowed: a text or Parquet file, a folder of such files or a glob")
    path = Path(pattern).expanduser()
    named = [path]
    if path.is_symlink() and not os.path.exists(path):  # Path.exists raises an error for a link to itself
        raise InputError(f"{key}={pattern!r} is a link to a file that does not exist")
    if not os.path.exists(path):
        marks = path.name.startswith("_")  # a pattern of underscored names
        matches = [Path(p) for p in glob.glob(str(path), recursive=True)]
        named = [p for p in matches if marks or not p.name.startswith("_")]
    paths: list[Path] = []
    left_out: dict[str, str] = {}  # file -> reason
    for entry in named:
        if not entry.is_dir():
            paths.append(entry)
            continue
        inside = _files_in(entry)
        tables = [p for p in inside if suffix_of(p.name) in _TABLE_SUFFIXES]
        tables = tables or [p for p in inside if suffix_of(p.name) in _OTHER_TEXT]
        paths += tables
        left_out |= {str(p): "not a table" for p in inside if p not in set(tables)}
    files: list[str] = []
    seen: dict[str, str] = {}
    for file in sorted({str(p) for p in paths}):
        if not os.path.exists(file):
            left_out[file] = "a link to a file that does not exist"
            continue
        same = seen.setdefault(os.path.realpath(file), file)
        if same == file:
            files.append(file)
        else:
            left_out[file] = f"the same file as {same}"
    if not files:
        raise InputError(f"{key}={pattern!r} matches no file {_ALLOWED} (current folder: {Path.cwd()})")
    for file in files:
        if not is_text(file) and suffix_of(file) not in PARQUET_SUFFIXES:
            raise InputError(f"{key}: {file} is not a file {_ALLOWED}")
        if is_text(file) != is_text(files[0]):
            raise InputError(f"{key}={pattern!r} mixes text and Parquet: {files[0]}, {file}")
    warn_of_left_out(key, {file: reason for file, reason in left_out.items() if file not in files})
    return files


def is_text(file: str) -> bool:
    """Return True if the file name is that of a text table, compressed or not."""
    return suffix_of(file) in TEXT_SUFFIXES


def warn_of_left_out(key: str, left_out: dict[str, str]) -> None:
    """Log the number and the names of files that are not read.

    Args:
        key: Config key of the table.
        left_out: Reason by file.
    """
    if left_out:
        names = [f"{file} ({reason})" for file, reason in sorted(left_out.items())]
        more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
        logging.warning(
            "%s: %s left out: %s%s",
            key,
            f"{len(names):,} file" + "s" * (len(names) > 1),
            ", ".join(names[:_MAX_NAMED]),
            more,
        )


def _files_in(folder: Path) -> list[Path]:
    """Return the files below a folder, through links, without hidden and underscored names."""
    files, visited = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a folder that contains it
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        files += [Path(parent) / name for name in sorted(names) if name[0] not in "._"]
    return files
