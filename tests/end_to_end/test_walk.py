"""docs/walk.sh: from the raw files of KuaiRand to an answer over HTTP, in an empty folder."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
RAW = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / "shared/data/kuairand_pure_sample"))


def walk(folder, *arguments, limit):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    env = {"PYTHON": sys.executable, "PORT": str(port), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [ROOT / "docs/walk.sh", *arguments], cwd=folder, env=os.environ | env, capture_output=True, text=True,
        timeout=limit,
    )  # fmt: skip


def test_the_walk_needs_a_log(tmp_path):
    done = walk(tmp_path, "--", "--config.train.seed=1", limit=60)
    assert done.returncode == 2 and done.stderr.startswith("error: no file of a log; usage: ")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not RAW.is_dir(), reason="the KuaiRand sample is not beside the checkout")
def test_every_station_of_the_walk(tmp_path):
    pytest.importorskip("fastapi")
    names = "log_standard_4_22_to_5_08_pure", "video_features_basic_pure", "user_features_pure"
    files = [str(RAW / f"{name}.csv") for name in names]
    done = walk(tmp_path, *files, "--", "--config.train.duration=20 steps", limit=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("seconds: check ")
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert [title["rank"] for title in answer["titles"]] == [1, 2, 3, 4, 5]
    assert not answer["empty_history"] and answer["plays_of_unknown_titles"] == 0
    assert pl.read_parquet(tmp_path / "recommendations.parquet").height > 10_000
    assert (tmp_path / "runs/my_service/report.html").is_file()
