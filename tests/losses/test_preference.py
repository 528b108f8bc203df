"""Objectives of post-training: tables worked by hand, two contexts, the softmax without played titles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Post
from jaxrec.losses.full_softmax import softmax
from jaxrec.losses.preference import (
    Choices,
    Draws,
    Pairs,
    Slates,
    advantages,
    preference_loss,
    soft_value_loss,
    value_loss,
)

# Four positions: a reward of 5, one of 3, a choice of unknown reward, padding.
LOG_PI = np.log([[0.5, 0.25], [0.125, 1.0]])
CHOSEN = [[True, True], [True, False]]
REWARD = [[5.0, 3.0], [0.0, 0.0]]
KNOWN = [[True, True], [False, False]]
BASELINE = [[4.0, 4.0], [4.0, 4.0]]
LN2 = np.log(2.0)


def choices(baseline=BASELINE, log_pi=LOG_PI):
    return Choices(*map(jnp.asarray, (log_pi, CHOSEN, REWARD, KNOWN, baseline)))


@pytest.mark.parametrize(
    ("post", "baseline", "weight"),
    [
        (Post("bc"), BASELINE, [[1.0, 1.0], [1.0, 0.0]]),
        (Post("reward", "r"), BASELINE, [[5.0, 3.0], [0.0, 0.0]]),
        (Post("exponential", "r", beta=0.5), BASELINE, [[np.e**2, np.e**-2], [0.0, 0.0]]),
        (Post("exponential", "r", beta=2.0), np.zeros((2, 2)), [[np.e**2.5, np.e**1.5], [0.0, 0.0]]),
        (Post("exponential", "r", beta=0.25, clip=20.0), BASELINE, [[20.0, np.e**-4], [0.0, 0.0]]),
    ],
)
def test_preference_objectives_by_hand(post, baseline, weight):
    objective = preference_loss(choices(baseline), post)
    loss = np.array([[LN2, 2 * LN2], [3 * LN2, 0.0]])
    np.testing.assert_allclose(objective.weight, weight, rtol=1e-6)
    np.testing.assert_allclose(objective.total, (np.array(weight) * loss).sum(), rtol=1e-6)
    assert objective.clipped.tolist() == [[post.beta == 0.25, False], [False, False]]


def test_conservative_q_learning_by_hand():
    """Q is (6, 2), with shares of softmax(Q) of 1/2 and 1/4; the third choice has no known reward."""
    x = choices()._replace(q=jnp.asarray([[6.0, 2.0], [9.0, 9.0]]), log_softmax_q=jnp.asarray(LOG_PI))
    objective = preference_loss(x, Post("cql", "r", alpha=0.5))
    assert objective.weight.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    np.testing.assert_allclose(objective.total, 0.5 + 0.5 + 0.5 * (LN2 + 2 * LN2), rtol=1e-6)


def shown(log_odds, reward=4.0, known=True, present=True):
    """Return one position of a chosen title and those that were shown with it."""
    odds, one = jnp.asarray([[log_odds]]), (1, 1)
    present = jnp.broadcast_to(jnp.asarray(present), odds.shape)
    return Slates(odds, present, jnp.full(one, reward), jnp.full(one, known))


def test_binary_classification_of_what_was_shown_by_hand():
    """The chosen title has the odds 1, of two others one has the odds 3, and the third is padding."""
    x = shown([0.0, np.log(3.0), np.nan], present=[[[True, True, False]]])
    objective = preference_loss(x, Post("wbc", "r"))
    np.testing.assert_allclose(objective.total, 4 * LN2 + 2 * LN2, rtol=1e-6)
    assert objective.weight.tolist() == [[5.0]] and objective.clipped.tolist() == [[False]]
    of_odds = jax.grad(lambda odds: preference_loss(x._replace(log_odds=odds), Post("wbc", "r")).total)(
        x.log_odds
    )
    np.testing.assert_allclose(of_odds, [[[-4 * 0.5, 0.75, 0.0]]], rtol=1e-6)
    unknown = preference_loss(x._replace(known=jnp.asarray([[False]])), Post("wbc", "r"))
    assert float(unknown.total) == 0.0 and unknown.weight.tolist() == [[0.0]]


def test_a_shown_title_goes_to_the_odds_of_its_choice_times_its_mean_reward():
    """A title is chosen at 3 of 10 requests at which it is shown, with the rewards 1, 1 and 4."""
    odds = np.log(2.0 * 0.3 / 0.7)

    def total(z):
        chosen = [preference_loss(shown([z], r), Post("wbc", "r")).total for r in (1.0, 1.0, 4.0)]
        others = preference_loss(shown([50.0, z]), Post("wbc", "r")).total  # as good as certain
        return sum(chosen) + 7 * others

    slope = jax.grad(total)
    np.testing.assert_allclose(slope(odds), 0.0, atol=1e-5)
    assert slope(odds - 0.1) < -0.1 and slope(odds + 0.1) > 0.1


def draws(log_pi=((0.0, LN2), (-LN2, 0.0)), advantage=((2.0, 2.0), (-3.0, -3.0))):
    """Return two draws at a position where titles count, and at one of padding."""
    present = jnp.asarray([[True, False]])
    of = [jnp.asarray(x)[None] for x in (log_pi, np.zeros((2, 2)), advantage)]
    return Draws(*of, jnp.asarray([[0.25, 7.0]]), present)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "clipped"),
    [
        ((0.0, LN2), (2.0, 2.0), -(2.0 + 2 * 1.2) / 2, 0.5),  # a ratio of 2 gains no more than 1.2
        ((-LN2, 0.0), (2.0, 2.0), -(1.0 + 2.0) / 2, 0.0),  # a good title that became rare is not clipped
        ((-LN2, -LN2), (-3.0, 1.0), -(-3 * 0.8 + 0.5) / 2, 0.5),  # a bad one is, once it is rare
        ((LN2, LN2), (-3.0, -3.0), 6.0, 0.0),
    ],
)
def test_ppo_by_hand(log_ratio, advantage, loss, clipped):
    x = draws((log_ratio, (np.nan, np.inf)), (advantage, (np.nan, 1.0)))
    for kappa in (0.0, 0.4):
        objective = preference_loss(x, Post("ppo", "r", "model", ratio_clip=0.2, kappa=kappa))
        np.testing.assert_allclose(objective.total, loss + kappa * 0.25, rtol=1e-6)
    assert objective.weight.tolist() == [[1.0, 0.0]] and objective.clipped.tolist() == [[clipped, 0.0]]


def test_a_clipped_ratio_has_no_gradient_and_an_advantage_never():
    def total(log_pi, advantage):
        x = draws()._replace(log_pi=log_pi, advantage=advantage)
        return preference_loss(x, Post("ppo", "r", "model")).total

    of_log_pi, of_advantage = jax.grad(total, (0, 1))(draws().log_pi, draws().advantage)
    assert (np.asarray(of_advantage) == 0).all()
    np.testing.assert_allclose(of_log_pi, [[[-1.0, 0.0], [0.0, 0.0]]], atol=1e-6)


def test_advantages_of_values_and_of_groups_by_hand():
    reward = jnp.asarray([[5.0, 1.0, 3.0], [4.0, 4.0, 4.0]])
    np.testing.assert_allclose(
        advantages(reward, jnp.asarray([2.0, 5.0])), [[3, -1, 1], [-1, -1, -1]], rtol=1e-6
    )
    deviation = np.sqrt(8 / 3)
    np.testing.assert_allclose(
        advantages(reward, None), [[2 / deviation, -2 / deviation, 0], [0, 0, 0]], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    ("objective", "eta", "loss"),
    [
        ("dpo", 0.0, np.log(1 + np.exp(-1.0)) + LN2),  # margins of 2 and 0, beta .5
        ("dpo", 0.3, np.log(1 + np.exp(-1.0)) + LN2 + 0.3 * (LN2 + 2 * LN2)),
        ("ipo", 0.0, 1.0 + 1.0),  # 1 / (2 beta) is 1
        ("ipo", 0.1, 2.0 + 0.1 * 3 * LN2),
    ],
)
def test_objectives_of_pairs_by_hand(objective, eta, loss):
    x = Pairs(jnp.asarray([[2.0, 0.0, np.nan]]), jnp.asarray([[-LN2, -2 * LN2, -1.0]]),
              jnp.asarray([[True, True, False]]))  # fmt: skip
    out = preference_loss(x, Post(objective, beta=0.5, eta=eta))
    np.testing.assert_allclose(out.total, loss, rtol=1e-6)
    assert out.weight.tolist() == [[1.0, 1.0, 0.0]]


def test_the_rest_of_the_positions_of_pairs_is_imitated():
    x = Pairs(jnp.asarray([[2.0, np.nan, np.nan]]), jnp.asarray([[-LN2, -2 * LN2, -jnp.inf]]),
              jnp.asarray([[True, False, False]]), jnp.asarray([[True, True, False]]))  # fmt: skip
    out = preference_loss(x, Post("dpo", beta=0.5, eta=0.3, rest=0.25))
    np.testing.assert_allclose(out.total, np.log(1 + np.exp(-1.0)) + 0.3 * LN2 + 0.25 * 2 * LN2, rtol=1e-6)
    assert out.weight.tolist() == [[1.0, 0.25, 0.0]]


def test_preference_weights_have_no_gradient_and_no_nan():
    def total(baseline, log_pi, beta):
        post = Post("exponential", "r", beta=beta, clip=1e9)
        return preference_loss(choices(baseline, log_pi), post).total

    baseline = jnp.asarray(BASELINE).at[1].set(jnp.nan)  # of positions without a reward
    log_pi = jnp.asarray(LOG_PI).at[1, 1].set(-jnp.inf)
    for beta, weight in ((2.0, np.exp(0.5)), (0.01, 1e9)):
        of_baseline, of_log_pi = jax.grad(total, (0, 1))(baseline, log_pi, beta)
        assert (np.asarray(of_baseline) == 0).all()
        assert np.isfinite(of_log_pi).all() and of_log_pi[0, 0] == pytest.approx(-weight)


@pytest.mark.parametrize(("baseline", "target"), [("value", 0.5), ("zero", 0.805)])
def test_preference_of_two_contexts_goes_where_the_baseline_says(baseline, target):
    """Two contexts, in which no action is better, share one parameter of the policy.

    The rewards are 1 and 0 whatever the action is, and the first action was logged with .9 and .1. With the
    value as the baseline both contexts weigh alike; without one, the probability of the first action goes to
    (.9 e^2 + .1) / (e^2 + 1).
    """
    logged = np.array([[0.9, 0.1], [0.1, 0.9]])  # context, action; as many examples as 1,000 requests have
    counts = np.rint(500 * logged).astype(int)
    context, action = (np.repeat(x.ravel(), counts.ravel()) for x in np.indices((2, 2)))
    reward = np.where(context == 0, 1.0, 0.0)
    values = reward if baseline == "value" else np.zeros_like(reward)
    everywhere = jnp.ones((1, len(action)), bool)
    post = Post("exponential", "r", beta=0.5)

    def loss(logit):
        log_pi = jnp.where(action == 0, jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit))
        x = Choices(
            log_pi[None], everywhere, jnp.asarray(reward)[None], everywhere, jnp.asarray(values)[None]
        )
        objective = preference_loss(x, post)
        return objective.total / objective.weight.sum()

    logit, step = jnp.float32(0.3), jax.jit(lambda x: x - 2.0 * jax.grad(loss)(x))
    for _ in range(100):
        logit = step(logit)
    assert float(jax.nn.sigmoid(logit)) == pytest.approx(target, abs=5e-4)
    exact = 0.5 if baseline == "value" else (0.9 * np.e**2 + 0.1) / (np.e**2 + 1)
    assert float(jax.nn.sigmoid(logit)) == pytest.approx(exact, abs=1e-5)


def test_preference_values_have_their_minimum_at_the_mean_and_at_the_soft_mean():
    rewards = jnp.asarray([[1.0, 2.0, 5.0, 5.0]])
    x = Choices(*(jnp.ones_like(rewards),) * 2, rewards, jnp.ones(rewards.shape, bool), rewards)
    beta = 0.7

    def descend(loss, value):
        step = jax.jit(lambda v: v - 0.05 * jax.grad(lambda u: loss(jnp.full_like(rewards, u)).sum())(v))
        for _ in range(600):
            value = step(value)
        return float(value)

    assert descend(lambda v: value_loss(v, x), 2.0) == pytest.approx(3.25, abs=1e-4)
    soft = beta * np.log(np.mean(np.exp(np.asarray(rewards) / beta)))
    assert descend(lambda v: soft_value_loss(v, x, beta), 4.5) == pytest.approx(soft, abs=1e-3)
    unknown = x._replace(known=jnp.zeros(rewards.shape, bool), reward=jnp.full(rewards.shape, jnp.nan))
    assert float(value_loss(rewards, unknown).sum()) == 0.0
    assert float(soft_value_loss(rewards, unknown, beta).sum()) == 0.0


def test_the_softmax_of_a_policy_leaves_out_played_titles():
    rng = np.random.default_rng(0)
    R, L, V, D, n = 3, 5, 11, 4, 6
    h, titles = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((R, L, D), (V, D)))
    target = jnp.asarray(rng.integers(0, V, (R, L)))  # below 2: no target
    played = np.asarray(rng.integers(0, V, (R, L, n)))
    played[played == np.asarray(target)[..., None]] = 0
    weight = jnp.asarray(rng.random((R, L)), jnp.float32)

    def chunked(h, titles):
        losses = softmax(h, titles, target, 0.5, 4 * V * 4, jnp.asarray(played))  # chunks of 4 positions
        return (weight * losses).sum(), losses

    def naive(h, titles):
        logits = h @ titles.T / 0.5
        out = np.zeros((R, L, V), bool)
        out[..., :2] = True
        np.put_along_axis(out, played, True, axis=-1)
        logits = jnp.where(out, -1e30, logits)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
        losses = jnp.where(target >= 2, losses, 0.0)
        return (weight * losses).sum(), losses

    (_, losses), gradients = jax.value_and_grad(chunked, (0, 1), has_aux=True)(h, titles)
    (_, expected), of_naive = jax.value_and_grad(naive, (0, 1), has_aux=True)(h, titles)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients, of_naive, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    every = softmax(h, titles, target, 0.5, 4 * V * 4)
    assert (np.asarray(every) > np.asarray(losses) + 1e-3)[np.asarray(target) >= 2].any()
