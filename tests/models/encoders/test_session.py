"""Experts of the session: padding, causality, the cached history, and counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrec.config.heads import INTENT, HeadSpec, paper_head
from jaxrec.config.schema import Expert, Model
from jaxrec.config.schema import Gate as GateConfig
from jaxrec.core.batch import PastOutcome, SessionTail
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.encoders.session import (
    Memory,
    SessionCounts,
    SessionExpert,
    SessionInputs,
    by_example,
    history_windows,
)
from jaxrec.models.layers.title_encoder import TitleLookup
from jaxrec.models.ranker import RankingModel
from jaxrec.models.sessions.mixture import counted_columns
from tests.models.conftest import FEATURES, Case, V

KINDS, S = 3, 4
HISTORY = (Expert(3, 1, 2, 1.0, 0.2), Expert(6, 1, 2, 2.0, 0.2, "sasrec"))
EVENTS = Expert(S, 1, 2, 2.0, 0.2, "session")
INTENT_HEAD = HeadSpec(
    INTENT, INTENT, "", 0.2, "state", 7, ranks=False, drawn=False, loss="softmax", of="title:genre"
)


def tail_of(kind, title=None):
    """Return sessions [B, S] of kinds, with random titles, values and ages where there is an event."""
    r, kind = np.random.default_rng(2), np.asarray(kind)
    title = r.integers(2, V, kind.shape) if title is None else title
    value, age = r.normal(size=kind.shape), r.uniform(0, 9, kind.shape)
    present = kind > 0
    return SessionTail(
        jnp.asarray(np.where(present, title, 0)), jnp.asarray(kind),
        PastOutcome(jnp.asarray(np.where(present, value, 0), jnp.float32)),
        jnp.asarray(np.where(present, age, 0), jnp.float32),
    )  # fmt: skip


class SessionCase(Case):
    """Case whose model reads sessions of 5 requests."""

    def __init__(self, experts=(*HISTORY, EVENTS), intent=True):
        super().__init__()
        config = Model(
            width=8, experts=experts, gate=GateConfig((8, 4), 0.1), dropout=0.2, head_hidden=(12, 6),
            intent_of="genre",
        )  # fmt: skip
        heads = (paper_head("ctr"), *((INTENT_HEAD,) if intent else ()))
        self.model = RankingModel("float32", FEATURES, V, config, "", heads, session_kinds=KINDS)
        tail = tail_of([[0, 0, 0, 0], [0, 0, 0, 1], [0, 2, 1, 3], [1, 1, 1, 1], [0, 1, 2, 3]])
        self.history = self.history._replace(session=tail)
        slots = jnp.arange(30).reshape(5, 6)
        windows = history_windows(config)
        self.history = self.history._replace(shorter={w: slots[:, 6 - w :] for w in windows if w != 6})
        arguments = self.history, self.candidate, self.table, 1.0
        self.variables = jax.jit(self.model.init)(jax.random.key(0), *arguments)
        self.user = jax.jit(lambda v, h, k=None: self.model.apply(v, h, self.table, 1.0, k, method="encode"))

    def encode(self, variables, history, key=None):
        return self.user(variables, history, key).vector_BxF


@pytest.fixture(scope="module")
def mixed():
    return SessionCase()


def test_the_vector_reads_each_field_of_an_event_and_not_what_is_padding(mixed):
    base, tail = mixed.encode(mixed.variables, mixed.history), mixed.history.session
    for changed in (
        tail._replace(title=tail.title.at[:, -1].add(1) % V),
        tail._replace(kind=jnp.where(tail.kind == 1, 2, tail.kind)),
        tail._replace(past=PastOutcome(tail.past.completion + 0.5)),
        tail._replace(age=tail.age + 2.0),
    ):
        out = mixed.encode(mixed.variables, mixed.history._replace(session=changed))
        moved = np.abs(np.asarray(out - base)).max(axis=1)
        assert moved[0] == 0 and (moved[1:] > 1e-6).all()  # the first session has padding alone
    rest = tail._replace(
        title=jnp.where(tail.kind > 0, tail.title, 5), age=jnp.where(tail.kind > 0, tail.age, 3.0)
    )
    out = mixed.encode(mixed.variables, mixed.history._replace(session=rest))
    np.testing.assert_array_equal(out, base)


def test_an_event_more_is_encoded_on_the_cached_history(mixed):
    """The cache holds no event: the history of another session gives the same cache."""
    apply, v = mixed.model.apply, mixed.variables
    other = mixed.history._replace(session=jax.tree.map(lambda x: x[::-1], mixed.history.session))
    encode_history = jax.jit(lambda h: apply(v, h, mixed.table, method="encode_history"))
    encode_session = jax.jit(
        lambda c, t: apply(v, c, t, mixed.table, 1.0, method="encode_session").vector_BxF
    )
    cached = [encode_history(h) for h in (mixed.history, other)]
    jax.tree.map(np.testing.assert_array_equal, *cached)
    vectors = encode_session(cached[0], other.session)
    np.testing.assert_allclose(vectors, mixed.encode(v, other), rtol=1e-5, atol=1e-6)


def test_a_request_without_an_event_reads_the_history_through_the_session_expert():
    """With the expert of the session alone, and no gate."""
    alone = SessionCase((EVENTS,), intent=False)
    assert history_windows(alone.model.config) == (S,)

    def first(history):
        return alone.encode(alone.variables, history)[:, : alone.model.config.width]

    title = alone.history.title
    base, changed = (
        first(alone.history),
        first(alone.history._replace(title=jnp.where(title > 0, 2 + title % 9, 0))),
    )
    has_history = np.asarray((title[:, -S:] > 0).any(axis=1))
    moved = np.abs(np.asarray(base - changed)).max(axis=1) > 1e-7
    assert has_history[0] and moved[has_history].all() and not moved[~has_history].any()


def test_events_attend_to_events_before_them_alone():
    """The gradient of a position's output with respect to the values of later events is exactly zero."""
    expert, r = SessionExpert("float32", EVENTS, 8, 5, KINDS + 1, 0), np.random.default_rng(0)
    tail = tail_of([[1, 2, 3, 1]])
    outputs, titles = (jnp.asarray(r.normal(size=(1, n, w)), jnp.float32) for n, w in ((3, 8), (S, 5)))

    def run(expert, value):
        inputs = SessionInputs(tail._replace(past=PastOutcome(value)), TitleLookup(titles, None))
        memory = expert.encode_memory(Memory(outputs, jnp.ones((1, 3), bool)))
        return expert.outputs(inputs, memory)[0][0], expert(inputs, memory)

    variables = expert.init(jax.random.key(0), tail.past.completion, method=run)
    weights = jnp.asarray(r.normal(size=8), jnp.float32)  # a plain sum of normalized outputs is constant
    read = jax.jit(jax.jacrev(lambda v: expert.apply(variables, v, method=run)[0] @ weights))
    reads = np.abs(read(tail.past.completion)[:, 0]) > 0  # [positions, events]
    np.testing.assert_array_equal(reads, np.tri(S + 1, S, dtype=bool))


def test_dropout_needs_keys_and_changes_the_session(mixed):
    keys = jnp.asarray(np.random.default_rng(3).integers(0, 2**32, (5, 2), np.uint32))
    quiet, loud = (
        mixed.encode(mixed.variables, mixed.history),
        mixed.encode(mixed.variables, mixed.history, keys),
    )
    assert np.isfinite(loud).all() and not np.allclose(quiet, loud)


def test_outputs_of_packed_rows_are_moved_to_their_examples():
    example = jnp.asarray([[0, 0, 2, 2], [1, 1, 1, 3]])  # 3: padding of three examples
    x = jnp.arange(8.0).reshape(2, 4, 1)
    memory = by_example(x, example, 3, 3)
    assert memory.x_BxMxD[..., 0].tolist() == [[0, 0, 1], [4, 5, 6], [0, 2, 3]]
    assert memory.present_BxM.tolist() == [[False, True, True], [True] * 3, [False, True, True]]


def test_intent_is_a_distribution_over_known_categories(mixed):
    user = mixed.user(mixed.variables, mixed.history)
    p = np.asarray(jax.nn.softmax(user.intent_BxG))
    assert (p[:, :2] == 0).all() and np.allclose(p.sum(1), 1.0)  # padding and unknown
    vectors = jax.jit(lambda v: mixed.model.apply(v, method=lambda m: m.title.category_vectors("genre")))
    genres = vectors(mixed.variables)
    assert genres.shape == (7, 4) and (genres[0] == 0).all()
    np.testing.assert_allclose(user.vector_BxF[:, -4:], p @ np.asarray(genres), rtol=1e-5, atol=1e-6)
    table = mixed.variables["params"]["title"]["columns"]["genre"]["embedding"]
    np.testing.assert_array_equal(genres[1:], table[1:])


def test_counts_are_those_of_the_session_and_of_its_last_title():
    """Categories 3 and 4; the last event has no title."""
    expert = SessionCounts("float32", EVENTS, 8, 0, KINDS + 1, 6)
    tail = tail_of([[1, 2, 3, 2]], title=[[7, 8, 9, 0]])
    category = jnp.asarray([[[3, 4], [3, 0], [4, 3], [5, 5]]])
    captured = {}

    def spy(next_method, args, kwargs, context):
        if context.module.name == "mlp":
            captured["x"] = args[0]
        return next_method(*args, **kwargs)

    with nn.intercept_methods(spy):
        expert.init(jax.random.key(0), SessionInputs(tail, None, category, None))
    counts, last = np.asarray(captured["x"])[0, :6], np.asarray(captured["x"])[0, 6:]
    np.testing.assert_allclose(counts, np.log1p([0, 0, 0, 3, 2, 0]), rtol=1e-6)
    assert last.tolist() == [0, 0, 0, 1, 1, 0]


def test_counted_columns_are_those_of_the_title_table():
    features = (
        FeatureSpec("title_id", "category", "title", 4, 9, 0),
        FeatureSpec("year", "number", "title", 2),
        FeatureSpec("form", "category", "title", 2, 4, 1),
        FeatureSpec("genres", "categories", "title", 4, 9, 3),
    )
    assert counted_columns(features, "genres") == (1, 3) and counted_columns(features, "form") == (0, 1)
