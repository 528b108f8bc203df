"""Slates of a next-item model: configs/sequences.py:simulated at the size of configs/tiny.py."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.live_places import check, fits_schema, write_inputs
from jaxrec.config.loading import load_config
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.live_events.segments.rules import parse_rule
from jaxrec.live_events.segments.training_users import training_queries
from jaxrec.live_events.slates import folder as folders
from jaxrec.live_events.slates.building import SlateOptions, build_slates
from jaxrec.live_events.slates.quality import with_segments
from jaxrec.runtime.mesh import replicate
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.serving.recommender import Recommender
from jaxrec.tasks.loading import load_checkpoint
from jaxrec.training.trainer import train

SEQUENCES = Path(__file__).resolve().parents[2] / "configs/sequences.py"


@pytest.fixture(scope="module")
def sequence_run(tiny_config, once):
    """A folder with `run`, trained for a few steps, and `data`."""
    config = load_config(f"{SEQUENCES}:simulated")
    config.source, config.data.max_history, config.data.partitions = tiny_config.source, 16, 1
    config.model.width, config.features[0].width = 8, 8
    config.model.experts[0].max_len, config.model.experts[0].num_layers = 16, 1
    config.train.duration, config.optimizer.learning_rate = "20 steps", 0.01

    def make(folder):
        ensure_dataset(config, folder / "data")
        train(config, Dataset(folder / "data"), folder / "run", PreemptionHandler())

    return once("live-sequences", make)


@pytest.fixture(scope="module")
def loaded(sequence_run):
    return load_checkpoint(sequence_run / "run", "best")


@pytest.fixture(scope="module")
def built(sequence_run, loaded, tmp_path_factory):
    """A function that writes slates by a rule for the events of `benchmarks.live_places`; returns folders."""
    inputs = tmp_path_factory.mktemp("inputs")
    write_inputs(inputs, [*map(str, loaded.arrays.title_key.tolist())])

    def make(rule):
        out = tmp_path_factory.mktemp("slates") / "out"
        options = SlateOptions(parse_rule(rule), licences=str(inputs / "licences.csv"))
        data = sequence_run / "data"
        build_slates(sequence_run / "run", str(inputs / "events.json"), str(out), options, data=data)
        return out, inputs

    return make


def test_slates_of_a_next_item_model_are_right_in_every_place(built):
    slates, inputs = built("kmeans:3")
    counts = check(slates, inputs / "events.json", inputs / "licences.csv")
    # Two events, five stages, four regions, three clusters and the default one.
    assert counts["places"] == 40 * 2 * 5 * 4 * 4
    assert {kind for kind, number in counts.items() if number} == {"places", "slates"}
    assert fits_schema(slates) > 0


def test_a_user_of_validation_and_test_has_one_segment(built, sequence_run):
    slates, _ = built("kmeans:3")
    dataset = Dataset(sequence_run / "data")
    users = [{*dataset.user_keys(split).tolist()} for split in ("validation", "test")]
    assert users[0] & users[1]
    table = pl.read_parquet(slates / "segments.parquet")
    assert sorted(table["user"].to_list()) == sorted(users[0] | users[1])


def test_one_slate_has_the_titles_of_the_highest_mean_probability(built, loaded, sequence_run):
    slates, _ = built("one")
    manifest, dataset = folders.read_manifest(slates), Dataset(sequence_run / "data")
    table = replicate(loaded.task.title_table(loaded.arrays))
    correction = load_or_fit_correction(sequence_run / "run", loaded, table, dataset)
    number = len(loaded.arrays.title_key)
    ids = np.arange(FIRST_TITLE, FIRST_TITLE + number)
    scores = Recommender(loaded, correction)._scorer.scores(training_queries(dataset), ids)
    p = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
    mean = (p / p.sum(axis=1, keepdims=True)).mean(axis=0)
    document = folders.parse_json(
        folders.read_payload(slates, folders.payload_of(manifest, "fight", "cancelled", "us", 0))
    )
    key = {str(title): row for row, title in enumerate(loaded.arrays.title_key.tolist())}
    shown = np.array([key[title] for title in (*document["titles"], *document["spare"])])
    # The first title is that of the other event, and "us" lacks one title in five.
    allowed = np.flatnonzero((np.arange(number) % 5 != 3) & (np.arange(number) != 0))
    np.testing.assert_allclose(mean[shown], np.sort(mean[allowed])[::-1][:60], rtol=1e-4)


@pytest.mark.slow  # test_slate_quality has the table of a ranking model
def test_the_quality_of_its_slates(built, sequence_run):
    slates, _ = built("kmeans:4")
    evaluation = evaluate(sequence_run / "run", EvaluationOptions(lists=("catalogue",), report_users=0),
                          data=sequence_run / "data")  # fmt: skip
    result = with_segments(evaluation, sequence_run / "run", str(slates), sequence_run / "data")
    rows = {row["name"]: row["metrics"]["ndcg@10"]["mean"] for row in result.result["segments"]["rows"]}
    assert {"model", "popularity", "kappa 1", "kappa 4", "delivered"} <= {*rows}
    assert all(0 < value < 1 for value in rows.values())
