"""Codes of the titles of a config's dataset, from vectors of a trained model, from metadata, or drawn."""

from typing import Any

import numpy as np

from jaxrec.checkpoints.new_rows import TitleFeatures
from jaxrec.codes.folder import StoredCodes, read_codes, write_codes
from jaxrec.codes.residual_codes import Codes, code_new_titles, code_vectors, random_codes
from jaxrec.config.rules.codes import CODES, GENERATIVE, check_room, has_codes
from jaxrec.config.schema import Config, Start
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.paths import AnyPath
from jaxrec.data.storage.dataset import Dataset
from jaxrec.tasks.generative.catalogue import check_shape_of_codes


def check_tokenise(config: Config) -> None:
    """Raise InputError if a config has no codes, or names no run whose vectors are coded."""
    if not has_codes(config):
        raise InputError(
            f"task.name={config.task.name!r} must be {GENERATIVE!r}: other tasks have no codes without a "
            f"feature of kind {CODES!r}"
        )
    if config.codes.vectors == "model" and not config.start.workdir:
        raise InputError(
            "start.workdir='' must be the workdir of the run whose title vectors are coded, with "
            "codes.vectors='model'"
        )


def read_earlier(config: Config, extends: str) -> StoredCodes:
    """Return the codes of a folder, which `tokenise` extends.

    Raises:
        InputError: The folder holds no codes, or they have other levels or sizes than the config.
    """
    earlier = read_codes(extends, "extends")
    check_shape_of_codes(f"extends={extends}", earlier.codes, config)
    return earlier


def tokenise(
    config: Config, dataset: Dataset, folder: str | AnyPath, earlier: StoredCodes | None = None
) -> dict[str, Any]:
    """Write the codes of a dataset's titles to a folder, and return the content of its codes.json.

    Args:
        config: A config for which `check_tokenise` raises nothing.
        dataset: Dataset of the config.
        folder: The folder.
        earlier: Codes that stay: only titles that they lack are coded, by the nearest centroids whose
            clusters are not full. None: all titles are coded.

    Raises:
        InputError: There are fewer paths than titles, more than `codes.size` titles have one path, the run
            lacks a title of the dataset, or vectors do not have the width of the earlier centroids.
    """
    codes, key, seed = config.codes, dataset.arrays.title_key, config.train.seed
    check_room(codes, len(key))
    record: dict[str, Any] = {"vectors": codes.vectors, "dataset": dataset.fingerprint, "seed": seed}
    if codes.vectors == "model":
        record["workdir"] = config.start.workdir
    vectors = _vectors(config, dataset)
    if earlier is not None:
        record["extends"], made = earlier.fingerprint, _extended(earlier, key, vectors)
    elif codes.vectors == "random":
        made = random_codes(len(key), codes.levels, codes.size, seed)
    else:
        made = code_vectors(vectors, codes.levels, codes.size, seed)
    return write_codes(folder, key, made, record)


def _vectors(config: Config, dataset: Dataset) -> np.ndarray:
    """Return the vectors [n, D] of a dataset's titles, of `codes.vectors`; D = 0 for random codes."""
    arrays = dataset.arrays
    if config.codes.vectors == "random":
        return np.zeros((len(arrays.title_key), 0))
    if config.codes.vectors == "model":
        return _model_vectors(config.start, arrays.title_key)
    features = TitleFeatures(dataset.layout, arrays.title_categories, arrays.title_numbers)
    vectors = features.vectors()[FIRST_TITLE:][: len(arrays.title_key)]
    if not vectors.any():
        raise InputError(
            "codes.vectors='metadata': the titles have no feature but ids; allowed: 'model', 'random'"
        )
    return vectors


def _extended(earlier: StoredCodes, title_key: np.ndarray, vectors: np.ndarray) -> Codes:
    """Return codes of titles, of which those that have a code keep it."""
    width = earlier.codes.centroids.shape[2]
    if vectors.shape[1] != width:
        raise InputError(
            f"extends: the centroids have {width} columns, vectors of titles {vectors.shape[1]}; allowed: "
            "codes of the same codes.vectors, of a model of the same width or of the same features"
        )
    order = np.argsort(earlier.title_key, kind="stable")
    keys = earlier.title_key[order]
    place = np.minimum(np.searchsorted(keys, title_key), len(keys) - 1)
    is_new = keys[place] != title_key
    tokens = earlier.codes.tokens[order[place]].copy()
    tokens[is_new] = code_new_titles(vectors[is_new], earlier.codes)
    return Codes(tokens, earlier.codes.centroids, ())


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
    vectors = jax.jit(loaded.task.embed_titles)(
        loaded.params, replicate(loaded.task.title_table(loaded.arrays))
    )
    return np.asarray(vectors, np.float64)[row + FIRST_TITLE]
