"""Levels of the match of a text with names and genres, by hand and by a loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrec.data.text.name_matches import NAME, NONE, WORD, name_matches, plain

NAMES = np.array(["Up", "Up  All Night", "all up", "Night", "", "Upper", "\u00c9tude in Ba"])
GENRES = np.array(["Drama", "Science  Fiction", "night"])
OF_TITLE = np.array([[0, -1], [1, 0], [-1, -1], [2, -1], [0, -1], [-1, 1], [2, 0]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("up", [NAME, NAME, WORD, NONE, NONE, NAME, NONE]),
        (" UP ", [NAME, NAME, WORD, NONE, NONE, NAME, NONE]),
        ("up al", [NONE, NAME, NONE, NONE, NONE, NONE, NONE]),
        ("all", [NONE, WORD, NAME, NONE, NONE, NONE, NONE]),
        ("night", [NONE, WORD, NONE, NAME, NONE, NONE, NAME]),  # the genre of two titles
        ("science fiction", [NONE, NAME, NONE, NONE, NONE, NAME, NONE]),
        ("science", [NONE] * 7),
        ("\u00e9t", [NONE] * 6 + [NAME]),
        ("p", [NONE] * 7),
        ("", [NONE] * 7),
        ("   ", [NONE] * 7),
    ],
)
def test_levels_by_hand(text, expected):
    matches = name_matches(NAMES, GENRES, OF_TITLE)
    assert matches.levels(text).tolist() == expected and matches.levels(text).dtype == np.int8


def test_titles_without_genres_match_by_their_names():
    matches = name_matches(np.array(["a b", "b"]), np.empty(0, str), np.full((2, 1), -1))
    assert matches.levels("b").tolist() == [WORD, NAME] and matches.levels("z").tolist() == [NONE, NONE]


@given(st.lists(st.text(alphabet="ab ", max_size=6), min_size=1, max_size=8), st.text("ab ", max_size=4))
def test_levels_equal_a_loop(names, text):
    matches = name_matches(np.array(names, str), GENRES[:1], np.full((len(names), 1), -1))
    wanted = plain(text)

    def level(name):
        name = plain(name)
        if not wanted:
            return NONE
        if name.startswith(wanted):
            return NAME
        starts = [i + 1 for i, c in enumerate(name) if c == " "]
        return WORD if any(name[i:].startswith(wanted) for i in starts) else NONE

    assert matches.levels(text).tolist() == [level(name) for name in names]
