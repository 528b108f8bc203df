"""The numbers of a stored layout: those that no row has are refused by name."""

import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.row_format import Layout

FEATURE = {"name": "genre", "kind": "category", "where": "title", "width": 4}
LAYOUT = {
    "num_titles": 10, "max_history": 4, "num_targets": 1, "pools": [2, 2, 2, 2], "negatives": 4,
    "features": [FEATURE],
}  # fmt: skip


@pytest.mark.parametrize("number", ["num_titles", "max_history", "num_targets", "negatives", "session"])
def test_a_negative_number_is_refused_by_name(number):
    with pytest.raises(InputError, match=rf"^layout\.{number}=-1 must be at least 0$"):
        Layout.from_json({**LAYOUT, number: -1})


def test_negative_numbers_of_pools_and_features_are_refused_by_name():
    with pytest.raises(InputError, match=r"^layout\.pools\[3\]=-4 must be at least 0$"):
        Layout.from_json({**LAYOUT, "pools": [1, 2, 3, -4]})
    with pytest.raises(InputError, match=r"^layout\.features\[0\]\.width=-2 must be at least 0$"):
        Layout.from_json({**LAYOUT, "features": [{**FEATURE, "width": -2}]})


@pytest.mark.parametrize(("number", "value"), [("max_history", 2**80), ("num_targets", 2**30)])
def test_rows_that_are_too_long_to_exist_are_refused(number, value):
    with pytest.raises(InputError, match=r"^layout: no row has these numbers: "):
        Layout.from_json({**LAYOUT, number: value})


def test_zeros_are_allowed():
    layout = Layout.from_json({**LAYOUT, "pools": [0, 0, 0, 0], "negatives": 0})
    assert not layout.has_candidates and layout.num_titles == 10
