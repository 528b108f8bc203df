"""Experts that work their forward pass out again in the backward one: the same values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.registry import ENCODERS, SESSION_ENCODERS
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.next_item import ItemWindow, NextItemModel

KINDS = [kind for kind in ENCODERS if kind not in SESSION_ENCODERS]
EVERY = tuple(Expert((6, 3)[i % 2], 1, 2, 1.0, 0.2, kind) for i, kind in enumerate(KINDS))


def same(plain, again, least):
    """Trees of one structure, to 1e-12 of each array's largest; some arrays are not zero."""
    assert jax.tree.structure(plain) == jax.tree.structure(again)
    pairs = list(zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True))
    for a, b in pairs:
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12 * np.abs(a).max())
    assert sum(bool(np.abs(a).max() > 0) for a, _ in pairs) > least


@pytest.mark.parametrize(
    "target_in_sequence",
    [pytest.param(False, id="encoded"), pytest.param(True, id="joined", marks=pytest.mark.slow)],
)
def test_experts_of_every_kind(case, target_in_sequence):
    with jax.enable_x64(True):
        gradients = []
        for remat in (False, True):
            joins = {"target_in_sequence": target_in_sequence}
            c = case(dtype="float64", experts=EVERY, tasks=("ctr",), matcher=(6,), remat=remat, **joins)
            keys = jax.random.randint(jax.random.key(3), (5, 2), 0, 2**31 - 1).astype(jnp.uint32)

            def total(variables, c=c, keys=keys):
                out = c.model.apply(variables, c.history, c.candidate, c.table, 1.0, keys)
                return sum((s**2).sum() for s in out.scores.values()), out

            gradients.append((c.variables, jax.jit(jax.grad(total, has_aux=True))(c.variables)))
        same(*gradients, least=90)


@pytest.mark.slow
def test_an_encoder_of_sequences():
    with jax.enable_x64(True):
        r, gradients = np.random.default_rng(0), []
        titles = jnp.asarray(r.integers(2, 30, (3, 6)), jnp.int32).at[0, :2].set(0)
        at = jnp.asarray(np.sort(r.integers(1e9, 1.2e9, (3, 7)), axis=1), jnp.uint32)
        window, key = ItemWindow(titles, at[:, :-1], at[:, 1:]), at[:, :2]
        table = TitleTable(jnp.zeros((30, 0), jnp.int32), jnp.zeros((30, 0)))
        for remat in (False, True):
            features = (FeatureSpec("title_id", "category", "title", 8, 30),)
            encoder = Expert(6, 2, 2, 1.0, 0.2, "hstu")
            config = Model(8, (encoder,), dropout=0.2, embedding_init_std=0.02, remat=remat)
            model = NextItemModel("float64", features, 30, config)
            variables = model.init(jax.random.key(0), window, table, method="of_table")

            def total(variables, model=model):
                catalogue = model.apply(variables, table, method="catalogue")
                h = model.apply(variables, window, catalogue, key)
                return jnp.square(jnp.where(titles[..., None] > 0, h, 0.0)).sum(), h

            gradients.append((variables, jax.jit(jax.grad(total, has_aux=True))(variables)))
        same(*gradients, least=15)
