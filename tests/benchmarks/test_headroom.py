"""Headroom of a gate: cross-fitting by hand, an expert alone, and the command on a small model."""

import jax
import numpy as np
import pytest

from benchmarks import headroom
from benchmarks.headroom import BETTER, EQUAL, GATE, alone, cross_fitted, values_of
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import load_checkpoint


def test_a_gate_is_fitted_on_half_of_the_users_and_weighs_the_others():
    """Expert 1 is right for users of category 0, and expert 2 for the others."""
    rng, users = np.random.default_rng(1), 400
    user = np.repeat(np.arange(users), 2)
    category = rng.integers(0, 2, users)[user]
    z = np.eye(2)[category]
    right = np.zeros((len(user), 1, 2, 3))
    right[np.arange(len(user)), 0, category, 0] = 3.0
    present = np.ones((len(user), 1, 3), bool)
    mixed = cross_fitted(z, right, present, user)
    np.testing.assert_allclose(np.exp(mixed[GATE]).sum(-1), 1.0, atol=1e-6)
    log_p = {name: x[:, 0, 0].mean() for name, x in mixed.items()}
    best = 3 - np.log(np.exp(3) + 2)
    assert log_p[GATE] > best - 0.1
    assert log_p[GATE] > max(log_p[EQUAL], log_p[BETTER]) + 0.1
    # Each half learns what holds in it alone: with the experts exchanged in one half, both gates fail.
    half = np.random.default_rng(0).permutation(users)[user] % 2
    exchanged = np.where((half == 1)[:, None, None, None], right[:, :, ::-1], right)
    assert cross_fitted(z, exchanged, present, user)[GATE][:, 0, 0].mean() < log_p[EQUAL] - 0.1
    # A query without the list changes nothing.
    present[:2] = False
    again = cross_fitted(z, right, present, user)
    assert np.isneginf(again[EQUAL][:2]).all()
    assert np.isfinite(again[GATE][2:]).all()


def test_an_expert_scores_alone_and_the_command_compares_it_with_the_blend(tiny_run, tiny_directory):
    loaded = load_checkpoint(tiny_run / "run", "last")
    dataset = Dataset(tiny_directory)
    scorer = ListScorer(loaded.task, replicate(loaded.task.title_table(loaded.arrays)), False, 1)
    second = scorer(replicate(jax.device_get(alone(loaded.params, 1))), dataset.rows("test"))
    experts = len(loaded.config.model.experts)
    np.testing.assert_array_equal(second.gate, np.tile(np.eye(experts)[1], (len(second.gate), 1)))
    values = values_of(loaded, dataset, "test")
    forms = {name.split("/")[1] for name in values}
    assert forms == {headroom.BLEND, GATE, BETTER, EQUAL, *(f"expert {e + 1}" for e in range(experts))}
    ranked = second.scores[:, 0, 0]
    has_list = ~np.isnan(values["enabled/expert 2"])
    first = (ranked[:, 1:] < ranked[:, :1]).all(1)
    assert has_list.any()
    np.testing.assert_array_equal(values["enabled/expert 2"][has_list], first[has_list])
    loaded.config.model.experts = loaded.config.model.experts[:1]
    with pytest.raises(InputError, match="has no gate"):
        values_of(loaded, dataset, "test")
