"""Losses of weighted sets of targets: equal to loops over targets, values and gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import NextItem
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.registry import NEXT_ITEM_LOSSES
from jaxrec.losses import sampled_losses
from jaxrec.losses.next_item import Positions, TargetSets, next_item_loss

R, L, D, V, N, J, T = 2, 4, 3, 12, 5, 3, 0.5


def inputs():
    """Return h, titles, targets with gaps in the sets, weights and negatives that hold targets."""
    rng = np.random.default_rng(3)
    target = np.stack([rng.permutation(np.arange(FIRST_TITLE, V))[:J] for _ in range(R * L)])
    target = target.reshape(R, L, J) * (np.arange(J) < rng.integers(1, J + 1, (R, L, 1)))
    target[0, 1] = 0  # a position without targets
    negatives = rng.integers(0, V, (R, L, N))
    negatives[..., 0] = target[..., -1]
    h, titles = rng.normal(size=(R, L, D)), rng.normal(size=(V, D))
    weight = rng.random((R, L, J)) + 0.1
    numbers = (jnp.asarray(x, jnp.float32) for x in (h, titles, weight))
    return (*numbers, jnp.asarray(target, jnp.int32), jnp.asarray(negatives, jnp.int32))


def loop(name, h, titles, weight, target, negatives, log_q):
    """Return the loss [R, L] by a loop over positions and targets, in jax for its gradient."""
    values = []
    for r, i in np.ndindex(R, L):
        ids = [j for j in range(J) if int(target[r, i, j]) >= FIRST_TITLE]
        if not ids:
            values.append(jnp.float32(0))
            continue
        of_targets = [int(target[r, i, j]) for j in ids]
        drawn = [int(n) for n in negatives[r, i] if n >= FIRST_TITLE and int(n) not in of_targets]
        score = {t: titles[t] @ h[r, i] / T for t in {*of_targets, *drawn, *range(FIRST_TITLE, V)}}
        w = jnp.stack([weight[r, i, j] for j in ids])
        if name == "softmax":
            z = jax.nn.logsumexp(jnp.stack([score[t] for t in range(FIRST_TITLE, V)]))
            terms = jnp.stack([z - score[t] for t in of_targets])
        elif name == "sampled_softmax":
            corrected = {t: s - log_q[t] for t, s in score.items()}
            z = jax.nn.logsumexp(jnp.stack([corrected[t] for t in [*of_targets, *drawn]]))
            terms = jnp.stack([z - corrected[t] for t in of_targets])
        else:
            beta = 1 - 0.75 * (1 - N / (V - FIRST_TITLE - 1)) if name == "gbce" else 1.0
            rest = sum((jax.nn.softplus(score[t]) for t in drawn), jnp.float32(0))
            terms = jnp.stack([beta * jax.nn.softplus(-score[t]) + rest for t in of_targets])
            terms = terms / (1 + len(drawn))
        values.append((w * terms).sum() / w.sum())
    return jnp.stack(values).reshape(R, L)


@pytest.mark.parametrize("name", NEXT_ITEM_LOSSES)
def test_the_loss_of_a_set_equals_a_loop_over_its_targets(name, monkeypatch):
    """Values and gradients; negatives that are targets do not count; chunks do not divide the positions."""
    monkeypatch.setattr(sampled_losses, "_CHUNK_BYTES", {"cpu": 3 * (J + N) * D * 4})
    h, titles, weight, target, negatives = inputs()
    log_q = jnp.log(1.0 + jnp.arange(V)) / 3
    config = replace(NextItem(), loss=name, temperature=T, calibration=0.75)
    scale = 1.0 + jnp.arange(R * L).reshape(R, L)

    def actual(h, titles):
        sets = TargetSets(target, weight)
        of = Positions(h, titles, target[..., 0], negatives, log_q, sets=sets)
        return (next_item_loss(of, config) * scale).sum()

    def expected(h, titles):
        return (loop(name, h, titles, weight, target, negatives, log_q) * scale).sum()

    values, gradients = jax.jit(jax.value_and_grad(actual, (0, 1)))(h, titles)
    wanted, of_loop = jax.value_and_grad(expected, (0, 1))(h, titles)
    np.testing.assert_allclose(values, wanted, rtol=2e-5)
    for a, b in zip(gradients, of_loop, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NEXT_ITEM_LOSSES)
def test_a_set_of_one_target_has_the_loss_of_that_target(name):
    h, titles, weight, target, negatives = inputs()
    config = replace(NextItem(), loss=name, temperature=T)
    alone = Positions(h, titles, target[..., 0], negatives, None)
    sets = TargetSets(target[..., :1], weight[..., :1])
    np.testing.assert_allclose(
        next_item_loss(alone._replace(sets=sets), config), next_item_loss(alone, config), rtol=1e-5, atol=1e-6
    )
