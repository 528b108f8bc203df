"""Title tables of runs: maturity of titles by hand, and cold masking of ids for a whole step."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.schema import Config, Expert, Feature, Model, Sampling, Task, Train
from jaxrec.core.batch import HostBatch
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.loading.title_maturity import maturity_of
from jaxrec.data.storage.dataset import as_words
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.inputs.title_tables import empty_table, masked_table, masking_probability, title_table
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

FEATURES = (
    FeatureSpec("title_id", "category", "title", 4, 6),
    FeatureSpec("runtime", "number", "title", 2, mean=90, std=30),
    FeatureSpec("launch_day", "number", "title", 2, mean=20_000, std=10),
)
LAYOUT = Layout(6, 4, 1, (0, 0, 0, 0), 0, FEATURES, "next_item")
ARRAYS = SimpleNamespace(
    title_plays=np.array([0, 0, 10, 3, 0, 1]),
    title_numbers=np.float32([[0, 0], [0, 0], [1, 1], [1, -1], [1, 3], [1, 0]]),
)


def test_maturity_has_ages_and_plays():
    """Launches are on days 20,010, 19,990, 20,030 (never played) and 20,000."""
    config = Config(model=Model(entity="mixed", launch_day="launch_day"))
    expected = np.log1p([[0, 0], [0, 0], [0, 10], [20, 3], [0, 0], [10, 1]])
    np.testing.assert_allclose(maturity_of(ARRAYS, LAYOUT, config), expected, rtol=1e-5)
    config.data.until = "2024-10-17"  # day 20,013: the title of day 20,030 is not launched yet
    expected[2:, 0] = np.log1p([3, 23, 0, 13])
    np.testing.assert_allclose(maturity_of(ARRAYS, LAYOUT, config), expected, rtol=1e-5)
    of_plays = maturity_of(ARRAYS, LAYOUT, Config(model=Model(entity="mixed")))
    np.testing.assert_allclose(of_plays, expected * [0, 1], rtol=1e-5)


def test_no_table_has_a_maturity_or_masks_by_default(tiny, tiny_config):
    table = title_table(tiny.arrays, tiny.layout, tiny_config)
    assert table.maturity is table.masked is None
    assert masked_table(table, tiny_config, jnp.int32(3)) is table


# ---------------------------------------------------------------- cold masking


def test_masking_falls_with_plays_and_is_drawn_by_seed_step_and_title():
    model = Model(cold_masking=0.1, cold_masking_new=0.5)
    by_hand = [0.5, 0.3, 0.1 + 0.4 / 5, 0.1]
    np.testing.assert_allclose(masking_probability(model, jnp.asarray([0, 20, 80, 1e9])), by_hand, atol=1e-6)
    config = Config(model=model, train=Train(seed=3))
    plays = np.repeat([0, 20, 80, 10**9], 5000)
    numbers = jnp.zeros((20_000, 0))
    table = SimpleNamespace(
        categories=numbers, maturity=jnp.log1p(jnp.asarray(np.c_[plays, plays], jnp.float32))
    )
    table._replace = lambda masked: masked
    masks = [np.asarray(masked_table(table, c, jnp.int32(step))) for c, step in (
        (config, 5), (config, 5), (config, 6), (replace(config, train=Train(seed=4)), 5),
    )]  # fmt: skip
    np.testing.assert_allclose(masks[0].reshape(4, -1).mean(axis=1), by_hand, atol=0.025)
    assert not masks[0][:2].any()
    np.testing.assert_array_equal(masks[0], masks[1])
    for other in masks[2:]:  # independent draws: 34% differ
        assert (masks[0] != other).mean() == pytest.approx(0.34, abs=0.02)


def gradients(task, host, arrays):
    """Return the gradients of a step with the initial parameters, and the masked titles."""
    state, table = StateInit(task).init(), task.title_table(arrays)
    step = jax.vmap(TrainStep(task).gradients, in_axes=(None, 0, None), axis_name=AXIS)
    table = jax.tree.map(jnp.asarray, table)
    grads, _ = jax.jit(step)(state, jax.tree.map(lambda x: x[None], host), table)
    return jax.tree.map(lambda x: np.asarray(x[0]), grads), masked_table(
        table, task.config, state.step
    ).masked


def check_rows(gradient, masked):
    """Assert that the gradient of ids is exactly zero where a title is masked on both sides."""
    assert not gradient[masked].any() and gradient[1].any()
    assert gradient[~masked][2:].any(axis=1).sum() > 5
    assert 0.2 < masked[2:].mean() < 0.8


def test_a_masked_title_has_no_gradient_in_histories_and_candidates_of_the_ranking_task(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.model = replace(
        config.model, features=("title_id", "genres"), entity="mixed", cold_masking=0.4, cold_masking_new=0.6
    )
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    assert task.microbatches(64) == 1
    grads, masked = gradients(task, training_batches(task, tiny.rows("train"))[0], tiny.arrays)
    check_rows(grads["title"]["title_id"]["embedding"], masked)
    assert grads["title"]["entity"]["kernel"].any()


def test_a_masked_title_has_no_gradient_in_inputs_and_targets_of_the_next_item_task():
    V, length = 40, 8
    features = (
        FeatureSpec("title_id", "category", "title", 8, V),
        FeatureSpec("genre", "category", "title", 4, 5),
    )
    layout = Layout(V, length, 1, (4, 4, 4, 4), 20, features, "next_item")
    config = Config(
        features=(Feature("title_id", "category", "title", 8), Feature("genre", "category", "title", 4)),
        model=Model(
            width=8, experts=(Expert(length, 1, 2, 1.0, 0.0, "sasrec"),), dropout=0.0, head="dot",
            cold_masking=0.3, cold_masking_new=0.6,
        ),
        sampling=Sampling(id_dropout=0.0), task=Task(name="next_item"), train=Train(batch_size=16),
    )  # fmt: skip
    task = NextItemTask(config, layout, 0.5, 10, 100)
    rng = np.random.default_rng(0)
    rows = np.zeros(16, layout.row_dtype())
    rows["title"] = rng.integers(2, V, rows["title"].shape)
    rows["time"] = np.sort(rng.integers(1e9, 1.1e9, rows["time"].shape))
    host = HostBatch(as_words(rows), np.ones(16, bool))
    table = SimpleNamespace(title_plays=np.arange(V), title_codes=None)
    table.title_table = lambda: empty_table(task.layout, task.config)._replace(
        maturity=None, categories=np.arange(V, dtype=np.int32)[:, None] % 5
    )
    grads, masked = gradients(task, host, table)
    check_rows(grads["title"]["vectors"]["title_id"]["embedding"], np.asarray(masked))
