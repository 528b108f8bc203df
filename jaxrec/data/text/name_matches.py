"""Titles whose name or genre matches the text of a search as it is written."""

from typing import NamedTuple

import numpy as np

from jaxrec.core.ids import TEXT_CHARACTERS

NAME, WORD, NONE = 2, 1, 0  # levels of a match, the best first


class NameMatches(NamedTuple):
    """Names and genres of V titles, by popularity rank, in lower case with single spaces.

    Attributes:
        name_V: [V] strings; "" for a title without a name.
        genre: Genres, each once, in the form of a text.
        genre_VxG: [V, columns] index into `genre`, -1 for none.
    """

    name_V: np.ndarray
    genre: np.ndarray
    genre_VxG: np.ndarray

    def levels(self, text: str) -> np.ndarray:
        """Return the level [V] int8 of each title's match.

        NAME: the name begins with the text, or a genre is the text. WORD: a later word of the name begins
        with it. NONE: any other title, and every title where the text is empty.

        Args:
            text: Text of a search; as much is read as a model reads.
        """
        text = plain(text)
        out = np.zeros(len(self.name_V), np.int8)
        if not text:
            return out
        out[np.char.find(self.name_V, f" {text}") >= 0] = WORD
        out[np.char.startswith(self.name_V, text)] = NAME
        out[(self.genre_VxG == _index(self.genre, text)).any(axis=1)] = NAME
        return out


def name_matches(names: np.ndarray, genres: np.ndarray, genre_VxG: np.ndarray) -> NameMatches:
    """Return the matches of names.

    Args:
        names: [V] names of titles, by popularity rank.
        genres: [G] genres as text.
        genre_VxG: [V, columns] index into `genres`, -1 for none.
    """
    values, index = np.unique(np.array([plain(g) for g in genres.tolist()], str), return_inverse=True)
    of_title = np.where(genre_VxG >= 0, np.append(index, -1)[genre_VxG], -1)
    return NameMatches(np.array([plain(str(name)) for name in names.tolist()], str), values, of_title)


def plain(text: str) -> str:
    """Return a text as it is matched: its first characters in lower case, with single spaces."""
    return " ".join(text[:TEXT_CHARACTERS].lower().split())


def _index(values: np.ndarray, text: str) -> int:
    """Return the index of a text in sorted values; -2 where it is none of them."""
    at = int(np.searchsorted(values, text))
    return at if at < len(values) and values[at] == text else -2
