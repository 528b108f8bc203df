"""Folder of checkpoints: its complete steps, and a check before a write, without opening the checkpoints."""

import os
import tempfile
from pathlib import Path

import orbax.checkpoint as ocp

from jaxrec.core.paths import AnyPath, as_path


def complete_steps(directory: str | AnyPath) -> list[int]:
    """Return the complete steps; none where there is no such directory.

    Any thread of a single process may call this function.
    """
    path = as_path(directory)
    return list(ocp.utils.checkpoint_steps(path)) if path.is_dir() else []


def describe_latest(directory: str | AnyPath) -> str:
    """Describe the newest complete checkpoint of a directory in words."""
    steps = complete_steps(directory)
    return f"the last checkpoint is step {max(steps)}" if steps else "there is no checkpoint"


def check_writable(directory: Path) -> None:
    """Create and remove an empty folder in a local directory.

    Orbax starts threads before it creates the folder of a step. Where that fails they wait for it for five
    minutes, in which the process cannot end.

    Raises:
        OSError: The disk is full, the directory is read-only, or the user may not write there.
    """
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=directory))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from error
