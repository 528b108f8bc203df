"""Sessions of packed rows as inputs, the intent's label, and scores that read the session."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Signal
from jaxrec.core.batch import HostBatch, Outcome, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.arrays import as_words
from jaxrec.tasks.heads import head_labels, specs_of
from jaxrec.tasks.inputs.session import session_kinds, session_tail
from jaxrec.tasks.loading import build_task
from jaxrec.tasks.ranking_inputs import Batch

FEATURES = (
    FeatureSpec("title_id", "category", "title", 4, 20, 0),
    FeatureSpec("form", "category", "title", 2, 4, 1),
    FeatureSpec("genres", "categories", "title", 4, 9, 3),
)
LAYOUT = Layout(
    20, 8, 1, (16, 32, 20, 8), 20, FEATURES, session=4, session_kinds=("play", "trailer", "thumb")
)


@pytest.fixture
def config(tiny_config):
    config = copy.deepcopy(tiny_config)
    config.signals, config.data.session = (Signal("trailer", "seconds"), Signal("thumb", "sign")), 4
    config.model.experts = (Expert(4, 1, 2, 1.0, 0.1, "session"),)
    config.model.features = ("title_id", "genres")
    config.objective.intent = 0.2
    return config


def test_kinds_that_the_model_does_not_read_become_padding(config):
    config.sampling.session_events = ("thumb", "play")
    assert session_kinds(config, LAYOUT) == (3, 1)
    rows = {
        "session_kind": jnp.asarray([[0, 1, 2, 3]], jnp.uint8), "session_title": jnp.asarray([[0, 5, 6, 7]]),
        "session_value": jnp.asarray([[0, 0.5, 3, -1]], jnp.float16),
        "session_age": jnp.asarray([[0.0, 3, 2, 1]]),
    }  # fmt: skip
    tail = session_tail(rows, (3, 1), 0.5, None)
    assert tail.kind.tolist() == [[0, 1, 0, 3]] and tail.title.tolist() == [[0, 5, 0, 7]]
    assert tail.past.completion.tolist() == [[0, 0.5, 0, -1]] and tail.age.tolist() == [[0, 3, 0, 1]]
    keys = jnp.asarray(np.random.default_rng(0).integers(0, 2**32, (400, 2), np.uint32))
    many = {name: jnp.repeat(x, 400, 0) for name, x in rows.items()}
    hidden = np.asarray(session_tail(many, (1, 2, 3), 0.5, keys).title)
    assert (hidden[:, 0] == 0).all()  # padding is no unknown title
    assert {*hidden[:, 1].tolist()} == {1, 5} and abs((hidden[:, 1] == 1).mean() - 0.5) < 0.1


def test_a_dataset_without_the_events_is_refused(config):
    with pytest.raises(InputError, match=r"read the events 'play' of sessions, but .* store no session"):
        session_kinds(config, Layout(20, 8, 1, (16, 32, 20, 8), 20, FEATURES))
    config.sampling.session_events = ("rating",)
    with pytest.raises(InputError, match=r"read the events 'rating' of sessions, but .* store play, trailer"):
        session_kinds(config, LAYOUT)


def test_the_intent_learns_the_first_category_of_the_next_title(config):
    head = next(spec for spec in specs_of(config, LAYOUT, {}) if spec.name == "intent")
    assert (head.weight, head.on, head.outputs, head.ranks) == (0.2, "state", 9, False)
    categories = np.zeros((20, 4), np.int32)
    categories[5], categories[6], categories[7] = [2, 4, 3, 0], [2, 1, 3, 0], [2, 8, 0, 0]
    table = TitleTable(jnp.asarray(categories), jnp.zeros((20, 0)))
    positive = jnp.asarray([[5], [6], [7]])
    batch = Batch(None, positive, Outcome(jnp.ones((3, 1))), jnp.zeros((3, 0), jnp.int32), None, None)
    labels = head_labels(head, batch, config, LAYOUT, table)
    assert labels.y[:, 0].tolist() == [[4], [0], [8]]  # the first category of title 6 is unknown
    assert labels.known[:, 0].tolist() == [True, False, True]


def test_scores_read_the_session_and_training_titles_are_looked_up(config):
    """Gradients of the loss reach the session's kernel and the intent's layers."""
    task = build_task(config, LAYOUT, 0.5, 4, 8)
    assert task.heads == ("ctr", "ranking", "completion", "intent") and task.ranking_heads[0] == "ranking"
    assert "intent" not in task.label_heads
    rows = np.zeros(6, LAYOUT.row_dtype())
    r = np.random.default_rng(1)
    rows["target"], rows["target_completion"] = r.integers(2, 20, (6, 1)), 0.5
    for name in ("pool_hard", "pool_trending", "pool_tailing", "pool_random"):
        rows[name] = r.integers(2, 20, rows[name].shape)
    rows["session_kind"][:, -2:], rows["session_title"][:, -2:] = [1, 2], r.integers(2, 20, (6, 2))
    categories = r.integers(2, 4, (20, 4)).astype(np.int32)
    table = TitleTable(jnp.asarray(categories), jnp.zeros((20, 0)))
    host = HostBatch(as_words(rows), np.ones(6, bool))
    key = jnp.asarray(r.integers(0, 2**32, (6, 2), np.uint32))

    def loss(params):
        state, step = task.init_task_state(), jnp.int32(0)
        total, sums = task.loss(params, host, table, state, step, key, None, None)
        return total, sums["loss_intent"]

    params = jax.jit(lambda k: task.init_params(k, table))(jax.random.key(0))
    (_, (of_intent, count)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert of_intent / count == pytest.approx(np.log(7), rel=0.05)  # seven categories, near uniform
    for leaf in (
        gradient["expert_0"]["title"],
        gradient["expert_0"]["kind"][1],
        gradient["intent"]["mlp"]["out"]["kernel"],
    ):
        assert np.abs(leaf).max() > 0
    assert (gradient["expert_0"]["kind"][3] == 0).all()  # no thumb is in the rows
