"""One run of long histories in three ways, by commands: fine-tuned, with a frozen encoder, and as vectors."""

import json

import commands
import numpy as np
import polars as pl
import pytest

from configs.foundation import LABELS_OF_USES, USES
from configs.study_foundation import ENCODER
from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.data.storage.dataset import Dataset
from jaxrec.tasks.loading import load_checkpoint

CONFIG = "configs/foundation.py:tiny_"


def run(*arguments, status=0):
    done = commands.run("-m", *arguments, env=commands.environment(1))
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout if not status else done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return the workdir of the run for all uses, and the folder of datasets."""
    folder = tmp_path_factory.mktemp("uses")
    workdir, data = folder / "uses", f"--config.data.directory={folder / 'data'}"
    run("jaxrec.train", "--config", f"{CONFIG}uses", "--workdir", workdir, data)
    return workdir, folder


def trained(first, use, workdir, *more):
    """Train a use from the run for all uses; return the record of its start."""
    start, folder = first
    data = folder / ("country-data" if use == "country" else "data")
    flags = f"--config.start.workdir={start}", f"--config.data.directory={data}", *more
    run("jaxrec.train", "--config", CONFIG + use, "--workdir", workdir, *flags)
    return json.loads((workdir / "start.json").read_text())


@pytest.mark.slow  # two commands of about 10 s each, after one for all tests
@pytest.mark.parametrize("use", USES)
def test_a_use_goes_on_from_the_run_and_is_evaluated(first, use, tmp_path):
    taken = trained(first, use, tmp_path / "run")["taken"]
    assert {"title/vectors/title_id/embedding", "tokens/gap"} <= {*taken}
    result = json.loads(run("jaxrec.evaluate", "--checkpoint", tmp_path / "run", "--json"))
    if use == "country":
        assert result["catalogue"]["users"] < 60 and "labels" not in result
        return
    label = LABELS_OF_USES[use]
    assert set(result["labels"]) == {label} and "catalogue" not in result
    low, high = result["labels"][label]["auc"]["interval"]
    assert 0 <= low < high <= 1
    error = run("jaxrec.evaluate", "--checkpoint", tmp_path / "run", "--delay-hours", "0,6", status=2)
    assert "delay_hours=0.0,6.0; allowed: none" in error


@pytest.mark.slow  # a command of about 10 s
def test_a_frozen_encoder_is_a_part_of_a_model_with_other_scores(first, tmp_path):
    edits = f"--config.start.freeze={ENCODER!r}", f"--config.start.take={ENCODER!r}"
    record = trained(first, "country", tmp_path / "run", *edits, "--config.model.project=4")
    before, after = (
        slashed_leaves(load_checkpoint(workdir, which).params)
        for workdir, which in ((first[0], "best"), (tmp_path / "run", "last"))
    )
    new = {"user_projection/kernel", "title_projection/kernel"}
    assert set(after) == {*record["frozen"]} | new and not new & set(before)
    for name in record["frozen"]:
        np.testing.assert_array_equal(after[name], before[name], name)
    assert all(after[name].shape == (8, 4) for name in new)


@pytest.mark.slow  # two commands of some seconds
def test_vectors_of_a_day_before_are_others(first, tmp_path):
    keys = Dataset(first[1] / "data").arrays.title_key[:3].tolist()
    plays = {"user_id": ["a", "a", "b"], "title_id": keys, "seconds_viewed": [3000, 2000, 1000]}
    plays["time"] = ["2025-01-01T20:00", "2025-01-02T19:00", "2025-01-03T12:00"]
    pl.DataFrame(plays).write_csv(tmp_path / "plays.csv")
    flags = "--of", "users", "--histories", tmp_path / "plays.csv", "--checkpoint", first[0]
    vectors = {}
    for now in ("2025-01-02", "2025-01-04"):  # a copy that is stale, and one of today
        run("jaxrec.embed", *flags, "--now", now, "--out", tmp_path / f"{now}.parquet")
        vectors[now] = dict(pl.read_parquet(tmp_path / f"{now}.parquet").select("user", "vector").iter_rows())
    assert len(vectors["2025-01-04"]["a"]) == 8
    assert vectors["2025-01-02"]["a"] != vectors["2025-01-04"]["a"]
