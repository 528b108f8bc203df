"""The recommend benchmark: its histories, its rivals, and the peer's settings."""

import json
import subprocess
import sys

import polars as pl
import pytest

from benchmarks import recommend as benchmark
from configs.sequences import get_config
from jaxrec.config.schema import Simulator
from jaxrec.sources.simulator.source import SimulatorSource


@pytest.fixture(scope="module")
def histories(tmp_path_factory, tiny_config):
    path = tmp_path_factory.mktemp("recommend") / "whole.parquet"
    benchmark.write_histories(path, tiny_config.source, 40)
    return path


def test_histories_are_those_of_the_service(histories, tiny_config):
    source = SimulatorSource(Simulator(**vars(tiny_config.source) | {"users": 40, "test_only_users": 0}))
    plays = sum(len(chunk.user) for chunk in source.interactions())
    frame = pl.read_parquet(histories)
    assert frame.height == plays and frame["user_id"].n_unique() == 40
    assert set(frame["title_id"]) <= set(source.titles().key.tolist())


def test_both_rivals_rank_for_all_users(histories, recommender_of_checkpoint, tmp_path):
    out = tmp_path / "out.parquet"
    assert benchmark.recommend(recommender_of_checkpoint, histories, out, 5) == 40
    call, ready = benchmark.model_alone(recommender_of_checkpoint, histories, 5)
    top, frame = call(), pl.read_parquet(out)
    assert ready == 40 and frame.height == 200
    keys = recommender_of_checkpoint.titles[top.id - 2]
    assert sorted(map(tuple, keys.tolist())) == sorted(
        map(tuple, frame.sort("user", "rank")["title"].to_numpy().reshape(40, 5).tolist())
    )


def test_the_peers_log_and_settings(histories, tiny_config, tmp_path):
    benchmark.write_log(tmp_path / "log.csv", histories)
    log = pl.read_csv(tmp_path / "log.csv")
    assert log.columns == ["user", "item", "timestamp"] and log.height == pl.read_parquet(histories).height
    assert benchmark.peer_settings(tiny_config) is None
    assert benchmark.peer_settings(get_config("simulated")) == {
        "n_factors": 48, "n_blocks": 2, "n_heads": 2, "session_max_len": 32, "dropout_rate": 0.1,
    }  # fmt: skip


@pytest.mark.slow
def test_the_command(tiny_run, tmp_path):
    command = [sys.executable, "-m", "benchmarks.recommend", "--checkpoint", str(tiny_run / "run")]
    command += ["--users", "100", "--rounds", "1", "--k", "5", "--json", str(tmp_path / "f.json")]
    done = subprocess.run(command, cwd=benchmark.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((tmp_path / "f.json").read_text())
    assert set(figures["users_per_second"]) == {benchmark.OURS, benchmark.ALONE}
    assert set(figures["peak_bytes"]) == {"10", "100"}
