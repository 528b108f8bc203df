"""Declared heads: their specifications from a config, and the labels of a batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.heads import head_values
from jaxrec.config.schema import Config, Feature, Head, Label, Objective, Reward, Term
from jaxrec.core.batch import Batch, Outcome, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.tasks.heads import head_labels, specs_of

FEATURES = (
    FeatureSpec("title_id", "category", "title", 4, 9, 0),
    FeatureSpec("year", "number", "title", 2),
    FeatureSpec("studio", "category", "title", 2, 5, 1),
    FeatureSpec("genre", "categories", "title", 2, 6, 2),
)
LAYOUT = Layout(9, 4, 2, (1, 1, 1, 1), 3, FEATURES, labels=("thumb", "finished"))
LABELS = (
    Label("thumb", "happened", "thumb"),
    Label("finished", "at_least", at=0.9, of_drawn="unknown"),
)
REWARDS = (
    Reward("joy", (Term("thumb", 2.0), Term("finished", 1.0))),
    Reward("so_far", (Term("thumb", 2.0),), base=1.0, unknown="observed"),
)
SHARES = {"thumb": 0.2, "finished": 0.5}


def config_of(*heads: Head) -> Config:
    features = tuple(Feature(f.name, f.kind, f.where, f.width, f.columns) for f in FEATURES)
    return Config(features=features, labels=LABELS, rewards=REWARDS, objective=Objective(heads=heads))


def spec_of(head: Head, shares=None):
    return specs_of(config_of(head), LAYOUT, SHARES if shares is None else shares)[-1]


def test_the_heads_of_the_paper_come_first():
    config = config_of(Head("up", "thumb"), Head("off", "thumb", weight=0.0))
    config.objective.ranking, config.objective.regression = 0.0, 0.3
    specs = specs_of(config, LAYOUT, SHARES)
    assert [(s.name, s.term, s.weight) for s in specs] == [
        ("ctr", "ctr", 1.0), ("completion", "regression", 0.3), ("up", "up", 1.0),
    ]  # fmt: skip
    assert [(s.ranks, s.drawn, s.sigmoid) for s in specs] == [
        (True, True, False), (False, False, True), (False, True, False),
    ]  # fmt: skip


@pytest.mark.parametrize(("head", "share", "drawn"), [
    # 20 negatives of label 0 beside a positive that is known in .2 of all cases
    (Head("x", "thumb"), (0.2 + 20) / 21, True),
    (Head("x", "finished"), 0.5, False),
    (Head("x", "thumb", on="state"), 0.2, False),
    (Head("x", "thumb", loss="hinge"), 0.2, True),
    (Head("x", "reward:joy", loss="mse"), 0.2, False),  # the label that is known least; one is not of drawn
    (Head("x", "reward:so_far", loss="mse"), 1.0, True),
    (Head("x", "title:genre", on="state", loss="softmax"), 1.0, False),
])  # fmt: skip
def test_share_of_known_entries_and_drawn_titles(head, share, drawn):
    spec = spec_of(head)
    assert (spec.share, spec.drawn) == (pytest.approx(share), drawn)
    assert spec.outputs == (6 if head.of == "title:genre" else 1)


def test_a_label_that_no_row_stores_or_that_is_never_known_is_refused():
    layout = Layout(9, 4, 2, (1, 1, 1, 1), 3, FEATURES, labels=("finished",))
    with pytest.raises(InputError, match=r"objective.heads\[0\].of='reward:joy' reads label 'thumb', but"):
        specs_of(config_of(Head("x", "reward:joy", loss="mse")), layout, SHARES)
    with pytest.raises(InputError, match=r"objective.heads\[0\].of='thumb' is known at none"):
        spec_of(Head("x", "thumb"), {"thumb": 0.0})
    # what has happened so far is known, whatever the labels
    assert spec_of(Head("x", "reward:so_far", loss="mse"), {"thumb": 0.0}).share == 1.0


def batch_of() -> Batch:
    """Two examples of two positives and one negative; bit 0 is thumb, bit 1 finished."""
    label = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [np.nan, np.nan]]])
    known = jnp.array([[0b01, 0b11], [0b10, 0b00]], jnp.uint32)
    outcome = Outcome(jnp.ones((2, 2)), label, known)
    return Batch(
        None, jnp.array([[2, 3], [4, 0]]), outcome, jnp.array([[5], [6]]), jnp.zeros((2, 1), bool),
        jnp.ones(2, bool),
    )  # fmt: skip


TABLE = TitleTable(
    jnp.array([[0, 0, 0], [1, 1, 1], [2, 3, 0], [3, 2, 5], [1, 1, 0], *[[4, 4, 4]] * 4]), jnp.zeros((9, 1))
)


def labels_of(head: Head):
    config = config_of(head)
    return head_labels(spec_of(head), batch_of(), config, LAYOUT, TABLE)


def test_labels_of_positives_are_stored_and_those_of_drawn_titles_are_zero_or_unknown():
    thumb = labels_of(Head("x", "thumb"))
    np.testing.assert_array_equal(thumb.known, [[True, True, True], [False, False, True]])
    np.testing.assert_array_equal(np.where(thumb.known, thumb.y, -1), [[1, 0, 0], [-1, -1, 0]])
    finished = labels_of(Head("x", "finished"))
    np.testing.assert_array_equal(finished.known, [[False, True, False], [True, False, False]])
    np.testing.assert_array_equal(np.where(finished.known, finished.y, -1), [[-1, 1, -1], [1, -1, -1]])


def test_rewards_of_positives_and_of_drawn_titles():
    joy = labels_of(Head("x", "reward:joy", loss="mse"))  # 3 + 2 thumb + finished, both known
    np.testing.assert_array_equal(joy.known, [[False, True, False], [False, False, False]])
    assert joy.y[0, 1] == 4
    so_far = labels_of(Head("x", "reward:so_far", loss="mse"))  # 1 + 2 thumb, known or not
    assert so_far.known.all()
    np.testing.assert_array_equal(so_far.y[0], [3, 1, 1])


def test_categories_of_the_next_title():
    genre = labels_of(Head("x", "title:genre", on="state", loss="softmax"))
    np.testing.assert_array_equal(genre.y, [[[3, 0], [2, 5]], [[0, 0], [0, 0]]])  # 1, unknown, is no genre
    np.testing.assert_array_equal(genre.known, [[True, True], [False, False]])
    studio = labels_of(Head("x", "title:studio", on="state", loss="softmax"))
    np.testing.assert_array_equal(studio.y[..., 0], [[2, 3], [0, 0]])


def test_values_of_a_label_and_of_a_reward():
    outcome = batch_of().outcome

    def values(of):
        return head_values(of, outcome.label, outcome.label_known, config_of(), LAYOUT.labels, jnp)

    y, known = values("finished")
    np.testing.assert_array_equal(known, [[False, True], [True, False]])
    assert y[1, 0] == 1
    y, known = values("reward:joy")
    assert y[0, 1] == 4 and not known[0, 0]
