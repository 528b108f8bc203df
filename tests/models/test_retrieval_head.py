"""The retrieval head: its scores, what it is trained on, and two stages against the whole catalogue."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Objective
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.losses import ranking
from jaxrec.models.layers import rng
from jaxrec.models.outputs import Correction
from jaxrec.models.two_stage import TwoStageResult, overlap, rank_among, two_stage

V, N = 30, 40  # titles of the case; draws, more than there are titles
KEYS = rng.row_keys(3, 7, jnp.arange(5))


@pytest.fixture(scope="module")
def head(case):
    """A model with the head, of parameters far from 0."""
    c, r = case(retrieval=4, sampled_titles=N), np.random.default_rng(4)
    c.variables = jax.tree.map(lambda x: x + jnp.asarray(r.normal(0, 0.3, x.shape), x.dtype), c.variables)
    return c


@pytest.fixture(scope="module")
def users(head):
    return jax.jit(lambda v: head.model.apply(v, head.history, head.table, 1.0, method="encode"))(
        head.variables
    )


def outputs(c, key=KEYS, positives=2, candidate=None):
    """Return the model's outputs in training."""
    candidate = c.candidate if candidate is None else candidate
    return jax.jit(lambda v, k, ids: c.model.apply(v, c.history, ids, c.table, 1.0, k, positives))(
        c.variables, key, candidate
    )


# ---------------------------------------------------------------- scores


def test_a_score_is_a_product_of_two_towers(head, users):
    p, model = head.variables["params"]["retrieval"], head.model
    t_VxF = model.apply(
        head.variables, method=lambda m: m.title.vectors(jnp.arange(V), head.table)
    )  # fmt: skip
    wanted = np.asarray(users.vector_BxF @ p["user"]) @ np.asarray(t_VxF @ p["title"]).T
    scores = jax.jit(lambda v: model.apply(v, users, head.table, method="retrieve"))(head.variables)
    assert scores.shape == (5, V) and scores.dtype == jnp.float32 and wanted.std(1).min() > 0.1
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    catalogue = model.apply(head.variables, head.table, method="catalogue")
    again = model.apply(head.variables, users, head.table, catalogue, method="retrieve")
    np.testing.assert_allclose(again, wanted, atol=1e-5)


def test_training_has_the_same_scores(head):
    def everything(v):
        user = head.model.apply(v, head.history, head.table, 1.0, KEYS, method="encode")
        return head.model.apply(v, user, head.table, method="retrieve")

    every, retrieved = jax.jit(everything)(head.variables), outputs(head).retrieved
    wanted = jnp.take_along_axis(every, head.candidate[:, :2], axis=1)
    np.testing.assert_allclose(retrieved.positive_BxK, wanted, atol=1e-5)
    # Each draw's score is that of a title that may be drawn.
    for scores, of_all in zip(np.asarray(retrieved.negative_BxN), np.asarray(every), strict=True):
        nearest = np.abs(scores[:, None] - of_all[FIRST_TITLE:]).min(1)
        assert nearest.max() < 1e-5


def test_draws_are_of_the_example_and_from_the_whole_catalogue(head):
    retrieved = outputs(head).retrieved
    turned = outputs(head, KEYS[::-1]).retrieved
    positive_BxK = np.asarray(head.candidate[:, :2])
    of_draw = rng.layer_id(("retrieval",))
    drawn = np.asarray(FIRST_TITLE + rng.randint(V - FIRST_TITLE, (N,), KEYS, of_draw))
    wanted = ~(drawn[:, :, None] == positive_BxK[:, None]).any(2)
    np.testing.assert_array_equal(retrieved.there_BxN, wanted)
    assert not wanted.all() and drawn.min() == FIRST_TITLE and drawn.max() == V - 1
    backwards = ~(drawn[::-1, :, None] == positive_BxK[:, None]).any(2)
    np.testing.assert_array_equal(turned.there_BxN, backwards)


def test_it_is_for_training_alone_and_costs_nothing_where_there_is_none(head, small):
    assert outputs(head, None).retrieved is None and outputs(head, KEYS, None).retrieved is None
    assert outputs(small).retrieved is None
    assert "retrieval" in head.variables["params"] and "retrieval" not in small.variables["params"]
    catalogue = small.model.apply(small.variables, small.table, method="catalogue")
    assert "retrieval" not in catalogue


def test_a_vector_for_each_candidate_has_no_catalogue(case):
    with pytest.raises(ValueError, match="must be 0 with target_in_sequence"):
        case(retrieval=4, target_in_sequence=True)


# ---------------------------------------------------------------- the loss


def test_first_loss_and_what_learning_does(case):
    c = case(retrieval=8, sampled_titles=N, dropout=0.0)
    candidates = ranking.CandidateLoss(
        jnp.ones((5, 1), bool), jnp.ones((5, 1)), jnp.ones((5, 3), bool), jnp.zeros((5, 3), bool)
    )
    config = Objective(ctr=0.0, ranking=0.0, regression=0.0, entropy=0.0, retrieval=2.0, personalised=False)

    def loss(v, step):
        keys = rng.row_keys(0, step, jnp.arange(5))
        out = c.model.apply(v, c.history, c.candidate, c.table, 1.0, keys, 1)
        total, terms = ranking.per_example(out, candidates, config, (1.0,), 0.5, None)
        there = out.retrieved.there_BxN.sum(1)
        return total.mean(), (terms["retrieval"], there)

    def step(v, i):
        (value, (term, there)), grads = jax.value_and_grad(loss, has_aux=True)(v, i)
        return jax.tree.map(lambda p, g: p - 0.2 * g, v, grads), (value, term, there)

    learnt, (values, terms, there) = jax.jit(lambda v: jax.lax.scan(step, v, jnp.arange(150)))(c.variables)
    np.testing.assert_allclose(terms[0], np.log(1 + there[0]), atol=0.05)
    np.testing.assert_allclose(values, 2 * terms.mean(1), rtol=1e-5)
    assert values[-1] < 0.3 * values[0], values[::10]

    def retrieve(v):
        user = c.model.apply(v, c.history, c.table, 1.0, method="encode")
        return c.model.apply(v, user, c.table, method="retrieve")

    best = np.argmax(np.asarray(jax.jit(retrieve)(learnt))[:, FIRST_TITLE:], axis=1) + FIRST_TITLE
    np.testing.assert_array_equal(best, c.candidate[:, 0])


# ---------------------------------------------------------------- two stages


def stands_of(c):
    """All titles but the first candidate's neighbour, as if it had been seen."""
    stands = np.ones((5, V), bool)
    stands[:, :FIRST_TITLE] = False
    stands[np.arange(5), np.asarray(c.candidate[:, 1])] = False
    return jnp.asarray(stands)


def exact(c, users, stands, most):
    scores = c.model.apply(c.variables, users, c.table, "ranking", method="score_catalogue")
    best, ids = jax.lax.top_k(jnp.where(stands, scores, -jnp.inf), most)
    return np.where(np.isfinite(best), ids, 0)


def test_all_titles_through_both_stages_are_ranked_exactly(head, users):
    stands = stands_of(head)
    shown = two_stage(head.model, head.variables, users, head.table, Correction("ranking"), stands, V)
    wanted = exact(head, users, stands, V)
    assert (wanted > 0).sum(1).tolist() == [V - FIRST_TITLE - 1] * 5
    np.testing.assert_array_equal(shown.id_BxN, wanted)
    np.testing.assert_array_equal(overlap(jnp.asarray(wanted[:, :10]), shown.id_BxN), np.ones(5))


def test_the_first_stage_chooses_and_the_second_orders(head, users):
    stands, most = stands_of(head), 6
    shown = two_stage(head.model, head.variables, users, head.table, Correction("ranking"), stands, most)
    scores = head.model.apply(head.variables, users, head.table, method="retrieve")
    of_task = head.model.apply(head.variables, users, head.table, "ranking", method="score_catalogue")
    for ids, first, second, may in zip(shown.id_BxN, scores, of_task, stands, strict=True):
        chosen = np.argsort(-np.where(may, first, -np.inf), kind="stable")[:most]
        np.testing.assert_array_equal(ids, chosen[np.argsort(-np.asarray(second)[chosen])])
    wanted = exact(head, users, stands, 10)
    few, share = np.asarray(shown.id_BxN), np.asarray(overlap(jnp.asarray(wanted), shown.id_BxN))
    by_hand = [len({*a} & {*b}) / 10 for a, b in zip(wanted.tolist(), few.tolist(), strict=True)]
    np.testing.assert_allclose(share, by_hand, atol=1e-7)
    assert 0 < share.mean() < 0.61


def test_fewer_eligible_titles_than_num_titles(head, users):
    stands = jnp.zeros((5, V), bool).at[:, jnp.array([4, 9])].set(True)
    shown = two_stage(head.model, head.variables, users, head.table, Correction("ranking"), stands, 5)
    assert np.sort(shown.id_BxN, axis=1).tolist() == [[0, 0, 0, 4, 9]] * 5
    assert np.all(np.asarray(shown.id_BxN)[:, 2:] == 0) and np.all(np.isneginf(shown.score_BxN[:, 2:]))


def test_ranks_and_what_is_kept_by_hand():
    no = -np.inf
    shown = TwoStageResult(
        jnp.array([[7, 3, 5, 2], [7, 3, 0, 0], [4, 3, 0, 0]]),
        jnp.array([[0.9, 0.4, 0.4, 0.1], [0.5, 0.2, no, no], [1.0, 0.5, no, no]]),
    )
    assert rank_among(shown, jnp.array([3, 3, 9]), 50).tolist() == [3, 2, 50]  # a tie counts against it
    assert rank_among(shown, jnp.array([7, 0, 4]), 50).tolist() == [1, 50, 1]  # 0 is no title
    exact_BxK = jnp.array([[3, 7], [9, 3], [0, 0]])  # of the first, both are among the best two
    np.testing.assert_allclose(overlap(exact_BxK, shown.id_BxN), [1.0, 0.5, 1.0])
    exact_BxK = jnp.array([[2, 5, 7], [3, 0, 0], [8, 0, 0]])
    np.testing.assert_allclose(overlap(exact_BxK, shown.id_BxN), [2 / 3, 1, 0], rtol=1e-6)
