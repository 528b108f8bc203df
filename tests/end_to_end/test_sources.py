"""Other sources than the simulator, all the way: tables of one's own, ratings, the real sample."""

import copy
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Columns, Feature, Objective, Sampling, Tables
from jaxrec.config.schema import Mix as MixOf
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Drops, Interactions, Titles
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.evaluator import evaluate
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.sources import open_source
from jaxrec.training.trainer import train

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / "shared/data/kuairand_pure_sample"))


def write_tables(folder, config):
    """The tiny service's logs as somebody's CSV and Parquet files, under names of their own."""
    source = open_source(config.source, ())
    titles, chunks = source.titles(), list(source.interactions())
    genres = titles.features["genres"]
    lists = [
        "|".join(genres.values[a:b].tolist())
        for a, b in zip(genres.offsets, genres.offsets[1:], strict=False)
    ]
    pl.DataFrame({"film": [f"t{k}" for k in titles.key], "length": titles.runtime, "kinds": lists}).write_csv(
        folder / "films.csv"
    )
    columns = {
        "who": np.concatenate([c.user for c in chunks]),
        "film": [f"t{k}" for c in chunks for k in titles.key[c.title]],
        "at": np.concatenate([c.time for c in chunks]),
        "watched": np.concatenate([c.seconds for c in chunks]),
        "hour": np.concatenate([c.context["hour"] for c in chunks]),
    }
    pl.DataFrame(columns).write_parquet(folder / "plays.parquet")
    return len(columns["who"])


def own_config(tiny_config, folder):
    config = copy.deepcopy(tiny_config)
    names = Columns("who", "film", "at", "ms", "watched", "film", "length", list_separator="|")
    config.source = Tables(str(folder / "plays.parquet"), str(folder / "films.csv"), "", names)
    config.features = (
        Feature("title_id", "category", "title", 8),
        Feature("kinds", "categories", "title", 4, most=3),
        Feature("length", "number", "title", 2),
        Feature("hour", "category", "context", 2),
        Feature("completion", "number", "interaction", 2),
    )
    return config


def prepared(config, directory):
    prepare(open_source(config.source, config.features), config, str(directory))
    return Dataset(directory)


def test_tables_of_ones_own_give_the_simulators_own_rows(tiny_config, tmp_path):
    rows = write_tables(tmp_path, tiny_config)
    own = prepared(own_config(tiny_config, tmp_path), tmp_path / "own")
    assert own.manifest["rows"] == {"copies": 0, "dropped": {}, "read": rows}
    simulated = copy.deepcopy(tiny_config)
    simulated.source.test_only_users = 0
    write_tables(tmp_path, simulated)
    own = prepared(own_config(simulated, tmp_path), tmp_path / "again")
    reference = prepared(simulated, tmp_path / "reference")
    # The same users in the same splits, the same events: only the features differ.
    for split in ("train", "test"):
        a, b = own.rows(split).all(), reference.rows(split).all()
        for name in ("user", "position", "target_completion", "history_completion", "history_age"):
            np.testing.assert_array_equal(a[name], b[name])
    key = own.arrays.title_key[own.rows("train").all()["target"][:, 0] - 2]
    expected = reference.arrays.title_key[reference.rows("train").all()["target"][:, 0] - 2]
    assert [k if isinstance(k, str) else k.decode() for k in key] == [f"t{k}" for k in expected]
    assert own.manifest["has_truth"] is False
    assert np.isnan(own.rows("test").all()["oracle_enabled"]).all()
    assert np.isnan(own.rows("test").all()["mood"]).all()


def test_a_feature_that_no_table_holds_is_named(tiny_config, tmp_path):
    write_tables(tmp_path, tiny_config)
    config = own_config(tiny_config, tmp_path)
    config.features += (Feature("mood", "category", "context", 2),)
    with pytest.raises(InputError, match="mood"):
        prepared(config, tmp_path / "own")
    assert not (tmp_path / "own").exists() and not (tmp_path / ".own.partial").exists()


class Ratings:
    """A source without watch time, as `sources/tfds.py` is one: 400 users, 150 titles."""

    has_completion = False

    def __init__(self):
        self.drops = Drops()

    def titles(self):
        return Titles(np.arange(150), np.zeros(150))

    def users(self):
        return iter(())

    def truth(self):
        return None

    def files(self):
        return []

    def interactions(self):
        rng = np.random.default_rng(0)
        n = 4000
        time = 1_600_000_000_000 + np.arange(n) * 60_000
        yield Interactions(rng.integers(0, 400, n), rng.integers(0, 150, n), time, np.full(n, np.nan))


@pytest.mark.slow
def test_ratings_train_stl_with_negatives_of_nobody_in_particular(tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.features = (Feature("title_id", "category", "title", 8),)
    config.objective = Objective(ranking=0.0, regression=0.0, personalised=False)
    config.sampling = Sampling(mix=MixOf(0.0, 0.5, 0.3, 0.2))
    config.train.duration = "2 steps"
    prepare(Ratings(), config, str(tmp_path / "ratings"))
    dataset = Dataset(tmp_path / "ratings")
    assert dataset.manifest["has_completion"] is False and dataset.manifest["hard_fill_rate"] == 1.0
    rows = dataset.rows("test").all()
    assert (rows["num_hard"] == 0).all() and (rows["history_abandoned"] == 0).all()
    with PreemptionHandler() as interrupt:
        assert train(config, dataset, tmp_path / "run", interrupt) == 2
    result = evaluate(tmp_path / "run", data=str(tmp_path / "ratings")).result
    assert result["lists"]["disabled"]["examples"] == len(rows) and "oracle" not in result["baselines"]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"the KuaiRand sample is not at {SAMPLE}")
def test_the_real_sample_prepares_as_its_readme_counts_it(tmp_path):
    config = load_config(str(ROOT / "configs/kuairand.py"))
    config.source.directory = str(SAMPLE)
    manifest = prepared(config, tmp_path / "kuairand").manifest
    assert manifest["rows"] == {
        "read": 228_329,
        "copies": 5_885,
        "dropped": {"title without a runtime": 3_568},
    }
    assert manifest["titles"] == 7_583
    assert sum(s["users"] for s in manifest["splits"].values()) <= 25_156
    assert 0.3 < manifest["completion_threshold"] < 0.7
