"""One run of long histories in three ways, by commands: fine-tuned, with a frozen encoder, and as vectors."""

import json

import commands
import numpy as np
import polars as pl
import pytest

from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.data.storage.dataset import Dataset
from jaxrec.tasks.loading import load_checkpoint

CONFIG = "configs/foundation.py:tiny_"
FROZEN = ("title/*", "layers/*", "tokens/*", "position")


def run(*arguments, status=0):
    done = commands.run("-m", *arguments, env=commands.environment(1))
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout if not status else done.stderr


@pytest.mark.slow  # eight commands of about 10 s each
def test_four_uses_go_on_from_one_run_and_a_frozen_encoder_serves_another_model(tmp_path):
    first, data = tmp_path / "uses", f"--config.data.directory={tmp_path / 'data'}"
    run("jaxrec.train", "--config", f"{CONFIG}uses", "--workdir", first, data)
    labels = {"thumb": "thumb", "list_add": "adds", "returned": "back"}
    start = f"--config.start.workdir={first}"
    for use in (*labels, "country"):
        workdir = tmp_path / use
        own = data if use in labels else f"--config.data.directory={tmp_path / 'country-data'}"
        run("jaxrec.train", "--config", CONFIG + use, "--workdir", workdir, own, start)
        taken = json.loads((workdir / "start.json").read_text())
        assert {"title/vectors/title_id/embedding", "tokens/gap"} <= {*taken["taken"]}
        if use == "country":
            continue
        result = json.loads(run("jaxrec.evaluate", "--checkpoint", workdir, "--json"))
        assert set(result["labels"]) == {labels[use]} and "catalogue" not in result
        low, high = result["labels"][labels[use]]["auc"]["interval"]
        assert 0 <= low < high <= 1
    error = run("jaxrec.evaluate", "--checkpoint", tmp_path / "thumb", "--delay-hours", "0,6", status=2)
    assert "delay_hours=0.0,6.0; allowed: none" in error
    result = json.loads(run("jaxrec.evaluate", "--checkpoint", tmp_path / "country", "--json"))
    assert result["catalogue"]["users"] < 60 and "labels" not in result
    frozen = f"--config.start.freeze={FROZEN!r}"
    workdir, edits = tmp_path / "frozen", (f"--config.start.take={FROZEN!r}", "--config.model.project=4")
    own = f"--config.data.directory={tmp_path / 'country-data'}"
    run("jaxrec.train", "--config", f"{CONFIG}country", "--workdir", workdir, own, start, frozen, *edits)
    before, after = (slashed_leaves(load_checkpoint(w, "last").params) for w in (first, workdir))
    for name, value in after.items():
        if name.endswith("_projection/kernel"):
            assert value.shape == (8, 4)
        elif name in before:
            best = slashed_leaves(load_checkpoint(first, "best").params)[name]
            np.testing.assert_array_equal(value, best, name)
    keys = Dataset(tmp_path / "data").arrays.title_key[:3].tolist()
    plays = {"user_id": ["a", "a", "b"], "title_id": keys, "seconds_viewed": [3000, 2000, 1000]}
    plays["time"] = ["2025-01-01T20:00", "2025-01-02T19:00", "2025-01-03T12:00"]
    pl.DataFrame(plays).write_csv(tmp_path / "plays.csv")
    flags = "--of", "users", "--histories", tmp_path / "plays.csv", "--checkpoint", first
    vectors = {}
    for now in ("2025-01-02", "2025-01-04"):  # a copy that is stale, and one of today
        run("jaxrec.embed", *flags, "--now", now, "--out", tmp_path / f"{now}.parquet")
        vectors[now] = dict(pl.read_parquet(tmp_path / f"{now}.parquet").select("user", "vector").iter_rows())
    assert len(vectors["2025-01-04"]["a"]) == 8
    assert vectors["2025-01-02"]["a"] != vectors["2025-01-04"]["a"]
