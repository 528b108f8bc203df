"""Character n-grams of text as ids of a table of fixed size (fastText; Bojanowski et al., arXiv 1607.04606).

A text is the lower-case form of its first TEXT_CHARACTERS characters. Its words are separated by white space.
A word has a boundary before its first and after its last character, and an n-gram is LENGTHS characters of
one word, boundaries included: "up" has "<up", "up>" and "<up>". An n-gram is hashed to one of ROWS rows, so
that new text needs no new row. At most MOST distinct rows are kept: those of shorter n-grams first, which
cover a long text, and in the order of the text. Missing text, and text of white space alone, has none.
"""

from collections.abc import Iterable

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.core.hashing import extend, mix
from jaxrec.core.ids import PAD, TEXT_CHARACTERS, UNKNOWN
from jaxrec.core.row_format import FeatureSpec

LENGTHS = (3, 4, 5)  # characters of an n-gram, boundaries included
ROWS = 2**15
_FIRST_ROW = UNKNOWN + 1
SIZE = _FIRST_ROW + ROWS  # of the table: padding and unknown have no text
MOST = 32  # n-grams of a text
_SPACE = 32
_DOTTED = "\u0130"  # the only character whose lower-case form is longer, of two characters
# Code points for which `str.isspace` is true, and NUL. A list, since Unicode data differ between machines.
_SPACES = np.array(
    [0, *range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
     0x205F, 0x3000], np.uint32
)  # fmt: skip
_CHUNK = 2**12  # texts at a time: several arrays of 8 bytes for each n-gram


def ngram_ids(text: np.ndarray) -> np.ndarray:
    """Return the ids [N, MOST] int32 of the n-grams of text, then 0.

    Args:
        text: [N] strings, "" where missing.
    """
    text = text.astype(f"U{min(max(text.dtype.itemsize // 4, 1), TEXT_CHARACTERS)}")
    ids = np.zeros((len(text), MOST), np.int32)
    length = np.char.str_len(text)
    order = np.argsort(length, kind="stable")  # so that the texts of a chunk are about equally long
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        ids[chunk] = _first_distinct(_hashed(text[chunk].astype(f"U{max(int(length[chunk[-1]]), 1)}")))
    return ids


def text_spec(feature: Feature) -> FeatureSpec:
    """Return the spec of a feature of kind "text", whose table has one size whatever the data hold."""
    f = feature
    return FeatureSpec(f.name, f.kind, f.where, f.width, size=SIZE, columns=MOST)


def code_columns(features: Iterable[Feature]) -> int:
    """Return the number of columns of codes of users' or contexts' features."""
    kinds = [f.kind for f in features]
    return len(kinds) - kinds.count("number") + kinds.count("text") * (MOST - 1)


def _hashed(text: np.ndarray) -> np.ndarray:
    """Return the ids [N, n-grams] int32 of all n-grams of [N] strings, shorter first; 0 for none."""
    if np.char.find(text, _DOTTED).max(initial=-1) >= 0:  # `lower` cuts what is longer than before
        text = text.astype(f"U{2 * text.dtype.itemsize // 4}")
    text = np.char.lower(text)
    width = max(text.dtype.itemsize // 4, 1)
    points = np.ascontiguousarray(text).view(np.uint32).reshape(len(text), width)
    is_word = ~np.isin(points, _SPACES)
    used = np.flatnonzero(is_word.any(axis=0))
    width = int(used[-1]) + 1 if len(used) else 1
    # A boundary on both sides, and boundaries up to the longest n-gram.
    edges = ((0, 0), (1, 1 + LENGTHS[-1]))
    is_word = np.pad(is_word[:, :width], edges)
    codes = np.where(is_word[:, 1 : 1 + width], points[:, :width], _SPACE).astype(np.uint64)
    codes, starts, parts = np.pad(codes, edges, constant_values=_SPACE), width + 1, []
    hashes = mix(*(codes[:, k : k + starts] for k in range(LENGTHS[0] - 1)))
    inside = is_word[:, 1 : 1 + starts]
    for n in LENGTHS:  # the characters between the first and the last belong to one word
        hashes = extend(hashes, np.ascontiguousarray(codes[:, n - 1 : n - 1 + starts]))
        parts.append(np.where(inside, _FIRST_ROW + (hashes >> np.uint64(64 - 15)).astype(np.int32), PAD))
        inside = inside & is_word[:, n - 1 : n - 1 + starts]
    return np.concatenate(parts, axis=1)


def _first_distinct(ids: np.ndarray) -> np.ndarray:
    """Return the first MOST distinct ids [N, MOST] of each row of ids [N, columns], then 0; 0 is no id."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, axis=1)
    is_first = (ordered > 0) & (np.diff(ordered, axis=1, prepend=0) != 0)
    kept = np.empty_like(is_first)
    np.put_along_axis(kept, order, is_first, axis=1)
    rank = np.cumsum(kept, axis=1)
    kept &= rank <= MOST
    row, column = np.nonzero(kept)
    out = np.zeros((len(ids), MOST), np.int32)
    out[row, rank[row, column] - 1] = ids[row, column]
    return out
