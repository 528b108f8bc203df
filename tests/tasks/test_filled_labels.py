"""Predicted labels in rows: heads learn from them, evaluation does not; early labels as input."""

import copy
import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.heads import head_values
from jaxrec.config.schema import Config, Feature, Head, Label, Objective, Reward, Term
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import Layout
from jaxrec.data.labels.counts import shares_of
from jaxrec.data.storage.dataset import as_words
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.heads import specs_of

LAYOUT = Layout(9, 4, 2, (0, 0, 0, 0), 0, (), labels=("late", "early"), filled=True)
REWARDS = tuple(
    Reward(unknown, (Term("late"),), unknown=unknown) for unknown in ("drop", "filled", "observed")
)
CONFIG = Config(labels=(Label("late", "happened", hours=720), Label("early", "seconds")), rewards=REWARDS)


@pytest.fixture
def rows():
    """Three rows: the late label is known, predicted, unknown; the early one is known of the first two."""
    rows = np.zeros(3, LAYOUT.row_dtype())
    rows["target"][:, 0], rows["history_title"][:, -1] = [2, 3, 4], 5
    rows["label"][:, 0, 0], rows["label"][:, 0, 1] = [1.0, 0.25, 1.0], [100.0, 0.0, 50.0]
    rows["label_known"][:, 0], rows["label_filled"][:, 0] = [0b11, 0b10, 0b00], [0, 1, 0]
    return rows


def test_a_filled_layout_has_a_field_more_and_others_stay(rows):
    plain = replace(LAYOUT, filled=False)
    assert {*LAYOUT.row_dtype().names} - {*plain.row_dtype().names} == {"label_filled"}
    assert LAYOUT.row_dtype().itemsize == plain.row_dtype().itemsize + 4 * LAYOUT.num_targets
    assert (
        Layout.from_json(json.loads(json.dumps(LAYOUT.to_json()))) == LAYOUT
        and "filled" not in plain.to_json()
    )


def test_a_head_learns_from_predictions_and_evaluation_leaves_them_out(rows):
    view = ranking_inputs.HistoryView(LAYOUT, (4,), True)
    words, valid = as_words(rows), np.ones(3, bool)
    key = jnp.zeros((3, 2), jnp.uint32)
    training = ranking_inputs.training(words, valid, view, (0, 0, 0, 0), 1, 0, key)
    validation = ranking_inputs.validation(ranking_inputs.queries(words, view), valid, 1)

    def known(of, batch):
        y = batch.outcome
        values = head_values(of, y.label, y.label_known, CONFIG, LAYOUT.labels, jnp, y.label_filled)
        return values[1][:, 0].tolist()

    for of, in_training in (
        ("late", [True, True, False]), ("reward:filled", [True, True, False]),
        ("reward:drop", [True, False, False]),
    ):  # fmt: skip
        assert known(of, training) == in_training, of
        assert known(of, validation) == [True, False, False], of


def test_the_share_of_a_head_counts_the_predictions_that_it_learns_from():
    shares = shares_of({"late": {"known": 0.4, "filled": 0.5}, "early": {"known": 0.9}})
    assert shares == {"late": 0.4, "early": 0.9, "filled:late": 0.9, "filled:early": 0.9}
    assert shares_of({"late": {"known": 0.4}}) == {"late": 0.4}

    def share(of, layout=LAYOUT):
        config = copy.deepcopy(CONFIG)
        config.objective = Objective(0.0, 0.0, 0.0, heads=(Head("x", of, loss="mse"),))
        return specs_of(config, layout, shares)[-1].share

    assert (share("late"), share("early"), share("reward:filled")) == (0.9, 0.9, 0.9)
    assert share("reward:drop") == share("late", replace(LAYOUT, filled=False)) == 0.4
    with pytest.raises(
        InputError, match="of='reward:observed' has unknown='observed', but the dataset is filled"
    ):
        share("reward:observed")


def test_early_labels_are_the_value_and_whether_it_is_known(rows):
    view = ranking_inputs.HistoryView(LAYOUT, (4,), True, observed=("early",))
    early = ranking_inputs.queries(as_words(rows), view).history.observed
    np.testing.assert_allclose(early.numbers, [[np.log(101), 1], [0, 1], [0, 0]], rtol=1e-6)
    assert ranking_inputs.queries(as_words(rows), view._replace(observed=())).history.observed is None


def test_an_early_label_that_no_row_stores_is_refused(tiny, tiny_config):
    from jaxrec.tasks.loading import build_task

    config = copy.deepcopy(tiny_config)
    config.features = (*config.features, Feature("early", "number", "label", 4, available="after"))
    with pytest.raises(
        InputError, match="features hold label 'early', but the dataset's rows store no label"
    ):
        build_task(config, tiny.layout, 0.5, 4, 40)
