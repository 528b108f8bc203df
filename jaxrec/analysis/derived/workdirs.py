"""Workdirs of models that are computed from trained ones, for evaluation, recommendation and export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import plain, write_json
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.storage.arrays import Arrays
from jaxrec.tasks.loading import CHECKPOINTS


def check_new(key: str, workdir: str | AnyPath) -> AnyPath:
    """Return the path of a workdir to write.

    Args:
        key: Name of the flag, for the message.
        workdir: Folder.

    Raises:
        InputError: The folder exists and is not empty.
    """
    path = as_path(workdir)
    if path.exists() and (not isinstance(path, Path) or not path.is_dir() or any(path.iterdir())):
        raise InputError(f"--{key}={workdir}; allowed: a new or an empty folder")
    return path


def write_workdir(workdir: AnyPath, step: int, params: Any, meta: Mapping[str, Any], arrays: Arrays) -> None:
    """Write a checkpoint of parameters alone, and its config.json.

    The checkpoint has no state of the optimizer, so that a training can start from it and not resume it.

    Args:
        workdir: Folder.
        step: Step of the checkpoint.
        params: Tree of parameters.
        meta: Metadata, as those of a training.
        arrays: Arrays of the catalogue.
    """
    meta = plain(dict(meta))
    state = {"params": jax.tree.map(jax.numpy.asarray, params), "average": {}}
    with Checkpointer(workdir / CHECKPOINTS, writing=True) as checkpoints:
        checkpoints.save(step, state, meta, {name: np.asarray(x) for name, x in arrays.stored().items()})
        checkpoints.wait()
    write_json(workdir / "config.json", meta["config"])
