"""Mixtures: probabilities of members, gates, and one answer for lists, rankings and recommendations."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.analysis.derived import gates
from jaxrec.analysis.derived.mixtures import mix
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import evaluate
from jaxrec.evaluation.scorers import CatalogueRanker, ListScorer
from jaxrec.runtime.mesh import replicate
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.serving.export import write as write_export
from jaxrec.serving.recommender import Recommender
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.tasks.mixture.inputs import gate_features, gate_inputs, gate_width
from jaxrec.tasks.mixture.task import log_weights
from jaxrec.training.trainer import train

BY = ("segment", "history")


@pytest.fixture(scope="session")
def mixed(small_config, tiny_directory, once):
    """A folder with two small runs, "a" and "b", and mixtures of both by form."""

    def make(folder):
        config = copy.deepcopy(small_config)
        config.optimizer.learning_rate, config.train.duration = 0.02, "12 steps"
        for seed, name in enumerate(("a", "b")):
            config.train.seed = seed
            train(config, Dataset(tiny_directory), folder / name, PreemptionHandler())
        members = (folder / "a", folder / "b")
        for form in gates.FORMS:
            mix(members, BY, folder / form, form)

    return once("mixtures", make)


def scores_of(workdir, tiny):
    loaded = load_checkpoint(workdir, "best" if len(workdir.name) == 1 else "last")
    table = replicate(loaded.arrays.title_table())
    return ListScorer(loaded.task, table, False, 1)(loaded.params, tiny.rows("test")), loaded


def test_a_uniform_mixture_is_the_mean_of_the_members_probabilities(mixed, tiny):
    scored, loaded = scores_of(mixed / "uniform", tiny)
    scale = np.asarray(loaded.params["list_scale"])
    p = 0.0
    for m, name in enumerate(("a", "b")):
        s = scores_of(mixed / name, tiny)[0].scores.astype(np.float64)
        p = p + 0.5 * np.asarray(jax.nn.softmax(s * scale[m][:, None, None], axis=-1))
    np.testing.assert_allclose(np.exp(scored.scores), p, atol=2e-6)
    np.testing.assert_allclose(scored.gate, 0.5, atol=1e-6)
    np.testing.assert_allclose(np.exp(scored.scores).sum(-1), 1.0, atol=1e-5)


def test_probabilities_of_all_titles_sum_to_one_in_blocks_too(mixed, tiny):
    loaded = load_checkpoint(mixed / "learned", "last")
    task, table = loaded.task, loaded.arrays.title_table()
    from jaxrec.core.batch import HostBatch
    from jaxrec.data.storage.arrays import as_words

    host = HostBatch(as_words(tiny.rows("test").all()[:6]), np.ones(6, bool))
    scores = task.score_all_titles(loaded.params, host, table).by_head["mixture"]
    np.testing.assert_allclose(np.exp(scores[:, FIRST_TITLE:]).sum(1), 1.0, atol=1e-4)
    encoded = task.encode_queries(loaded.params, host, table)
    block = task.score_titles(loaded.params, encoded, table, "mixture", jnp.arange(5, 11))
    np.testing.assert_allclose(block, scores[:, 5:11], atol=1e-4)


def test_the_average_has_the_mean_parameters(mixed):
    a, b = (load_checkpoint(mixed / name, "best").params for name in ("a", "b"))
    average = load_checkpoint(mixed / "average", "last").params
    jax.tree.map(
        lambda x, y, z: np.testing.assert_allclose(z, (np.asarray(x) + np.asarray(y)) / 2, atol=1e-6),
        a, b, average,
    )  # fmt: skip


def test_a_mixture_is_evaluated_and_recommends(mixed, tiny):
    result = evaluate(mixed / "learned").result
    assert 0 < result["lists"]["enabled"]["ndcg@1"] < 1
    assert len(result["gate"]["mean"]) == 2
    recommender = Recommender.load(mixed / "learned", index="exact")
    histories = {
        "user_id": ["u", "u"], "title_id": [*recommender.titles[:2]], "time": [1_700_000_000_000] * 2,
        "seconds_viewed": [5000, 5000],
    }  # fmt: skip
    top = recommender.recommend(histories, 3)
    assert len(top["title"]) == 3 and (np.diff(top["score"]) <= 0).all() and (top["score"] < 0).all()


def test_the_catalogue_is_ranked_by_the_mixture(mixed, tiny):
    loaded = load_checkpoint(mixed / "learned", "last")
    ranker = CatalogueRanker(loaded.task, replicate(loaded.arrays.title_table()))
    ranked = ranker(loaded.params, tiny.rows("test").head(1))
    assert (ranked.by_order["model"].ranks >= 1).all()


def test_what_cannot_be_mixed_is_refused(mixed, tiny_run, tmp_path):
    members, out = (mixed / "a", mixed / "b"), tmp_path / "e"
    cases = [
        ((members, ("country",)), "by=country: is no input of a gate; allowed: history, segment"),
        ((members, ("segment", "segment")), "is there twice"),
        ((members[:1], BY), "allowed: two workdirs or more, each once"),
        (((members[0], members[0]), BY), "allowed: two workdirs or more, each once"),
        (((members[0], mixed / "uniform"), BY), "is a mixture itself"),
    ]
    for (names, by), text in cases:
        with pytest.raises(InputError, match=text):
            mix(names, by, out)
    with pytest.raises(InputError, match="have other names or shapes"):
        mix((members[0], tiny_run / "run"), BY, out, "average")
    with pytest.raises(InputError, match="allowed: a new or an empty folder"):
        mix(members, BY, mixed / "a")
    with pytest.raises(InputError, match="a mixture of models cannot be exported"):
        write_export(Recommender.load(mixed / "uniform", index="exact"), out)
    assert not out.exists()


# ---------------------------------------------------------------- the gate, without models


def members_of(rng, queries):
    """Return inputs [Q, 3], log p [Q, 1, 2] and users: the members differ in which category they know."""
    group = rng.integers(0, 2, queries)
    z = np.concatenate([np.eye(2)[group], rng.normal(size=(queries, 1))], axis=1)
    good, bad = np.log(0.5), np.log(0.05)
    log_p = np.stack([np.where(group == 0, good, bad), np.where(group == 0, bad, good)], axis=1)
    return z, log_p[:, None], np.arange(queries), group


def test_a_learned_gate_gives_each_slice_its_member():
    z, log_p, user, group = members_of(np.random.default_rng(0), 300)
    fitted = gates.fit("learned", z, log_p, user)
    weights = np.exp(np.asarray(log_weights(fitted.gate, jnp.asarray(z))))
    assert weights[group == 0, 0].min() > 0.9 and weights[group == 1, 1].min() > 0.9
    assert fitted.report["loss"] == pytest.approx(-np.log(0.5), abs=0.05)
    assert min(fitted.report["loss_of_members"]) > 1.0


def test_a_gate_without_a_pattern_stays_near_constant_weights():
    rng = np.random.default_rng(1)
    z = np.concatenate([np.eye(6)[rng.integers(0, 6, 300)], rng.normal(size=(300, 1))], axis=1)
    log_p = np.log(rng.uniform(0.05, 0.5, size=(300, 1, 2)))
    fitted = gates.fit("learned", z, log_p, np.arange(300))
    assert fitted.report["penalty"] >= 1e-1
    weights = np.exp(np.asarray(log_weights(fitted.gate, jnp.asarray(z))))
    assert weights.std(0).max() < 0.1


def test_the_best_form_chooses_one_member_for_each_slice():
    z, log_p, user, group = members_of(np.random.default_rng(2), 100)
    fitted = gates.fit("best", z, log_p, user)
    weights = np.exp(np.asarray(log_weights(fitted.gate, jnp.asarray(z, jnp.float32))))
    np.testing.assert_allclose(weights[np.arange(100), group], 1.0, atol=1e-6)


def test_queries_without_a_list_do_not_count():
    z, log_p, _, _ = members_of(np.random.default_rng(3), 50)
    missing = np.concatenate([log_p, np.full_like(log_p, np.nan)], axis=1)
    gate = {"0": {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    ones = np.ones(50)
    assert float(gates.loss_of(gate, z, missing, ones)) == pytest.approx(
        float(gates.loss_of(gate, z, log_p, ones))
    )


def test_gate_inputs_are_one_hot_and_log_lengths(tiny):
    rows = tiny.rows("test").all()[:20]
    fields = {name: jnp.asarray(rows[name]) for name in rows.dtype.names}
    z = np.asarray(gate_inputs(fields, tiny.layout, BY, True))
    (segment, _) = gate_features(tiny.layout, BY)
    assert z.shape == (20, gate_width(tiny.layout, BY)) == (20, segment.size + 1)
    column = tiny.layout.category_column("user", "segment")
    np.testing.assert_array_equal(z[:, : segment.size].argmax(1), rows["user_categories"][:, column])
    np.testing.assert_allclose(z[:, -1], np.log1p((rows["history_title"] > 0).sum(1)), rtol=1e-6)
    fewer = np.asarray(gate_inputs(fields, tiny.layout, BY, False))
    assert (fewer[:, -1] <= z[:, -1]).all() and (fewer[:, -1] < z[:, -1]).any()
