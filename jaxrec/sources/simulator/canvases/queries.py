"""Canvases of plays on the simulated service, and queries of the plays that were searched for.

A user who searches has chosen a title, and types a query: a prefix of 2 to 8 characters of its name, or, one
time in five, the word of one of its genres. One query in twenty has a wrong letter. Given how a query was
made (its kind, its length, and its right letters), a title is therefore the one wanted in proportion to its
choice density times the probability that its search gives this query: the density restricted to the titles
that match. A canvas "similar" is the page of the last title that the user liked: one that was watched and
not abandoned. There the utility of a title gains `kinship` times the cosine of both titles' tastes.
"""

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.sources.simulator.canvases.titles import PREFIXES, CanvasTitles, prefixes
from jaxrec.sources.simulator.draws import Draw

CANVASES = np.array(["home", "similar", "search"])
HOME, SIMILAR, SEARCH = range(3)  # rows of CANVASES
GENRE_QUERIES = 0.2  # fraction of queries that are a genre's word
TYPOS = 0.05  # fraction of queries with a wrong letter
_LETTERS = 26


def draw_canvases(c: Simulator, key: np.ndarray, n: int, liked: np.ndarray) -> np.ndarray:
    """Return the canvas [U] of play `n` of users; only those who liked a title have a page of it.

    Args:
        c: Settings of the simulator.
        key: [U] keys of users.
        n: Number of the play among the user's.
        liked: [U] row of the last title liked, -1 for none.
    """
    point = hashing.uniform(c.seed, Draw.CANVAS, key, n)
    is_similar = (point < c.search + c.similar) & (liked >= 0)
    return np.where(point < c.search, SEARCH, np.where(is_similar, SIMILAR, HOME)).astype(np.int8)


def query_probability(
    c: Simulator, titles: CanvasTitles, key: np.ndarray, n: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return the probability [N, V] of a play's query, by the title that is searched for.

    The kind and the length of the query are known, and its right letters.

    Args:
        c: Settings of the simulator.
        titles: Names and genres.
        key: [N] keys of the users of plays.
        n: [N] number of each play among the user's.
        wanted: [N] title of each play.
    """
    length = _lengths(c, key, n) - PREFIXES[0]
    codes = titles.prefix[length]  # [N, V]
    of_prefix = codes == codes[np.arange(len(wanted)), wanted][:, None]
    of_genre = titles.genre[:, _genres(c, titles, key, n, wanted)].T
    return np.where(_names_a_genre(c, key, n)[:, None], of_genre, of_prefix).astype(np.float32)


def queries(
    c: Simulator, titles: CanvasTitles, every_genre: np.ndarray, key: np.ndarray, n: np.ndarray,
    wanted: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the text [N] of the queries of plays, wrong letters included.

    Args:
        c: Settings of the simulator.
        titles: Names and genres.
        every_genre: [genres] names of the genres.
        key: [N] keys of the users of plays.
        n: [N] number of each play among the user's.
        wanted: [N] title of each play.
    """
    of_prefix = prefixes(titles.name[wanted], _lengths(c, key, n))
    of_genre = every_genre[_genres(c, titles, key, n, wanted)]
    text = np.where(_names_a_genre(c, key, n), of_genre, of_prefix)
    wrong = np.flatnonzero(hashing.uniform(c.seed, Draw.TYPO, key, n) < TYPOS)
    text[wrong] = _with_wrong_letters(c, text[wrong], key[wrong], n[wrong])
    return text


def _with_wrong_letters(c: Simulator, text: np.ndarray, key: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return text [N] with a wrong letter, the first one where a space is drawn."""
    letters = text.view(np.uint32).reshape(len(text), text.dtype.itemsize // 4).copy()
    drawn = hashing.uniform(c.seed, Draw.TYPO_AT, key, n) * np.char.str_len(text)
    row, at = np.arange(len(text)), drawn.astype(np.int64)
    at = np.where(np.char.isalpha(letters[row, at].view("U1")), at, 0)
    added = 1 + hashing.randint(_LETTERS - 1, c.seed, Draw.TYPO_LETTER, key, n)
    letters[row, at] = ord("a") + (letters[row, at] - ord("a") + added) % _LETTERS
    return letters.view(text.dtype)[:, 0]


def _lengths(c: Simulator, key: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the lengths [N] of prefixes, evenly distributed."""
    return PREFIXES[0] + hashing.randint(len(PREFIXES), c.seed, Draw.QUERY_LENGTH, key, n)


def _names_a_genre(c: Simulator, key: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return [N] True for the queries that are a genre's word."""
    return hashing.uniform(c.seed, Draw.QUERY_KIND, key, n) < GENRE_QUERIES


def _genres(
    c: Simulator, titles: CanvasTitles, key: np.ndarray, n: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Return one of the genres [N] of each title wanted, each with the same probability."""
    listed = np.cumsum(titles.genre[wanted] > 0, axis=1)
    drawn = hashing.uniform(c.seed, Draw.QUERY_GENRE, key, n) * listed[:, -1]
    return (listed <= drawn[:, None]).sum(axis=1)
