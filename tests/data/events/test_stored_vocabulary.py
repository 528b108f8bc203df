"""Encoding by a stored vocabulary, and groups of complete users."""

import numpy as np

from jaxrec.core.ids import MISSING
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.core.tables import Interactions, Users
from jaxrec.data.events.stored_vocabulary import StoredVocabulary
from jaxrec.data.events.user_groups import user_groups, user_keys

SPECS = (
    FeatureSpec("hour", "category", "context", 4, 5),
    FeatureSpec("length", "number", "context", 4, mean=10.0, std=2.0),
    FeatureSpec("device", "category", "context", 4, 4),
)
VOCABULARY = StoredVocabulary(
    Layout(9, 4, 1, (0, 0, 0, 0), 0, SPECS), {"hour": [0, 7, 21], "device": ["tv", "web"]}
)


def test_values_are_those_of_preparation_whole_numbers_as_text_too():
    columns = {"hour": np.array([7, 21, 3, MISSING]), "length": np.array([10.0, 14.0, np.nan, 8.0])}
    encoded = VOCABULARY.encode("context", columns, 4)
    assert encoded.categories.tolist() == [[3, 1], [4, 1], [1, 1], [1, 1]]  # values follow two reserved ids
    np.testing.assert_allclose(encoded.numbers[:, 0], [0.0, 2.0, 0.0, -1.0])
    assert encoded.has_category[:, 0].tolist() == [True, True, True, False]
    assert not encoded.has_category[:, 1].any() and encoded.has_number[:, 0].tolist() == [
        True,
        True,
        False,
        True,
    ]
    text = VOCABULARY.encode(
        "context", {"hour": np.array(["7", "21.0", ""]), "device": np.array(["web"] * 3)}, 3
    )
    assert text.categories.tolist() == [[3, 3], [4, 3], [1, 3]]


def test_a_present_value_replaces_another():
    first = VOCABULARY.encode("context", {"device": np.array(["tv", "tv"])}, 2)
    second = VOCABULARY.encode(
        "context", {"device": np.array(["web", ""]), "length": np.array([12.0, np.nan])}, 2
    )
    both = first.replaced_by(second)
    assert both.categories[:, 1].tolist() == [3, 2] and both.numbers[:, 0].tolist() == [1.0, 0.0]


def chunks(users, rows, size):
    user = np.random.default_rng(0).integers(0, users, rows)
    keys = np.array([f"u{u}" for u in user])
    for i in range(0, rows, size):
        own = keys[i : i + size]
        number = np.arange(i, i + len(own))
        yield Interactions(own, number, number, number.astype(float), {"device": own})
    yield Users(np.unique(keys), {"device": np.unique(keys)})


def test_a_group_has_all_rows_of_its_users():
    groups = list(user_groups(chunks(40, 600, 100), limit=150))
    assert len(groups) > 3
    users = [set(np.concatenate([user_keys(c) for c in group]).tolist()) for group in groups]
    assert sum(map(len, users)) == len(set.union(*users)) == 40
    plays = [c for group in groups for c in group if isinstance(c, Interactions)]
    assert sorted(np.concatenate([c.time for c in plays]).tolist()) == list(range(600))
    assert all((c.context["device"] == c.user).all() and (c.time == c.title).all() for c in plays)
    assert max(sum(len(user_keys(c)) for c in group) for group in groups) < 300


def test_few_rows_are_one_group_as_they_are():
    (group,) = user_groups(chunks(4, 60, 20), limit=1000)
    assert [len(user_keys(c)) for c in group] == [20, 20, 20, 4]
    assert list(user_groups([])) == []
