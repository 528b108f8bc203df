"""Folder of the codes of a catalogue: arrays by title key, and codes.json, which is written last."""

import hashlib
import io
from typing import Any, NamedTuple

import numpy as np

from jaxrec.codes.residual_codes import Codes, largest_clusters
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import check_shape, parse_json, write_bytes, write_json
from jaxrec.core.paths import AnyPath, as_path, inside

RECORD = "codes.json"
FORMAT = 1
_RECORD = {"format": int, "fingerprint": str, "levels": int, "size": int, "titles": int}
_ARRAYS = ("title_key", "tokens", "centroids")


class StoredCodes(NamedTuple):
    """Codes of the titles of a catalogue.

    Attributes:
        title_key: [n] keys of the titles, in the order of their ids.
        codes: Codes of the titles.
        fingerprint: Hash of keys and tokens.
    """

    title_key: np.ndarray
    codes: Codes
    fingerprint: str


def fingerprint(title_key: np.ndarray, tokens: np.ndarray) -> str:
    """Return the first 16 hex digits of the sha256 of keys and tokens."""
    text = "\n".join(map(str, title_key.tolist())).encode()
    return hashlib.sha256(text + np.ascontiguousarray(tokens, "<i4").tobytes()).hexdigest()[:16]


def write_codes(
    folder: str | AnyPath, title_key: np.ndarray, codes: Codes, record: dict[str, Any]
) -> dict[str, Any]:
    """Write codes to a folder, which is created, and return the content of codes.json.

    Args:
        folder: The folder.
        title_key: [n] keys of the titles, in the order of their ids.
        codes: Codes of the titles.
        record: What the codes are of, values that JSON can represent.
    """
    path = as_path(folder)
    path.mkdir(parents=True, exist_ok=True)
    n, depth = codes.tokens.shape
    content = record | {
        "format": FORMAT,
        "fingerprint": fingerprint(title_key, codes.tokens),
        "titles": n,
        "levels": depth - 1,
        "size": codes.centroids.shape[1],
        "largest_cluster": list(largest_clusters(codes.tokens)),
        "distortion": list(codes.distortion),
        "collisions": int((codes.tokens[:, -1] > 0).sum()),
        "largest_leaf": int(codes.tokens[:, -1].max()) + 1,
    }
    for name, array in zip(_ARRAYS, (title_key, codes.tokens, codes.centroids), strict=True):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        write_bytes(inside(path, f"{name}.npy"), file.getvalue())
    write_json(inside(path, RECORD), content)
    return content


def read_codes(folder: str | AnyPath, key: str = "codes.path") -> StoredCodes:
    """Read the codes of a folder.

    Args:
        folder: The folder.
        key: Config field or flag that names it, for messages.

    Raises:
        InputError: The folder holds no codes, or they are damaged.
    """
    path = as_path(folder)
    advice = "give a folder that python -m jaxrec.tokenise wrote"
    if not inside(path, RECORD).is_file():
        raise InputError(f"{key}={folder}: no {RECORD}; {advice}")
    try:
        record = parse_json(inside(path, RECORD).read_bytes())
        check_shape(record, _RECORD, RECORD)
        arrays = [
            np.load(io.BytesIO(inside(path, f"{name}.npy").read_bytes()), allow_pickle=False)
            for name in _ARRAYS
        ]
    except (OSError, ValueError) as error:
        raise InputError(f"{key}={folder}: damaged: {error}; {advice}") from error
    title_key, tokens, centroids = arrays
    if record["format"] != FORMAT or fingerprint(title_key, tokens) != record["fingerprint"]:
        raise InputError(f"{key}={folder}: the arrays are not those of {RECORD}; {advice}")
    return StoredCodes(title_key, Codes(tokens, centroids, ()), record["fingerprint"])
