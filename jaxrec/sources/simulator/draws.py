"""Draws of the simulated service: purposes, standard normal numbers, and the binary grid of utilities."""

from enum import IntEnum, unique

import numpy as np

from jaxrec.core import hashing

_GRID = 2.0**8


@unique
class Draw(IntEnum):
    """Purpose of a draw, the second coordinate of its hash."""

    GENRE_COUNT, GENRES, QUIRK, QUALITY, BAIT, BAITED, FORM, RUNTIME, RANK = range(9)
    TASTE, PATIENCE, ACTIVITY, INTEREST, INTEREST_MOVES, SEGMENT, SEGMENT_NOISE = range(9, 16)
    SITTING, MOOD, DAY, HOUR, MINUTE, GAP, SLATE, CHOICE = range(16, 24)
    STAY, SHARE, CUT, CUT_AT, SESSIONS, SESSION_GAP, DEVICE = range(24, 31)
    REPLAY, REPLAY_AT, REPLAY_STAY, REPLAY_SHARE = range(31, 35)
    HABIT, SURPRISE, LENIENCY, THUMB, THUMB_UP, THUMB_LATER, THUMB_WAIT = range(35, 42)
    RATED, RATING_NOISE, LISTED, LIST_CHOICE, LOGGED = range(42, 47)
    TRAILERS, TRAILER_CHOICE, TRAILER_AT, TRAILER_LENGTH = range(47, 51)
    LAUNCHED, LAUNCH_AGE, TREND, COUNTRY, COUNTRY_TASTE, LICENCE = range(51, 57)
    TENURE, JOINED, MOOD_MOVES, REGIME = range(57, 61)
    SYLLABLE, WORD_LENGTH, NAME, NAME_WORDS, CANVAS = range(61, 66)
    QUERY_LENGTH, QUERY_KIND, QUERY_GENRE, TYPO, TYPO_AT, TYPO_LETTER = range(66, 72)


def normal(*parts) -> np.ndarray:
    """Return standard normal float64 [...] from the hash of whole numbers (Box-Muller).

    Args:
        *parts: Whole numbers, broadcast together, as for `hashing.mix`.
    """
    radius = np.sqrt(-2.0 * np.log(hashing.uniform(*parts, 0)))
    return radius * np.cos(2.0 * np.pi * hashing.uniform(*parts, 1))


def on_grid(x: np.ndarray) -> np.ndarray:
    """Round [...] to a multiple of 1 / _GRID, as float32."""
    return (np.round(x * _GRID) / _GRID).astype(np.float32)
