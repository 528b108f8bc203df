"""Negatives of sequences: each way of drawing has its law, whatever the rows stand beside."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrec.config.schema import NextItem
from jaxrec.config.tree import choices
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.registry import NEGATIVE_SAMPLERS
from jaxrec.models.layers import rng
from jaxrec.tasks import negative_sampling

R, L, N, V = 40, 25, 32, 13
KEYS = rng.row_keys(7, 3, jnp.arange(R))
TARGETS = jnp.asarray(np.repeat([0, 1, 2, 5, 12], [50, 3, 10, 30, 7])[::-1].copy(), jnp.int32)
POOL = negative_sampling.NegativePool(V, TARGETS)
UNIFORM = np.ones(V - FIRST_TITLE) / (V - FIRST_TITLE)
LAWS = {
    "uniform": np.array([0, 0, *UNIFORM]),
    "in_batch": np.bincount([2] * 10 + [5] * 30 + [12] * 7, minlength=V) / 47,
}


def drawn_by(how, shared="position", keys=KEYS, places=L):
    return np.asarray(negative_sampling.draw(keys, how, shared, places, N, POOL))


def fits(ids, law):
    """The chi-square test's p-value; what has no chance must not be there at all."""
    counts = np.bincount(np.ravel(ids), minlength=len(law))
    assert not counts[law == 0].any()
    return stats.chisquare(counts[law > 0], counts.sum() * law[law > 0]).pvalue


@pytest.mark.parametrize("shared", choices(NextItem, "negatives_shared_by"))
@pytest.mark.parametrize("how", NEGATIVE_SAMPLERS)
def test_each_way_of_drawing_has_its_law(how, shared):
    ids, law = drawn_by(how, shared), LAWS[how]
    assert ids.shape == ((R, L, N) if shared == "position" else (R, N))
    assert ids.dtype == np.int32
    assert fits(ids, law) > 1e-3
    # of each number among the N, each place and each row too: the least of n p-values
    for axis in range(ids.ndim):
        parts = np.moveaxis(ids, axis, 0)
        assert min(fits(part, law) for part in parts) > 1e-3 / len(parts)


@pytest.mark.parametrize("how", NEGATIVE_SAMPLERS)
def test_draws_are_independent(how):
    """Pairs of titles, of neighbours along each axis, have the law of two draws."""
    ids, law = drawn_by(how), LAWS[how]
    for axis in range(3):
        along = np.moveaxis(ids, axis, 0)
        assert fits(along[:-1] * V + along[1:], np.outer(law, law).ravel()) > 1e-3


def test_rows_of_a_step_and_of_another_differ():
    ids = drawn_by("uniform")
    other = drawn_by("uniform", keys=rng.row_keys(7, 4, jnp.arange(R)))
    assert len(np.unique(np.concatenate([ids, other]).reshape(2 * R, -1), axis=0)) == 2 * R


@pytest.mark.parametrize("how", NEGATIVE_SAMPLERS)
def test_a_draw_is_the_rows_own_however_rows_are_split(how):
    whole = drawn_by(how)
    shares = [drawn_by(how, keys=KEYS[start : start + 10]) for start in range(0, R, 10)]
    np.testing.assert_array_equal(np.concatenate(shares), whole)
    np.testing.assert_array_equal(drawn_by(how, places=4), whole[:, :4])


@pytest.mark.parametrize("how", NEGATIVE_SAMPLERS)
def test_log_q_is_the_log_of_the_law(how):
    got, law = np.asarray(negative_sampling.log_q(how, POOL)), LAWS[how]
    assert got.shape == (V,)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[law > 0], np.log(law[law > 0]), rtol=1e-6)
    assert np.isfinite(got).all()
    never = (law == 0) & (np.arange(V) >= FIRST_TITLE)
    once = {"in_batch": -np.log(47), "uniform": 0.0}[how]
    np.testing.assert_allclose(got[never], once, rtol=1e-6)


def test_a_batch_without_a_target_draws_nothing():
    pool = POOL._replace(ids=jnp.array([1, 0, 1], jnp.int32))
    assert not np.asarray(negative_sampling.draw(KEYS, "in_batch", "position", L, N, pool)).any()
    assert np.isfinite(np.asarray(negative_sampling.log_q("in_batch", pool))).all()
