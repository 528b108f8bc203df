"""Titles of the simulated service as its canvases show them: names of few words, prefixes, kinship.

A name has one to three of 400 words of two or three syllables, so that prefixes of names collide, and so
that some titles have the same name. The cosine of two titles' taste vectors is their kinship.
"""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.core.tables import Lists
from jaxrec.sources.simulator.draws import Draw, on_grid

WORDS = 400
PREFIXES = np.arange(2, 9)  # lengths of the prefixes that are searched for, in characters
_CONSONANTS, _VOWELS = np.array([*"bcdfghklmnprstvz"]), np.array([*"aeiou"])
_CANDIDATES = 3  # drawn words for each word kept: a word that was drawn before is left out
_THREE_SYLLABLES = 0.5  # fraction of words
_NAME_WORDS = (0.3, 0.75)  # 30% of names have one word, 45% two, 25% three


class CanvasTitles(NamedTuple):
    """Names and kinship of V titles, which queries and pages are matched with.

    Attributes:
        name: [V] strings.
        prefix: [PREFIXES, V] int64; two titles have one number if their prefixes of that length are equal.
        genre: [V, genres] float64; 1 / (number of the title's genres) where a genre is listed, otherwise 0.
        direction: [V, genres] float32 taste vectors of length about 1, on the grid.
    """

    name: np.ndarray
    prefix: np.ndarray
    genre: np.ndarray
    direction: np.ndarray

    def kinship(self, source: np.ndarray, title: np.ndarray) -> np.ndarray:
        """Return the cosine [N, C] float32 of sources [N] and titles [N, C] or [C]; 0 for the source -1.

        The sums are exact, as those of utilities, so that a user makes the same choices in any batch.
        """
        cosine = self.direction[source] @ np.ascontiguousarray(self.direction.T)
        cosine[source < 0] = 0.0
        return cosine[:, title] if title.ndim == 1 else np.take_along_axis(cosine, title.astype(np.int64), 1)


def has_canvases(c: Simulator) -> bool:
    """Return True if plays come from several canvases."""
    return c.search > 0 or c.similar > 0


def make_titles(c: Simulator, taste: np.ndarray, genres: Lists, every_genre: np.ndarray) -> CanvasTitles:
    """Name the titles of a service with several canvases.

    Args:
        c: Settings of the simulator.
        taste: [V, genres] taste vectors.
        genres: Genres of each title.
        every_genre: [genres] names of the genres, in the order of the columns of `taste`.
    """
    name = _names(c)
    cuts = (np.char.rstrip(name.astype(f"U{length}")) for length in PREFIXES)
    lengths, index = np.diff(genres.offsets), np.argsort(every_genre)
    share = np.zeros(taste.shape)
    column = index[np.searchsorted(every_genre, genres.values, sorter=index)]
    share[np.repeat(np.arange(len(taste)), lengths), column] = np.repeat(1.0 / lengths, lengths)
    return CanvasTitles(
        name=name,
        prefix=np.stack([np.unique(cut, return_inverse=True)[1].reshape(-1) for cut in cuts]),
        genre=share,
        direction=on_grid(taste / np.linalg.norm(taste, axis=1, keepdims=True)),
    )


def prefixes(name: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return prefixes [N] of names [N], without a last space; lengths [N] are of PREFIXES."""
    out = np.full(len(name), "", f"U{PREFIXES[-1]}")
    for n in PREFIXES:
        at = length == n
        out[at] = np.char.rstrip(name[at].astype(f"U{n}"))
    return out


def _words(c: Simulator) -> np.ndarray:
    """Return [WORDS] distinct words of lower-case letters."""
    word, syllable = np.arange(_CANDIDATES * WORDS)[:, None], np.arange(3)
    first = hashing.randint(len(_CONSONANTS), c.seed, Draw.SYLLABLE, word, syllable, 0)
    second = hashing.randint(len(_VOWELS), c.seed, Draw.SYLLABLE, word, syllable, 1)
    part = np.char.add(_CONSONANTS[first], _VOWELS[second])
    is_long = hashing.uniform(c.seed, Draw.WORD_LENGTH, word[:, 0]) < _THREE_SYLLABLES
    drawn = np.char.add(np.char.add(part[:, 0], part[:, 1]), np.where(is_long, part[:, 2], ""))
    return drawn[np.sort(np.unique(drawn, return_index=True)[1])[:WORDS]]


def _names(c: Simulator) -> np.ndarray:
    """Return the names [V] of the titles."""
    row = np.arange(c.titles)
    words = _words(c)[hashing.randint(WORDS, c.seed, Draw.NAME, row[:, None], np.arange(3))]
    count = 1 + np.searchsorted(_NAME_WORDS, hashing.uniform(c.seed, Draw.NAME_WORDS, row))
    name = words[:, 0]
    for n in (1, 2):
        name = np.where(count > n, np.char.add(np.char.add(name, " "), words[:, n]), name)
    return name
