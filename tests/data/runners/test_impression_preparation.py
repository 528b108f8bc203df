"""Datasets of exposures: the same bytes however they are prepared, and readers of lists without any."""

import json
import re

import numpy as np
import polars as pl
import pytest
from test_signal_preparation import manifest_of, opened, same_files, tables, with_signals  # noqa: F401
from test_stages import Engine, run_stages

from jaxrec import prepare as command
from jaxrec.analysis.description import describe
from jaxrec.config.schema import Feature, Label, Signal
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.data.events import partitions
from jaxrec.data.events.cleaning import SHORT, WATCHED
from jaxrec.data.examples.sampling_density import count_negatives
from jaxrec.data.loading.batches import EvalBatches, TrainBatches
from jaxrec.data.loading.packing import Packer
from jaxrec.data.runners import local
from jaxrec.data.runners.notes import Counts, check_splits
from jaxrec.data.runners.settings import fit_settings
from jaxrec.data.runners.statistics import log_statistics
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.audit import audit, verify_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.reporting.description_report import format_description

FOLDS = ("1/3", "2/3", "3/3")


def of_exposures(tiny_config, folder, order="in order", fold=""):
    """Return a config whose rows are those of the log, and the list adds of a table."""
    config = with_signals(tiny_config, folder, order)
    config.signals = (*config.signals[:3], Signal("impression", column="*"))
    config.labels = (*config.labels[:3], Label("added", "happened", "add", hours=480))
    of_history = [Feature(s.name, "number", "interaction", 4) for s in config.signals]
    config.features = (*config.features, Feature("time", "number", "context", 4), *of_history)
    config.data.examples, config.data.num_targets, config.data.fold = "impressions", 1, fold
    config.objective.ctr = config.objective.ranking = 0.0
    return config


@pytest.fixture(scope="module")
def exposures(once, tiny_config, tables):  # noqa: F811
    config = of_exposures(tiny_config, tables)
    return once("exposures", lambda folder: local.prepare(opened(config), config, str(folder)))


@pytest.mark.parametrize("count, workers, order, most", [(9, 3, "in order", 10**6), (1, 2, "backwards", 700)])
def test_bytes_do_not_depend_on_cores_partitions_and_order(
    tiny_config, tables, exposures, tmp_path, monkeypatch, count, workers, order, most  # noqa: F811
):  # fmt: skip
    monkeypatch.setattr(partitions, "_MAX_EVENTS", most)
    config = of_exposures(tiny_config, tables, order)
    config.data.partitions, config.data.workers = count, workers
    local.prepare(opened(config), config, str(tmp_path / "again"))
    assert same_files(exposures, tmp_path / "again", {"manifest.json"})
    one, two = manifest_of(exposures), manifest_of(tmp_path / "again")
    names = ("counts", "labels", "signals_sum", "splits", "completion_threshold")
    assert {name: one[name] for name in names} == {name: two[name] for name in names}


def test_the_stages_of_an_engine_make_the_same_bytes(tiny_config, tables, exposures, tmp_path):  # noqa: F811
    config = of_exposures(tiny_config, tables)
    config.data.partitions = 3
    run_stages(opened(config), config, tmp_path / "spread", Engine(0))
    assert same_files(exposures, tmp_path / "spread", {"manifest.json"})
    assert manifest_of(exposures)["fingerprint"] == manifest_of(tmp_path / "spread")["fingerprint"]


def test_each_row_of_the_log_after_the_first_of_its_user_is_a_row(exposures, tables):  # noqa: F811
    log = pl.read_parquet(tables / "in order" / "log.parquet").unique(("user_id", "title_id", "time"))
    log = log.filter(pl.col("time") > pl.col("time").min().over("user_id"))
    dataset, manifest = Dataset(exposures), manifest_of(exposures)
    held_out = [dataset.user_keys(split) for split in SPLITS[1:]]
    training = np.setdiff1d(log["user_id"].unique().to_numpy(), np.concatenate(held_out))
    for split, users in zip(SPLITS, (training, *held_out), strict=True):
        rows = dataset.rows(split).all()
        expected = log.filter(pl.col("user_id").is_in(users.tolist()))
        keys = dataset.arrays.title_key[rows["target"][:, 0] - 2]
        assert np.sort(keys).tolist() == sorted(expected["title_id"].to_list())
        seconds = expected["seconds_viewed"].clip(0, 90 * 60) / (90 * 60)
        assert rows["target_completion"].sum() == pytest.approx(
            seconds.sum(), rel=0.01
        )  # some plays share a day
        assert manifest["splits"][split]["examples"] == expected.height
        assert rows["context_numbers"].any(axis=1).all()  # the play of each exposure is known
    assert sum(manifest["counts"].values()) == 100  # exposures of users without an earlier play
    assert "hard_fill_rate" not in manifest and "hard negatives" not in command.table(manifest)


def test_folds_test_each_user_once(tiny_config, tables, tmp_path):  # noqa: F811
    tested = []
    for i, fold in enumerate(FOLDS):
        config = of_exposures(tiny_config, tables, fold=fold)
        local.prepare(opened(config), config, str(tmp_path / str(i)))
        dataset = Dataset(tmp_path / str(i))
        assert not np.intersect1d(dataset.user_keys("test"), dataset.user_keys("validation")).size
        tested += dataset.user_keys("test").tolist()
    assert sorted(tested) == list(range(100))


def test_an_audit_the_density_and_the_seen_titles_need_no_lists(exposures):
    dataset = Dataset(exposures)
    result = verify_dataset(dataset)
    assert not result.problems and not audit(dataset).notes
    assert result.rows == {split: len(dataset.rows(split).all()) for split in SPLITS}
    density = count_negatives(dataset.rows("train"), dataset.layout.num_titles, (6, 8, 6, 0))
    assert not density.drawn_V.any() and not density.hard_V.any()
    assert np.isfinite(density.log_density(0.5, 1e-3)).all()
    seen = dataset.seen_titles("test")
    rows = dataset.rows("test").all()
    stored = (rows["history_title"] > 0).sum(axis=1)
    assert (np.minimum(seen.num_titles, dataset.layout.max_history) == stored).all()


def test_a_description_has_the_rates_of_the_labels(tiny_config, tables, exposures):  # noqa: F811
    config = of_exposures(tiny_config, tables)
    result = json.loads(json.dumps(describe(config, Dataset(exposures))))
    manifest = manifest_of(exposures)
    assert result["targets"] == manifest["splits"]["train"]["examples"]
    added = {label["name"]: label for label in result["labels"]}["added"]["splits"]
    assert added["train"] == manifest["labels"]["added"] and 0 < added["test"]["mean"] < 0.2
    text = format_description(result)
    assert "impression  event    title" in text
    features = {feature["name"]: feature for feature in result["features"]}
    assert features["thumb"]["available"] == "history" and 0.5 <= features["thumb"]["auc"]["added"] < 0.7


def test_settings_are_proposed_from_the_number_of_exposures(tiny_config, tables):  # noqa: F811
    config = of_exposures(tiny_config, tables)
    fitted, reasons = fit_settings(config, log_statistics(opened(config), config))
    assert "about 1,600 training examples" in reasons["train.batch_size"] and fitted.train.batch_size == 8
    assert not [key for key in reasons if key.startswith("data.hard")]


def test_the_reason_of_a_split_without_exposures(tiny_config, tables):  # noqa: F811
    config = of_exposures(tiny_config, tables, fold="1/3")
    users = {"train": 1, "validation": 0, "test": 2}
    short = {WATCHED: 9, SHORT: 9}  # all plays are abandoned, which leaves out no exposure
    counts = Counts(9, short, {"train": 0, "validation": 1, "test": 1}, users, {})
    with pytest.raises(InputError, match=r"reason: no exposure .* has an earlier play of its user$"):
        check_splits(config, counts)
    counts.examples.update(train=1, validation=0)
    with pytest.raises(InputError, match=r"none of 3 users .* outside of data\.fold='1/3'$"):
        check_splits(config, counts)
    config.data.split, config.data.fold = "time", ""
    with pytest.raises(InputError, match=r"reason: no user has an exposure from data.validation_from="):
        check_splits(config, counts)


def test_rows_are_decoded_to_batches_without_negatives(tiny_config, exposures):
    import jax.numpy as jnp

    from jaxrec.tasks import ranking_inputs
    from jaxrec.tasks.loading import build_task

    dataset = Dataset(exposures)
    view = ranking_inputs.HistoryView(dataset.layout, (8, 4), False)
    packer = Packer(dataset.layout.row_dtype(), view.windows, False).fit(
        as_words(dataset.rows("train").all()), 16, 1
    )
    host = TrainBatches(dataset.rows("train"), 16, 0, 1, lengths=packer.lengths, pack=packer)[0]
    rows = host.words.reshape(-1).view(dataset.layout.row_dtype())
    assert host.packing is not None
    key = jnp.zeros((16, 2), jnp.uint32)
    batch = ranking_inputs.training(
        host.words, host.valid, view, (6, 8, 6, 0), 1, jnp.int32(0), key, host.packing
    )
    assert batch.positive.tolist() == rows["target"].tolist() and rows["target"].all()
    assert batch.outcome.completion.tolist() == rows["target_completion"].tolist()
    assert batch.negative.shape == batch.hard.shape == (16, 0) and batch.negative.dtype == jnp.int32
    kept = (rows["history_title"] > 0) & (rows["history_abandoned"] == 0)
    assert (batch.history.title > 0).sum() == np.minimum(kept.sum(axis=1), 8).sum()
    host = EvalBatches(dataset.rows("test"), 16)[0]
    rows = dataset.rows("test").all()[:16]
    queries = ranking_inputs.queries(host.words, view)
    assert queries.candidate[:, 0, 0].tolist() == rows["target"].tolist()
    assert queries.candidate.shape == (16, 1, 1, 1)
    validation = ranking_inputs.validation(queries, host.valid, 1)
    assert validation.positive.tolist() == rows["target"].tolist() and validation.negative.shape == (16, 0)
    np.testing.assert_array_equal(queries.rows["label"], rows["label"])
    message = "objective.ctr=1 compares a title with negatives, which rows of exposures do not have"
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        build_task(tiny_config, dataset.layout, 0.5, 4, 8)
