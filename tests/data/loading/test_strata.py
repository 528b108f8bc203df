"""Strata: counts of the training rows, weights, the weighted loss, what a checkpoint keeps."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.validation import check
from jaxrec.core.batch import Batch, Outcome
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import dumps
from jaxrec.data.loading import strata
from jaxrec.losses import ranking
from jaxrec.models.outputs import RankingOutput
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.tasks.loading import restore_task
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training import trainer


@pytest.fixture
def config(small_config):
    out = copy.deepcopy(small_config)
    out.sampling.strata, out.sampling.strata_power = "segment2", 0.0
    return out


def test_weights_by_hand():
    count = (0, 0, 1, 4, 15)
    equal = strata.strata_weights(count, 0.0)  # n^-1 over its mean, 3 strata / 20 rows
    np.testing.assert_allclose(equal, [1, 1, 20 / 3, 20 / 12, 20 / 45], rtol=1e-6)
    root = strata.strata_weights(count, 0.5)  # n^-.5 over (1 + 2 + 15^.5) / 20
    np.testing.assert_allclose(root[2:], np.array([1, 0.5, 15**-0.5]) * 20 / (3 + 15**0.5), rtol=1e-6)
    np.testing.assert_array_equal(strata.strata_weights(count, 1.0), 1)
    for power in (-500.0, -1.0, 0.0, 0.3, 2.0, 500.0):
        assert np.dot(strata.strata_weights(count, power), count) == pytest.approx(20, rel=1e-6)


def test_counts_are_those_of_all_training_rows(tiny, monkeypatch):
    monkeypatch.setattr("jaxrec.data.storage.row_blocks._BLOCKS", 3)
    rows = tiny.rows("train")
    assert rows.blocks > 3 and rows.blocks % 3  # the last read has fewer blocks
    users = [f for f in tiny.layout.of("user") if f.kind != "number"]
    assert [f.name for f in users[:2]] == ["segment", "segment2"]
    for column, feature in enumerate(users[:2]):
        ids, count = np.unique(rows.all()["user_categories"][:, column], return_counts=True)
        made = np.array(strata.count_strata(tiny, feature.name))
        assert len(made) == feature.size and made.sum() == rows.rows and len(ids) > 1
        np.testing.assert_array_equal(made[ids], count)
    assert strata.count_strata(tiny, "") == ()
    with pytest.raises(InputError, match=r"sampling.strata='genres' must be a category of the user"):
        strata.count_strata(tiny, "genres")


def batch_of() -> Batch:
    history = SimpleNamespace(user_categories=jnp.array([[9, 2], [9, 3], [9, 3], [9, 0]]))
    return Batch(
        history, jnp.array([[5]] * 4), Outcome(jnp.full((4, 1), 0.5)), jnp.array([[7]] * 4),
        jnp.zeros((4, 1), bool), jnp.array([True, True, True, False]),
    )  # fmt: skip


def test_an_example_weighs_as_its_stratum_in_the_total_and_in_each_term(config, tiny):
    size = strata.strata_feature(tiny.layout, "segment2").size
    counts = (0, 0, 1, 3, *[0] * (size - 4))
    task = RankingTask(config, tiny.layout, 0.5, 4, 40, {}, counts)
    task.check()
    plain = batch_of()
    batch = task._weighted(plain)
    np.testing.assert_allclose(batch.weight, [2, 2 / 3, 2 / 3, 1], rtol=1e-6)  # of 4 rows, 2 strata
    scores = {"ctr": jnp.array([[1.0, 0.0], [0.5, 2.0], [-1.0, 0.0], [9.0, 9.0]])}
    outputs = RankingOutput(scores, jnp.ones((4, 1)), jnp.ones((4, 1)))
    moving = {"ctr": jnp.float32(3.0)}, jnp.float32(10.0)

    @jax.jit
    def sums(weight, valid):
        batch = plain._replace(weight=weight, valid=valid)
        return ranking.objective(outputs, batch, config.objective, config.sampling, 0.5, None, moving)[1]

    one = jnp.ones(4)
    of_terms = [float(sums(one, jnp.arange(4) == i)["loss_ctr"][0]) for i in range(3)]
    weighted = float(np.dot(of_terms, [2, 2 / 3, 2 / 3]))
    made = sums(batch.weight, batch.valid)
    assert made["loss_ctr"] == (pytest.approx(weighted, rel=1e-6), 3)
    assert made["loss"] == (pytest.approx(3 * weighted + 30, rel=1e-6), 3)  # the addend is of no example
    off = copy.deepcopy(config)
    off.sampling.strata = ""
    assert replace(task, config=off)._weighted(plain).weight is None


def test_a_checkpoint_keeps_the_counts(config, tiny, tmp_path):
    """The weights of an evaluation are those of the training, without its rows."""
    run = trainer._Run(config, tiny, tmp_path, PreemptionHandler())
    assert run.meta["strata"] == list(strata.count_strata(tiny, "segment2")) == list(run.task.strata)
    meta = json.loads(dumps(run.meta))
    assert restore_task(config, meta).strata == run.task.strata
    del meta["strata"]
    with pytest.raises(InputError, match=r"sampling.strata='segment2' needs the training rows of each of"):
        restore_task(config, meta)


@pytest.mark.parametrize(("name", "power", "text"), [
    ("segment", float("nan"), "sampling.strata_power=nan must"),
    ("segment", float("inf"), "sampling.strata_power=inf must"),
    ("", 0.5, "sampling.strata_power=0.5 must be 1 with an empty sampling.strata"),
    ("genres", 0.5, "sampling.strata='genres' must be one of segment, segment2"),
    ("segmnt", 0.5, "did you mean segment?"),
])  # fmt: skip
def test_refused_strata(small_config, name, power, text):
    config = copy.deepcopy(small_config)
    config.sampling.strata, config.sampling.strata_power = name, power
    with pytest.raises(InputError) as caught:
        check(config)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_sequences_have_no_strata(small_config):
    config = copy.deepcopy(small_config)
    config.features = tuple(f for f in config.features if f.where == "title")
    config.task.name, config.data.num_targets, config.evaluate.next_k = "next_item", 1, (1,)
    config.model.features, config.model.experts[0].encoder = (), "sasrec"
    check(config)
    config.sampling.strata = "segment"
    allowed = "must be empty with task.name='next_item': rows of sequences hold no features of users"
    with pytest.raises(InputError) as caught:
        check(config)
    assert str(caught.value) == f"sampling.strata='segment' {allowed}"
