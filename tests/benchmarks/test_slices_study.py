"""The study of slices: its rows, and the statistics of its tables by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.slices import diagnosis, difference
from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError
from jaxrec.evaluation.slices.slicing import Slicing
from jaxrec.studies.plan import PREMISE, Study, every_run, variants
from jaxrec.studies.runs import preparation_jobs

FILE = str(Path(__file__).resolve().parents[2] / "configs/study_slices.py")


def test_the_rows_differ_in_what_they_read_and_weigh(monkeypatch):
    monkeypatch.setenv("JAXREC_KUAIRAND", "kuairand")
    study = load_file(f"{FILE}:tiny", Study)
    rows = variants(study, (*study.default, PREMISE))
    assert "country" in {f.name for f in study.base.features}
    assert (
        "country" not in rows["no_country"].config.model.features and not rows["global"].config.model.features
    )
    assert rows["strata"].config.sampling.strata == "country"
    assert rows["strata-country_taste-2"].config.source.country_taste == 2
    fuller = variants(study, ("fuller",))["fuller"].config.data
    assert fuller.train_share == 4 * study.base.data.train_share and fuller.continues
    small = load_file(FILE, Study)
    assert variants(small, ("fuller",))["fuller"].config.data.train_share == 10 * small.base.data.train_share
    proxy = variants(load_file(f"{FILE}:kuairand", Study), ("rows",))
    assert [*proxy] == ["global", "no_tab"]
    with pytest.raises(InputError, match="must be one of small, tiny, kuairand"):
        load_file(f"{FILE}:huge", Study)


def test_the_dataset_of_a_slice_is_prepared_after_the_one_that_it_continues(tmp_path):
    study = load_file(f"{FILE}:tiny", Study)
    study.base.data.directory = str(tmp_path / "data")
    runs = every_run(study, ("rows", "only MX"), 1, tmp_path)
    jobs = {job.name: job.after for job in preparation_jobs(runs, tmp_path)}
    base = f"dataset {tmp_path / 'data'}"
    assert len(jobs) == 2 and jobs.pop(base) == "" and [*jobs.values()] == [base]


def test_differences_are_means_of_users_over_the_seeds():
    user, own = np.array([0, 0, 1, 2]), np.array([True, True, True, False])
    by_seed = [np.array([1.0, 0.0, 0.0, 9.0]), np.array([0.0, 0.0, -0.5, 9.0])]
    of_group = difference(user, own, by_seed)
    assert of_group["users"] == 2
    assert of_group["mean"] == pytest.approx(np.mean([[0.5, 0.0], [0.0, -0.5]]))
    assert of_group["seeds"]["n"] == 2 and of_group["low"] <= of_group["mean"] <= of_group["high"]


def test_a_diagnosis_finds_the_slices_of_large_true_regret():
    rng = np.random.default_rng(0)
    group, level = np.repeat(np.arange(6), 200), np.arange(6) / 6
    truth = level[group] + rng.normal(size=1200) * 0.1
    regret = 0.5 * level[group] + rng.normal(size=1200) * 0.1
    result = diagnosis(Slicing("x", group, [*"abcdef"]), np.arange(1200), regret, truth)
    assert result["spearman"] == 1.0 and result["low"] > 0.7
    noise = diagnosis(Slicing("x", group, [*"abcdef"]), np.arange(1200), rng.normal(size=1200), truth)
    assert noise["low"] < 0 < noise["high"]
