"""Evaluation of a ranking model on a later day, whose titles grew: lists, correction, ranks, refusals."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, UNKNOWN
from jaxrec.evaluation.correction import load_or_fit_correction, write_correction
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.evaluation.slices.results import with_slices
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.growth.later_catalogue import as_of_training, grown, has_grown, open_later_dataset
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.tasks.mixture.task import MIXTURE
from tests.training.growing_days import prepared, trained

NEW = 40  # titles of the second day


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Return the folder and the datasets of two days; a model is trained on the first."""
    folder = tmp_path_factory.mktemp("later")
    (config, before), (_, after) = (prepared(folder, "ranking", number) for number in range(2))
    trained(config, before, folder / "0/run")
    return folder, before, after


@pytest.fixture
def loaded(days):
    return load_checkpoint(days[0] / "0/run", "last")


def test_a_later_day_is_evaluated_on_lists_and_on_all_its_titles(days):
    folder, before, after = days
    options = EvaluationOptions(lists=("enabled", "catalogue"), report_users=0)
    evaluation = evaluate(folder / "0/run", options, which="last", data=after.directory)
    rows, known = after.rows("test").all(), FIRST_TITLE + len(before.arrays.title_key)
    assert evaluation.result["lists"]["enabled"]["ndcg@1"] >= 0
    assert len(evaluation.rows) == len(rows) and (rows["target"][:, 0] >= known).any()
    ranks = evaluation.ranked.by_order["model"].ranks
    assert ranks.max() <= len(after.arrays.id_of_rank) and np.isfinite(evaluation.scores).any()
    # The training had no play of a new title, so that by its popularity all of them come last.
    of_new = rows["target"][:, 0] >= known
    popular = evaluation.ranked.by_order["popularity"].ranks
    seen = after.seen_titles("test").num_titles
    assert (popular[of_new] + seen[of_new] > len(before.arrays.id_of_rank)).all()
    with_why = with_slices(evaluation, folder / "0/run", ("device",), None, after.directory)
    unseen = with_why.result["slices"]["by"]["device"]["why"]
    assert len(unseen) and with_why.result["slices"]["by"]["device"]["queries"]


def test_the_correction_of_a_new_title_is_the_least_of_the_training(days, loaded, tmp_path):
    """An id without a title has a log density too, which is not that of a title."""
    _, before, after = days
    later = grown(loaded, after, "mean")
    table = replicate(later.task.title_table(later.arrays))
    known, titles = FIRST_TITLE + len(before.arrays.title_key), before.layout.num_titles
    log_q_V = np.linspace(-1.0, -9.0, titles, dtype=np.float32)
    [head] = loaded.task.catalogue_heads[:1]
    for log_q, expected in (
        (log_q_V, np.where(np.arange(titles) < known, log_q_V, log_q_V[known - 1])), (None, None),
    ):  # fmt: skip
        own = Correction(head, 1.0, log_q, "counted")
        write_correction(tmp_path, loaded.step, own, loaded.task)
        correction = load_or_fit_correction(tmp_path, later, table, after)
        assert (correction.head, correction.scale, correction.form) == (own.head, own.scale, own.form)
        if expected is None:
            assert correction.log_q_V is None
        else:
            np.testing.assert_array_equal(correction.log_q_V, expected)


@pytest.mark.parametrize(("rows", "masked"), [("mean", 0.0), ("metadata", 0.5), ("initial", 0.0)])
def test_new_titles_have_the_rows_of_start_rows_or_the_unknown_row(days, loaded, rows, masked):
    _, before, after = days
    loaded.config.model.cold_masking_new = masked
    later = grown(loaded, after, rows)
    [(old, new)] = [
        (np.asarray(x), np.asarray(slashed_leaves(later.params)[name]))
        for name, x in slashed_leaves(loaded.params).items()
        if name.endswith("title_id/embedding")
    ]
    known = FIRST_TITLE + len(before.arrays.title_key)
    np.testing.assert_array_equal(new[:known], old[:known])
    added = new[known : known + NEW]
    if masked:
        np.testing.assert_array_equal(added, np.tile(old[UNKNOWN], (NEW, 1)))
    else:
        expected = old[FIRST_TITLE:known].mean(0) if rows == "mean" else np.zeros(old.shape[1])
        np.testing.assert_allclose(added, np.tile(expected, (NEW, 1)), atol=1e-6)
    assert later.trained is loaded and later.categories == after.manifest["categories"]


def test_plays_and_ranks_are_those_of_the_training_and_new_titles_come_by_key(days):
    _, before, after = days
    # Whatever is played today: the most popular titles of today are the new ones.
    now = after.arrays
    now = replace(now, title_plays=now.title_plays[::-1].copy(), id_of_rank=now.id_of_rank[::-1].copy())
    arrays, known = as_of_training(before.arrays, now), FIRST_TITLE + len(before.arrays.title_key)
    ranked = before.arrays.id_of_rank[np.isin(before.arrays.id_of_rank, now.id_of_rank)]
    np.testing.assert_array_equal(arrays.id_of_rank[: len(ranked)], ranked)
    keys = now.title_key[arrays.id_of_rank[len(ranked) :] - FIRST_TITLE]
    assert len(keys) >= NEW and keys.tolist() == sorted(keys.tolist())
    np.testing.assert_array_equal(arrays.title_plays[:known], before.arrays.title_plays[:known])
    assert not arrays.title_plays[known:].any()
    np.testing.assert_array_equal(arrays.rank_of_id[arrays.id_of_rank], np.arange(len(arrays.id_of_rank)))


def changed(dataset, **fields):
    """Return a dataset with other fields."""
    out = copy.copy(dataset)
    for name, value in fields.items():
        setattr(out, name, value)
    return out


def test_only_a_dataset_that_continues_the_training_has_grown(days, loaded):
    _, before, after = days
    assert has_grown(after, loaded) and not has_grown(before, loaded)
    manifest = {key: value for key, value in after.manifest.items() if key != "continues"}
    assert not has_grown(changed(after, manifest=manifest), loaded)
    keys = after.arrays.title_key.copy()
    keys[[0, 1]] = keys[[1, 0]]
    assert not has_grown(changed(after, arrays=replace(after.arrays, title_key=keys)), loaded)
    name = next(n for n, values in after.manifest["categories"].items() if len(values) > 1)
    categories = after.manifest["categories"] | {name: after.manifest["categories"][name][::-1]}
    assert not has_grown(changed(after, manifest=after.manifest | {"categories": categories}), loaded)
    specs = tuple(replace(f, std=2 * f.std) if f.kind == "number" else f for f in after.layout.features)
    assert specs != after.layout.features
    assert not has_grown(changed(after, layout=replace(after.layout, features=specs)), loaded)


def test_a_mixture_and_an_earlier_day_are_refused_in_one_line(days, loaded):
    _, before, after = days
    of_mixture = replace(loaded, meta=loaded.meta | {MIXTURE: {}})
    with pytest.raises(InputError, match="has titles or categories that the members of the mixture lack"):
        open_later_dataset(of_mixture, after.directory)
    later = grown(loaded, after, "mean")
    later.meta["dataset"] = after.fingerprint
    with pytest.raises(InputError, match="its layout differs from that of the training's dataset"):
        open_later_dataset(later, before.directory)
    assert open_later_dataset(loaded, None)[0] is loaded
