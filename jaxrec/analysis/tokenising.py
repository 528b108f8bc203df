"""Codes of the titles of a config's dataset, from vectors of a trained model, from metadata, or drawn."""

from typing import Any

import numpy as np

from jaxrec.checkpoints.new_rows import TitleFeatures
from jaxrec.codes.folder import write_codes
from jaxrec.codes.residual_codes import code_vectors, random_codes
from jaxrec.config.rules.codes import GENERATIVE, check_room
from jaxrec.config.schema import Config, Start
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.paths import AnyPath
from jaxrec.data.storage.dataset import Dataset


def check_tokenise(config: Config) -> None:
    """Raise InputError if a config has no codes, or names no run whose vectors are coded."""
    if config.task.name != GENERATIVE:
        raise InputError(f"task.name={config.task.name!r} must be {GENERATIVE!r}: other tasks have no codes")
    if config.codes.vectors == "model" and not config.start.workdir:
        raise InputError(
            "start.workdir='' must be the workdir of the run whose title vectors are coded, with "
            "codes.vectors='model'"
        )


def tokenise(config: Config, dataset: Dataset, folder: str | AnyPath) -> dict[str, Any]:
    """Write the codes of a dataset's titles to a folder, and return the content of its codes.json.

    Args:
        config: A config for which `check_tokenise` raises nothing.
        dataset: Dataset of the config.
        folder: The folder.

    Raises:
        InputError: There are fewer paths than titles, more than `codes.size` titles have one path, or the run
            lacks a title of the dataset.
    """
    codes, arrays, seed = config.codes, dataset.arrays, config.train.seed
    titles = len(arrays.title_key)
    check_room(codes, titles)
    record: dict[str, Any] = {"vectors": codes.vectors, "dataset": dataset.fingerprint, "seed": seed}
    if codes.vectors == "random":
        made = random_codes(titles, codes.levels, codes.size, seed)
    elif codes.vectors == "metadata":
        features = TitleFeatures(dataset.layout, arrays.title_categories, arrays.title_numbers)
        vectors = features.vectors()[FIRST_TITLE:]
        if not vectors.any():
            raise InputError(
                "codes.vectors='metadata': the titles have no feature but ids; allowed: 'model', 'random'"
            )
        made = code_vectors(vectors, codes.levels, codes.size, seed)
    else:
        record["workdir"] = config.start.workdir
        made = code_vectors(_model_vectors(config.start, arrays.title_key), codes.levels, codes.size, seed)
    return write_codes(folder, arrays.title_key, made, record)


def _model_vectors(start: Start, title_key: np.ndarray) -> np.ndarray:
    """Return the title vectors [n, D] of a run, in the order of `title_key`."""
    import jax

    from jaxrec.runtime.mesh import replicate
    from jaxrec.tasks.loading import load_checkpoint

    loaded = load_checkpoint(start.workdir, start.which)
    keys = loaded.arrays.title_key
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys[order], title_key), len(keys) - 1)
    row = order[place]
    missing = int((keys[row] != title_key).sum())
    if missing:
        raise InputError(
            f"start.workdir={start.workdir}: has no vector of {missing:,} of {len(title_key):,} titles of "
            "the dataset; allowed: a run on all of them"
        )
    vectors = jax.jit(loaded.task.embed_titles)(loaded.params, replicate(loaded.arrays.title_table()))
    return np.asarray(vectors, np.float64)[row + FIRST_TITLE]
