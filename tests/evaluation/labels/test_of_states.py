"""Metrics of heads on states: categories worked out by hand, the order of rows, and the validation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Config, Expert, Feature, Head, Label, Model, Sampling, Task, Train
from jaxrec.core.batch import TitleTable
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation.details.validator import Validator
from jaxrec.evaluation.labels.of_states import CategoryPredictions, StateScorer, category_metrics
from jaxrec.evaluation.labels.predictions import label_metrics
from jaxrec.reporting.tables.labels import category_lines
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.training.train_state import StateInit

V, L, Q = 20, 4, 37
FEATURES = (
    FeatureSpec("title_id", "category", "title", 8, V),
    FeatureSpec("genres", "categories", "title", 4, 6, 2),
)
LAYOUT = Layout(V, L, 1, (0, 0, 0, 0), 0, FEATURES, "next_item", ("back",))


def test_metrics_of_categories_are_those_worked_out_by_hand():
    log_p = np.log([[0.1, 0.2, 0.6, 0.1], [0.1, 0.5, 0.2, 0.2], [0.1, 0.3, 0.4, 0.2], [0.7, 0.1, 0.1, 0.1]])
    category = np.array([[2, 0], [2, 3], [3, 1], [0, 0]])
    known = np.array([True, True, True, False])
    heads = {"genre": CategoryPredictions(log_p, category, known)}
    of_head = category_metrics(heads, np.array([4, 4, 7, 9]), 50)["genre"]
    assert (of_head["queries"], of_head["users"]) == (3, 2)
    # The likeliest of the queries are 2, 1 and 2; category 2 is of two titles, as 3 is, and comes first.
    assert of_head["accuracy"]["value"] == pytest.approx(1 / 3)
    assert of_head["most_frequent"]["value"] == pytest.approx(2 / 3)
    losses = -np.log(0.6), -np.log(0.2), -(np.log(0.2) + np.log(0.3)) / 2
    assert of_head["log_loss"]["value"] == pytest.approx(np.mean(losses))
    low, high = of_head["log_loss"]["interval"]
    assert low < of_head["log_loss"]["value"] <= high
    text = "\n".join(category_lines({"genre": of_head}))
    assert "genre             accuracy" in text and "0.3333" in text and "3 queries of 2 users" in text


@pytest.fixture(scope="module")
def of_labels_alone():
    """Return a task whose titles have no loss, its parameters, its title table, and query rows."""
    r = np.random.default_rng(0)
    expert = Expert(L, 1, 2, 1.0, 0.0, "sasrec")
    model = Model(width=8, experts=(expert,), dropout=0.0, head="dot", features=("title_id",))
    config = Config(
        features=tuple(Feature(f.name, f.kind, f.where, f.width) for f in FEATURES), model=model,
        sampling=Sampling(id_dropout=0.0), task=Task("next_item"), train=Train(batch_size=8),
    )  # fmt: skip
    config.labels, config.evaluate.batch_size, config.next_item.weight = (Label("back", "returned"),), 8, 0.0
    config.objective.heads = (
        Head("genre", "title:genres", "state", "softmax"), Head("back", "back", "state"),
    )  # fmt: skip
    task = NextItemTask(config, LAYOUT, 0.5, 10, 100, {"back": 1.0})
    categories = np.column_stack([np.arange(V), r.integers(0, 6, (V, 2))]).astype(np.int32)
    table = replicate(TitleTable(categories, np.zeros((V, 0), np.float32), np.arange(V)))
    rows = np.zeros(Q, LAYOUT.query_dtype())
    rows["user"], rows["target"] = np.arange(Q) // 2, r.integers(2, V, (Q, 1))
    rows["history_title"] = r.integers(2, V, (Q, L))
    rows["history_time"], rows["target_time"] = np.arange(1000, 1000 + L), 2000
    rows["label"][:, 0, 0], rows["label_known"][:, 0] = r.integers(0, 2, Q), r.random(Q) < 0.8
    params = jax.tree.map(
        lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), StateInit(task).init().params
    )
    return task, params, table, rows


def test_predictions_are_in_the_order_of_the_rows(of_labels_alone):
    task, params, table, rows = of_labels_alone
    made = StateScorer(task, table)(params, SelectedRows(rows))
    back, genre = made.labels["back"], made.categories["genre"]
    assert back.prediction.shape == (Q,) and genre.log_p.shape == (Q, 6) and genre.category.shape == (Q, 2)
    np.testing.assert_array_equal(back.known, rows["label_known"][:, 0] == 1)
    np.testing.assert_array_equal(back.label, np.where(back.known, rows["label"][:, 0, 0], 0))
    order = np.random.default_rng(1).permutation(Q)
    other = StateScorer(task, table)(params, SelectedRows(rows[order]))
    np.testing.assert_allclose(other.labels["back"].prediction, back.prediction[order], rtol=1e-5, atol=1e-6)
    assert len(set(np.round(back.prediction, 5))) > Q // 2
    assert int(made.sums["loss"][1]) == Q


def test_the_validation_of_labels_alone_is_their_auc(of_labels_alone):
    task, params, table, rows = of_labels_alone
    validator = Validator(task, table, SelectedRows(rows))
    means, of_lists = validator(params)
    states = StateScorer(task, table)(params, SelectedRows(rows))
    expected = label_metrics(states.labels, rows["user"], 10)["back"]["auc"]["value"]
    assert (validator.watched, validator.metric) == ("labels", "auc")
    assert of_lists == {"labels": {"back/auc": pytest.approx(expected), "auc": pytest.approx(expected)}}
    assert means["loss"] == pytest.approx(states.sums["loss"][0] / Q) and means["loss"] > 0
