"""Datasets that are written from another one: complete or absent, left as they are if they are there."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.data.storage.dataset import MANIFEST, Dataset, read_manifest
from jaxrec.data.storage.evaluation_arrays import EvaluationArrays
from jaxrec.runtime.locks import exclusive
from jaxrec.tasks.loading import LoadedCheckpoint


class Rewritten(NamedTuple):
    """Result of writing a dataset from another one.

    Attributes:
        manifest: Manifest of the dataset.
        written: False if the dataset was there already.
    """

    manifest: dict[str, Any]
    written: bool


def rewrite(out: str | AnyPath, own: str, what: str, write: Callable[[AnyPath], None]) -> Rewritten:
    """Write a dataset to a folder, unless the folder holds it.

    Args:
        out: Folder of the dataset.
        own: Digest of what it is made from, the "digest" of its manifest.
        what: Description of the dataset, for messages.
        write: Writes the dataset to a folder, which appears when it is complete.

    Raises:
        InputError: The folder holds something else.
    """
    folder = as_path(out)
    with exclusive(folder.parent / f".{folder.name}.lock", f"dataset {out}", wait=True):
        is_there = (folder / MANIFEST).exists()
        if is_there and read_manifest(folder / MANIFEST)["digest"] != own:
            raise InputError(
                f"dataset {out}: exists, and is not {what}; remove it, or name another directory"
            )
        if not is_there:
            write(folder)
        return Rewritten(read_manifest(folder / MANIFEST), not is_there)


def copied_manifest(dataset: Dataset) -> dict[str, Any]:
    """Return the manifest of a dataset without what a writer adds."""
    added = ("files", "checksum", "fingerprint")
    return {name: value for name, value in dataset.manifest.items() if name not in added}


def content_digest(loaded: LoadedCheckpoint) -> str:
    """Return the hex sha256 of the config and the parameters of a checkpoint."""
    config = json.dumps(loaded.meta["config"], sort_keys=True).encode()
    return hashlib.sha256(config + _bytes_of(loaded.params)).hexdigest()


def parameters_digest(loaded: LoadedCheckpoint) -> str:
    """Return the hex sha256 of the parameters of a checkpoint, whatever folders its config names."""
    return hashlib.sha256(_bytes_of(loaded.params)).hexdigest()


def _bytes_of(params: Any) -> bytes:
    parts = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(jax.device_get(leaf))
        parts += [f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode(), array.tobytes()]
    return b"".join(parts)


def evaluation_of(dataset: Dataset) -> EvaluationArrays | None:
    """Return the arrays for evaluation; None for a dataset that was prepared before they were stored."""
    daily, seen = dataset.daily_plays(), {split: dataset.seen_titles(split) for split in SPLITS[1:]}
    stored = {split: titles for split, titles in seen.items() if titles is not None}
    truth = {split: arrays for split in SPLITS[1:] if (arrays := dataset.truth(split)) is not None}
    return EvaluationArrays(stored, daily, truth) if daily and len(stored) == len(seen) else None
