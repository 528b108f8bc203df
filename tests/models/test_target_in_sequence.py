"""The target in the sequence: each candidate joins the history as its newest title."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert
from jaxrec.models.encoders.base import PackedTitles, append_candidates
from jaxrec.models.layers import rng


def test_titles_are_joined_by_each_candidate_as_the_newest():
    x, of = jnp.arange(4.0).reshape(2, 2, 1), jnp.array([[9, 0], [1, 1]])  # the first has one title
    candidate = jnp.array([[[10.0], [11.0]], [[12.0], [13.0]]])
    keys = rng.row_keys(0, 0, jnp.arange(4)).reshape(2, 2, 2)
    age = jnp.array([[5.0, 4.0], [3.0, 2.0]])
    got = append_candidates(PackedTitles(x, of, age, None), candidate, keys)
    assert got.x_RxLxD[..., 0].tolist() == [[0, 1, 10], [0, 1, 11], [2, 3, 12], [2, 3, 13]]
    assert got.example_RxL.tolist() == [[4, 0, 0], [4, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert got.age_RxL.tolist() == [[5, 4, 0], [5, 4, 0], [3, 2, 0], [3, 2, 0]]
    np.testing.assert_array_equal(got.key_RxLx2[1, 2], rng.fold_in(keys[0, 1], 0))  # the newest is 0
    np.testing.assert_array_equal(got.key_RxLx2[2, 0], rng.fold_in(keys[1, 0], 2))


@pytest.fixture(scope="module")
def target(case):
    return case(target_in_sequence=True)


@pytest.mark.parametrize("training", [False, True])
def test_a_candidate_is_scored_as_if_alone(target, training):
    key = rng.row_keys(0, 0, jnp.arange(5)) if training else None
    out, other = target(key=key), target(candidate=target.candidate.at[:, 1:].set(2), key=key)
    assert out.gate_BxE.shape == (5, 4, 2)
    for task, scores in out.scores.items():
        np.testing.assert_allclose(scores[:, 0], other.scores[task][:, 0], atol=1e-6)
    np.testing.assert_allclose(out.gate_BxE[:, 0], other.gate_BxE[:, 0], atol=1e-6)
    assert not np.allclose(out.gate_BxE[:, 1:], other.gate_BxE[:, 1:], atol=1e-7)


def test_a_user_vector_is_of_the_history_and_the_candidate(target):
    def mixture(x, ids):
        user = target.model.apply(
            target.variables, target.history._replace(age=x), target.table, 1.0, None, None, ids,
            method="encode",
        )  # fmt: skip
        return user.vector_BxF

    run = jax.jit(mixture)
    one = run(target.history.age, target.candidate)
    assert one.shape == (5, 4, 8 + 6 + 3)
    other = run(target.history.age, target.candidate[:, ::-1])
    np.testing.assert_allclose(one, other[:, ::-1], atol=1e-6)
    assert not np.allclose(one[:, 0], one[:, 1], atol=1e-5)
    assert not np.allclose(one, run(target.history.age / 2, target.candidate), atol=1e-5)


def test_an_encoding_needs_candidates(target):
    with pytest.raises(ValueError, match="candidate_BxC=None"):
        target.model.apply(target.variables, target.history, target.table, 1.0, method="encode")


def test_completion_for_the_positives_alone(target):
    run = jax.jit(
        lambda v, h, c: target.model.apply(v, h, c, target.table, 1.0, None, 2).scores["completion"]
    )
    some = run(target.variables, target.history, target.candidate)
    np.testing.assert_allclose(some, target().scores["completion"][:, :2], atol=1e-6)


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "hstu", "ligr", "fuxi"])
def test_peers_take_it_too(case, kind):
    c = case(target_in_sequence=True, experts=(Expert(6, 1, 2, 1.0, 0.0, kind),), tasks=("ctr",), head="dot")
    out = c()
    assert out.scores["ctr"].shape == (5, 4) and out.gate_BxE.shape == (5, 4, 1)
    assert np.std(out.scores["ctr"], axis=1).min() > 1e-4
