"""Corrected rankings of the catalogue: scores log p / q become the order of p; choice, storage, errors."""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.examples.sampling_density import SamplingDensity
from jaxrec.evaluation import correction, scorers
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import AXIS, replicate
from jaxrec.tasks.outputs import TitleScores
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.train_state import StateInit

V, B = 10, 6


def test_scores_of_log_ratios_are_ranked_by_probability():
    """One model serves lists and catalogue: log p / q plus log q is log p, up to the scale of the scores."""
    rng = np.random.default_rng(0)
    log_p, log_q = rng.normal(size=(B, V)), rng.normal(size=V).astype(np.float32)
    target = jnp.asarray(rng.integers(FIRST_TITLE, V, B))
    by_head = {"ctr": jnp.asarray(log_p - log_q), "ranking": jnp.asarray((log_p - log_q) / 2)}
    task = SimpleNamespace(
        layout=SimpleNamespace(num_titles=V),
        candidates=lambda table: None,
        score_all_titles=lambda params, host, table, heads: TitleScores(
            {head: by_head[head] for head in heads}, target, jnp.zeros((B, 1), jnp.int32)
        ),
    )
    orders = {
        "model": Correction("ctr", 1.0, log_q),
        "scaled": Correction("ranking", 2.0, log_q),
        "plain": Correction("ctr"),
    }
    step = scorers._rank_step(task, orders, False, 3, None, 0)
    table = TitleTable(np.zeros((V, 0), np.int32), np.zeros((V, 0), np.float32))
    ranks, top, *_ = jax.vmap(lambda _: step(None, None, table), axis_name=AXIS)(jnp.zeros(1))
    by_p = FIRST_TITLE + np.argsort(-log_p[:, FIRST_TITLE:], axis=1)
    expected = 1 + np.argmax(by_p == np.asarray(target)[:, None], axis=1)
    for i in range(2):
        np.testing.assert_array_equal(ranks[0, :, i], expected)
        np.testing.assert_array_equal(top[0, :, i], by_p[:, :3])
    assert not np.array_equal(ranks[0, :, 2], expected)


def test_a_correction_of_some_titles_takes_their_own_density():
    rule = Correction("ctr", 0.5, np.array([0, 0, 1, 2, 3], np.float32))
    np.testing.assert_allclose(rule(jnp.array([[2.0, 4.0]]), jnp.array([[4, 2]])), [[4.0, 3.0]])


def test_pools_are_the_means_of_trending_and_tailing_titles():
    rank_of_id = np.array([6, 6, 3, 0, 1, 2], np.int32)  # titles 3 and 4 are trending
    density = SamplingDensity(np.array([0, 0, 1.0, 5.0, 3.0, 2.0]), np.zeros(6))
    estimates = correction.densities(density, rank_of_id, 2)
    assert np.exp(estimates["pools"][2:]) == pytest.approx([1.5, 4.0, 4.0, 1.5], rel=0.02)
    assert np.exp(estimates["counted"][2:]) == pytest.approx([1, 5, 3, 2], rel=0.02)


def test_the_shift_of_a_list_is_the_difference_of_the_log_densities_by_hand():
    """10 titles, 4 of them trending; training draws each of them twice as often as a tailing title."""
    is_trending = np.arange(12) < 6
    density = SamplingDensity(np.where(is_trending, 0.8, 0.4), np.zeros(12))
    # In the list: trending (6 + 6 - 2) / 4 + 4 / 10, tailing 4 / 6 + 4 / 10.
    expected = np.log(2) - np.log((2.5 + 0.4) / (4 / 6 + 0.4))
    assert correction.list_shift(density, (6, 6, 4, 4), 2.0, is_trending) == pytest.approx(expected)
    # A list that is drawn as in training has no shift.
    assert correction.list_shift(density, (0, 32, 24, 0), 0.0, is_trending) == pytest.approx(0)
    # Without tailing titles, or without any draw of one, there is nothing to shift.
    assert correction.list_shift(density, (6, 6, 4, 4), 2.0, np.ones(12, bool)) == 0
    undrawn = SamplingDensity(np.where(is_trending, 0.8, 0.0), np.zeros(12))
    assert correction.list_shift(undrawn, (6, 6, 4, 4), 2.0, is_trending) == 0


def test_the_best_order_on_validation_queries_is_chosen(tiny, tiny_config):
    config = copy.deepcopy(tiny_config)
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    params, table = replicate(StateInit(task).init().params), replicate(tiny.arrays.title_table())
    fitted = correction.fit_correction(task, params, table, tiny)
    chosen = fitted.correction
    name = f"{chosen.head} {chosen.form} x{chosen.scale:g}"
    assert fitted.compared[name] == max(fitted.compared.values())
    # Untrained scores are noise, so any estimate of the density of trending titles ranks better than none.
    assert chosen.form != "none" and len(set(fitted.compared.values())) > 5


def test_a_stored_correction_belongs_to_one_step(tmp_path):
    rule = Correction("ranking", 1.5, np.arange(5, dtype=np.float32), "counted")
    correction.write_correction(tmp_path, 20, rule)
    assert correction.read_correction(tmp_path, 10) is None
    stored = correction.read_correction(tmp_path, 20)
    assert (stored.head, stored.scale, stored.form) == ("ranking", 1.5, "counted")
    np.testing.assert_array_equal(stored.log_q_V, rule.log_q_V)
    correction.write_correction(tmp_path, 20, Correction("next_item"))
    assert correction.read_correction(tmp_path, 20) == Correction("next_item")


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_correction_is_fitted_again(tmp_path, caplog, damage):
    correction.write_correction(tmp_path, 20, Correction("ranking", 1.5, np.ones(50, np.float32), "counted"))
    path = tmp_path / "correction.npz"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        at = data.index(np.ones(8, np.float32).tobytes())
        data[at] ^= 255
    path.write_bytes(
        {"cut": data[: len(data) // 2], "other": b"PK" + data[5:], "empty": b""}.get(damage, data)
    )
    assert correction.read_correction(tmp_path, 20) is None
    assert f"{path} is damaged, and the correction is fitted again" in caplog.text


def test_a_correction_that_cannot_be_kept_is_no_error(tmp_path, caplog):
    correction.write_correction(tmp_path / "nowhere", 20, Correction("ranking"))
    assert "is not kept, and is fitted again next time: No such file or directory" in caplog.text
