"""Catalogue of a run with the codes of its titles."""

from dataclasses import replace

import numpy as np

from jaxrec.codes.folder import fingerprint, read_codes
from jaxrec.codes.residual_codes import Codes
from jaxrec.config.rules.codes import has_codes
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.arrays import NO_CODE, Arrays


def check_codes_folder(config: Config) -> None:
    """Raise InputError if a config whose model generates or reads codes names no folder of codes."""
    if has_codes(config):
        if not config.codes.path:
            raise InputError("codes.path='' must be the folder that python -m jaxrec.tokenise wrote")
        read_codes(config.codes.path)


def check_shape_of_codes(what: str, stored: Codes, config: Config) -> None:
    """Raise InputError unless codes have the levels and the size of a config."""
    codes, size, levels = config.codes, stored.centroids.shape[1], stored.tokens.shape[1] - 1
    if (levels, size) != (codes.levels, codes.size):
        raise InputError(
            f"{what}: holds {levels} levels of {size} tokens; allowed: codes.levels={codes.levels} and "
            f"codes.size={codes.size}, those of the config"
        )


def with_codes(arrays: Arrays, config: Config) -> Arrays:
    """Return the arrays with the codes of `codes.path`, for a config whose model generates or reads codes.

    Raises:
        InputError: There are no codes, or they are of other titles, levels or sizes.
    """
    if not has_codes(config):
        return arrays
    check_codes_folder(config)
    codes = config.codes
    stored = read_codes(codes.path)
    what = f"codes.path={codes.path}"
    check_shape_of_codes(what, stored.codes, config)
    keys = arrays.title_key
    if len(stored.title_key) != len(keys) or not np.array_equal(stored.title_key, keys):
        raise InputError(
            f"{what}: the codes of another catalogue, of {len(stored.title_key):,} titles; allowed: those of "
            f"the dataset's {len(keys):,} titles, in their order"
        )
    tokens = np.full((len(arrays.rank_of_id), codes.levels + 1), NO_CODE, np.int32)
    tokens[:FIRST_TITLE] = 0
    tokens[FIRST_TITLE : FIRST_TITLE + len(keys)] = stored.codes.tokens
    return replace(arrays, title_codes=tokens)


def codes_fingerprint(arrays: Arrays) -> str:
    """Return the fingerprint of the titles' codes; empty without codes."""
    if arrays.title_codes is None:
        return ""
    return fingerprint(arrays.title_key, arrays.title_codes[FIRST_TITLE:][: len(arrays.title_key)])
