"""Catalogue of a run with the codes of its titles."""

from dataclasses import replace

import numpy as np

from jaxrec.codes.folder import fingerprint, read_codes
from jaxrec.config.rules.codes import GENERATIVE
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.arrays import Arrays


def check_codes_folder(config: Config) -> None:
    """Raise InputError if a config whose task generates codes names no folder of codes."""
    if config.task.name == GENERATIVE:
        if not config.codes.path:
            raise InputError("codes.path='' must be the folder that python -m jaxrec.tokenise wrote")
        read_codes(config.codes.path)


def with_codes(arrays: Arrays, config: Config) -> Arrays:
    """Return the arrays with the codes of `codes.path`, for a config whose task generates codes.

    Raises:
        InputError: There are no codes, or they are of other titles, levels or sizes.
    """
    if config.task.name != GENERATIVE:
        return arrays
    check_codes_folder(config)
    codes = config.codes
    stored = read_codes(codes.path)
    what = f"codes.path={codes.path}"
    size, levels = stored.codes.centroids.shape[1], stored.codes.tokens.shape[1] - 1
    if (levels, size) != (codes.levels, codes.size):
        raise InputError(
            f"{what}: holds {levels} levels of {size} tokens; allowed: codes.levels={codes.levels} and "
            f"codes.size={codes.size}, those of the config"
        )
    keys = arrays.title_key
    if len(stored.title_key) != len(keys) or not np.array_equal(stored.title_key, keys):
        raise InputError(
            f"{what}: the codes of another catalogue, of {len(stored.title_key):,} titles; allowed: those of "
            f"the dataset's {len(keys):,} titles, in their order"
        )
    tokens = np.zeros((len(keys) + FIRST_TITLE, levels + 1), np.int32)
    tokens[FIRST_TITLE:] = stored.codes.tokens
    return replace(arrays, title_codes=tokens)


def codes_fingerprint(arrays: Arrays) -> str:
    """Return the fingerprint of the titles' codes; empty without codes."""
    if arrays.title_codes is None:
        return ""
    return fingerprint(arrays.title_key, arrays.title_codes[FIRST_TITLE:])
