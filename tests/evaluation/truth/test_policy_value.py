"""Value of policies under a truth: tables worked by hand, the frontier, the efficiency of tilts."""

import numpy as np
import polars as pl
import pytest

from jaxrec.evaluation import per_user
from jaxrec.evaluation.truth.policy_value import (
    Frontier,
    efficiency,
    normalise,
    policy_values,
    tilt_values,
)

Q, V = 96, 120


@pytest.fixture(scope="module")
def service():
    """Return choices [Q, V] with played titles, and rewards that go together with the choices."""
    rng = np.random.default_rng(5)
    utility = 1.5 * rng.normal(size=(Q, V))
    choice = np.exp(utility + rng.normal(size=V))
    choice[rng.random((Q, V)) < 0.05] = 0.0
    choice /= choice.sum(axis=1, keepdims=True)
    reward = 1 / (1 + np.exp(-0.5 * utility - rng.normal(size=(Q, V))))
    return choice.astype(np.float32), reward.astype(np.float16)


def mean_of(choice, reward, logits):
    """Return mean value and mean KL of a policy."""
    values = policy_values(normalise(logits, choice), choice, reward)
    return float(values.value.mean()), float(values.kl.mean())


def test_values_of_a_policy_by_hand():
    choice = np.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], np.float32)
    reward = np.array([[1.0, 0.0, 0.9], [0.25, 0.5, 1.0]], np.float16)
    logits = np.log([[4.0, 1.0, 100.0], [1.0, 1.0, 100.0]])  # the third title was played: probability 0
    values = policy_values(normalise(logits, choice), choice, reward)
    np.testing.assert_allclose(values.value, [0.8, 0.375])
    np.testing.assert_allclose(
        values.kl, [0.8 * np.log(1.6) + 0.2 * np.log(0.4), 0.5 * np.log(2.0) + 0.5 * np.log(2 / 3)]
    )
    np.testing.assert_allclose(values.entropy, [-0.8 * np.log(0.8) - 0.2 * np.log(0.2), np.log(2.0)])
    np.testing.assert_allclose(values.value_at[1], [1.0, 0.25])
    np.testing.assert_allclose(values.value_at[10], [0.5, 0.375])  # of the two titles that may be chosen


def test_policy_value_of_the_frontier_is_concave_and_increases_with_the_kl(service):
    frontier = Frontier(*service)
    kls = np.linspace(0.02, 1.5, 9)
    values = np.array([frontier.value_at(kl) for kl in kls])
    steps = np.diff(values)
    assert (steps > 0).all() and (np.diff(steps) < 0).all()
    choice, reward = (x.astype(np.float64) for x in service)
    best = np.where(choice > 0, reward, 0).max(axis=1).mean()
    assert frontier.value_at(50.0) == pytest.approx(best, abs=1e-4)
    assert frontier.value_at(0.0) == pytest.approx((choice * reward).sum(axis=1).mean(), abs=1e-4)


def test_policy_value_of_a_tilt_is_on_the_frontier_and_that_of_permuted_rewards_is_not(service):
    choice, reward = service
    frontier, rng = Frontier(choice, reward), np.random.default_rng(6)
    with np.errstate(divide="ignore"):
        log_choice = np.log(choice, dtype=np.float64)
    choice_value = mean_of(choice, reward, log_choice)[0]
    for temperature in (0.1, 0.5, 2.0):
        value, kl = mean_of(choice, reward, log_choice + reward.astype(np.float64) / temperature)
        assert efficiency(value, kl, choice_value, frontier) == pytest.approx(1.0, abs=0.01)
    permuted = []
    for _ in range(20):
        other = rng.permuted(reward, axis=1).astype(np.float64)
        value, kl = mean_of(choice, reward, log_choice + other / 0.25)
        permuted.append(efficiency(value, kl, choice_value, frontier))
    assert np.mean(permuted) <= 0.02
    assert np.mean(permuted) < -0.02  # below 0: choice and reward go together here


def test_policy_value_of_the_choice_itself_has_no_efficiency(service):
    choice, reward = service
    (blocks,) = tilt_values(choice, reward, 1e9)
    np.testing.assert_allclose(blocks.value, (choice.astype(np.float64) * reward).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(blocks.kl, 0.0, atol=1e-6)
    assert efficiency(float(blocks.value.mean()), 0.0, float(blocks.value.mean()), Frontier(*service)) is None


def test_policy_values_of_two_runs_are_compared_by_user_and_by_query(tmp_path):
    runs = []
    for name, values in (("a", [0.75, 0.25, 0.5]), ("b", [0.5, 0.5, 0.25])):
        folder = tmp_path / name
        folder.mkdir()
        of_user = {"user": ["ann", "bob"], "queries": [2, 1]}
        of_user["truth/value"] = [np.mean(values[:2]), values[2]]
        stem = folder / "eval-test-last-truth"
        pl.DataFrame(of_user).write_parquet(f"{stem}-per-user.parquet")
        of_query = {"user": ["ann", "ann", "bob"], "truth/value": values}
        pl.DataFrame(of_query).write_parquet(f"{stem}-per-query.parquet")
        (folder / f"{stem.name}.json").write_text('{"dataset": "d"}')
        runs.append(per_user.read(folder))
    differences = per_user.compare(*runs)["metrics"]
    assert [*differences] == ["truth/value"]
    assert differences["truth/value"]["users"]["mean"] == 0.125  # of 0 and .25
    assert differences["truth/value"]["queries_as_the_paper"]["mean"] == pytest.approx(0.25 / 3)
