"""Served titles as negatives of a step: rotation, padding, the validation loss, and rows with a slate."""

import copy
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config import Mix
from jaxrec.core.errors import InputError
from jaxrec.data.loading.served_rows import training_rows
from jaxrec.data.storage.dataset import SelectedRows
from jaxrec.evaluation.details.validator import Validator
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.inputs import pool_negatives
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches

ALONE, BOTH = Mix(0.0, 0.0, 0.0, 0.0, 1.0), Mix(0.2, 0.2, 0.1, 0.0, 0.5)


def task_of(config, dataset, mix):
    config = copy.deepcopy(config)
    config.sampling.mix = mix
    return RankingTask(config, dataset.layout, 0.5, 28, 56)


def test_served_negatives_rotate_and_end_with_padding():
    pool = np.array([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12], [0, 0, 0, 0, 0]], np.int32)
    chosen = [np.asarray(pool_negatives._rotated(jnp.asarray(pool), 4, jnp.int32(epoch))) for epoch in (0, 1)]
    np.testing.assert_array_equal(chosen[0], [[5, 6, 7, 0], [8, 9, 10, 11], [0, 0, 0, 0]])
    np.testing.assert_array_equal(chosen[1], [[6, 7, 5, 0], [12, 8, 9, 10], [0, 0, 0, 0]])


def test_a_mix_of_both_takes_the_counts_of_all_pools(served, served_config):
    task = task_of(served_config, served, BOTH)
    assert task.pool_mix == (4, 4, 2, 0, 10)
    words = training_batches(task, served.rows("train"))[0].words
    rows = ranking_inputs.decode(jnp.asarray(words), served.layout.row_dtype())
    negative, hard = pool_negatives.choose_negatives(rows, task.pool_mix, jnp.int32(0))
    count = (np.asarray(rows["pool_served"]) > 0).sum(axis=1)
    assert negative.shape == hard.shape == (len(words), 20)
    np.testing.assert_array_equal((np.asarray(negative)[:, 10:] > 0).sum(axis=1), np.minimum(count, 10))
    assert (np.asarray(negative)[:, :10] > 0).all() and not np.asarray(hard)[:, 4:].any()
    assert 0 < (count > 0).sum() < len(words)


def test_served_negatives_alone_leave_rows_without_a_slate_out(served, served_config):
    rows, task = served.rows("train"), task_of(served_config, served, ALONE)
    every = rows.all()
    selected = every[every["pool_served"][:, 0] > 0]
    chosen = training_rows(rows, served.layout, task.pool_mix)
    assert chosen.rows == rows.rows and chosen.blocks == rows.blocks
    np.testing.assert_array_equal(chosen.all(), np.resize(selected, rows.rows))
    np.testing.assert_array_equal(
        chosen.read(np.array([2, 0])), np.concatenate([chosen.read(np.array([b])) for b in (2, 0)])
    )
    batches = training_batches(task, rows)
    seen = np.concatenate([batches[t].words.reshape(-1).view(rows.dtype) for t in range(28)])
    assert (seen["pool_served"][:, 0] > 0).all()
    both = task_of(served_config, served, BOTH)
    assert training_rows(rows, served.layout, both.pool_mix) is rows


def test_the_served_list_chooses_the_checkpoint_of_a_training_on_it(served, served_config):
    for mix, watched in ((Mix(), "enabled"), (BOTH, "served"), (ALONE, "served")):
        protocols = task_of(served_config, served, mix).protocols()
        assert protocols.lists == ("enabled", "disabled", "served") and protocols.best[0] == watched


def test_the_validation_loss_is_that_of_the_served_list(served, served_config):
    task = task_of(served_config, served, ALONE)
    rows = served.rows("validation").all()[:64]
    words = jnp.asarray(rows.view("<u4").reshape(len(rows), -1))
    queries = ranking_inputs.queries(words, task.view)
    valid = np.arange(64) < 60
    batch = ranking_inputs.validation(queries, valid, 1, served=True)
    np.testing.assert_array_equal(batch.negative, rows["list_served"][:, 0])
    np.testing.assert_array_equal(batch.valid, valid & (rows["list_served"][:, 0, 0] > 0))
    assert not np.asarray(batch.hard).any()
    assert queries.candidate.shape == (64, 3, 3, 21)


def without_slates(dataset, split):
    rows = dataset.rows(split).all().copy()
    rows["pool_served" if split == "train" else "list_served"] = 0
    return SelectedRows(rows)


def test_datasets_without_slates_are_refused(served, served_config, tiny):
    task = task_of(served_config, served, ALONE)
    with pytest.raises(InputError, match="no training request has a slate"):
        training_batches(task, without_slates(served, "train"))
    with pytest.raises(InputError, match="no validation query has a slate"):
        Validator(task, None, without_slates(served, "validation"))
    with pytest.raises(InputError, match=r"served=1 needs \d+ served titles a row, .* rows hold 0"):
        dataclasses.replace(task, layout=tiny.layout).check()
