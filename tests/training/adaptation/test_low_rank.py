"""Low-rank adaptation: gradients of the factors, what a step changes, what is refused."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.config.schema import Start
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks.loading import CHECKPOINTS, load_checkpoint
from jaxrec.training import trainer
from jaxrec.training.adaptation.low_rank import (
    adaptable_names,
    factor_gradients,
    init_low_rank,
    merged,
)
from tests.stop import Stop

START = Start("w", low_rank=2, adapt=("a/*kernel",))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return {
        "a": {"kernel": jnp.asarray(rng.normal(size=(5, 4))), "bias": jnp.asarray(rng.normal(size=4))},
        "b": {"kernel": jnp.asarray(rng.normal(size=(4, 3)))},
        "title": {"embedding": jnp.asarray(rng.normal(size=(6, 5)))},
    }


def test_dense_kernels_alone_can_be_adapted(params):
    assert adaptable_names(params) == ["a/kernel", "b/kernel"]
    assert init_low_rank(Start(), params, jax.random.key(0)) == ()


def test_the_first_product_is_zero_and_the_kernel_that_of_the_start(params):
    low_rank = init_low_rank(START, params, jax.random.key(0))
    assert {*slashed_leaves(low_rank.base)} == {"a/kernel"}
    assert low_rank.factors["a"]["kernel"]["down"].shape == (5, 2)
    assert low_rank.factors["a"]["kernel"]["up"].shape == (2, 4)
    assert jnp.abs(low_rank.factors["a"]["kernel"]["down"]).max() > 0
    jax.tree.map(np.testing.assert_array_equal, merged(params, low_rank), params)


def test_gradients_of_the_factors_are_those_of_the_merged_kernel(params):
    low_rank = init_low_rank(START, params, jax.random.key(1))
    factors = jax.tree.map(lambda x: x + 0.3, low_rank.factors)
    low_rank = low_rank._replace(factors=factors)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 5)))

    def loss(params):
        return jnp.sum(jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"]) @ params["b"]["kernel"])

    expected = jax.grad(lambda factors: loss(merged(params, low_rank._replace(factors=factors))))(factors)
    of_kernels = jax.grad(loss)(merged(params, low_rank))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        factor_gradients(of_kernels, low_rank), expected,
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapted(tiny_config, tiny, tiny_run, tmp_path_factory):
    """The first run's parameters, and a checkpoint of three steps with adapted heads and distillation."""
    folder, config = tmp_path_factory.mktemp("adapted"), copy.deepcopy(tiny_config)
    config.train.duration, config.evaluate.report = "3 steps", False
    config.optimizer.learning_rate = 0.05
    config.start = Start(str(tiny_run / "run"), low_rank=2, adapt=("matcher_*/kernel",), anchor=0.01)
    config.objective.distil = 0.5
    trainer.train(config, tiny, folder / "run", PreemptionHandler())
    return load_checkpoint(tiny_run / "run", "best").params, folder / "run", config


def test_a_run_changes_the_adapted_kernels_alone_by_a_product_of_low_rank(adapted):
    first, workdir, _ = adapted
    before, after = slashed_leaves(first), slashed_leaves(load_checkpoint(workdir, "last").params)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {name for name in adaptable_names(first) if name.startswith("matcher_")} != set()
    for name in changed:
        difference = np.asarray(after[name], np.float64) - np.asarray(before[name], np.float64)
        s = np.linalg.svd(difference, compute_uv=False)
        assert s[0] > 1e-4 and s[2] < 1e-5 * max(s[0], 1.0)


def saved(workdir):
    """Return the arrays of the last checkpoint of a run by name."""
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        return checkpoints.restore_on_host("last", "params", "optimizer", "low_rank", "task_state")


def test_a_resumed_run_equals_one_left_alone(adapted, tiny, tmp_path):
    _, workdir, config = adapted
    cut = tmp_path / "cut"
    assert 0 < trainer.train(config, tiny, cut, Stop(1)) < 3
    assert trainer.train(config, tiny, cut, Stop()) == 3
    expected, actual = saved(workdir), saved(cut)
    assert expected.keys() == actual.keys()
    assert {name.split("/")[0] for name in expected} == {"params", "optimizer", "low_rank", "task_state"}
    for name, value in expected.items():
        np.testing.assert_array_equal(value, actual[name], err_msg=name)


def test_what_does_not_fit_is_refused(adapted, tiny, tiny_config, tmp_path):
    _, workdir, config = adapted
    config = copy.deepcopy(config)
    config.start.adapt = ("matcher_*/bias",)
    with pytest.raises(InputError, match="must match a parameter that is a dense kernel; there are"):
        trainer.train(config, tiny, tmp_path / "no", PreemptionHandler())
    kept = copy.deepcopy(tiny_config)
    kept.start = Start(str(workdir), "last", optimizer="kept")
    with pytest.raises(InputError, match="holds no moments of its parameters"):
        trainer.train(kept, tiny, tmp_path / "no", PreemptionHandler())
    part = copy.deepcopy(tiny_config)
    part.start, part.objective.distil = Start(str(workdir), "last", take=("title/*",)), 1.0
    with pytest.raises(
        InputError, match=r"objective\.distil needs all parameters of that run, but .* is not taken"
    ):
        trainer.train(part, tiny, tmp_path / "no", PreemptionHandler())
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("start", "distil", "text"),
    [
        (Start(low_rank=2), 0.0, "start.low_rank=2 must be 0 with an empty start.workdir"),
        (Start("w", low_rank=-1), 0.0, "start.low_rank=-1 must be at least 0"),
        (Start("w", low_rank=2, adapt=()), 0.0, "start.adapt=() must hold at least one pattern"),
        (Start("w", adapt=("x",)), 0.0, "start.adapt=('x',) must be ('*kernel',) with start.low_rank=0"),
        (
            Start("w", low_rank=2, freeze=("x",)), 0.0,
            "start.freeze=('x',) must be empty with start.low_rank above 0: the factors alone are trained",
        ),
        (
            Start("w", low_rank=2, optimizer="kept"), 0.0,
            "start.optimizer='kept' must be fresh with start.low_rank above 0: the factors alone are trained",
        ),
        (Start(), 1.0, "objective.distil=1.0 must be 0 with an empty start.workdir: there is no such model"),
        (Start("w"), -1.0, "objective.distil=-1.0 must be at least 0"),
        (Start("w", rows="initial"), 1.0,
         "start.rows='initial' must be mean or metadata with objective.distil=1"),
    ],
)  # fmt: skip
def test_settings_are_refused(small_config, start, distil, text):
    config = copy.deepcopy(small_config)
    config.start, config.objective.distil = start, distil
    with pytest.raises(InputError) as error:
        check(config)
    assert str(error.value) == text
