"""Long histories of tokens by commands: training, evaluation with delays, recommendations, vectors."""

import json

import commands
import polars as pl
import pytest

from jaxrec.data.storage.dataset import Dataset

CONFIG = ("--config", "configs/foundation.py:tiny_tokens")


def run(*arguments):
    done = commands.run("-m", *arguments, env=commands.environment(1))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow  # four commands of about 10 s each
def test_a_model_on_tokens_is_trained_evaluated_and_serves_histories_with_signals(tmp_path):
    workdir = tmp_path / "run"
    run("jaxrec.train", *CONFIG, "--workdir", workdir, f"--config.data.directory={tmp_path / 'data'}")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if line["split"] == "train"]
    terms = {"loss", "loss_next_item", "loss_kind", "loss_genre", "loss_back"}
    assert all(terms <= set(line) for line in training)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    kinds = ["play:play", "trailer:seconds", "thumb:sign", "list_add:event"]
    assert manifest["layout"]["token_kinds"] == kinds and manifest["signals"]["trailer"]["kept"] > 0
    result = json.loads(
        run("jaxrec.evaluate", "--checkpoint", workdir, "--delay-hours", "0,24", "--json", "--per-user")
    )
    assert result["catalogue"]["users"] > 100
    assert result["delay"]["metrics"]["0"]["hr@10"][0] == pytest.approx(
        result["catalogue"]["model"]["hr@10"], abs=0.05
    )
    # A thumb and a trailer of user b after the last play change the scores of b, and not those of a.
    keys = Dataset(tmp_path / "data").arrays.title_key[:3].tolist()
    times = ["2025-01-01T20:00", "2025-01-02T19:00"]
    plays = {"user_id": ["a", "a", "b", "b"], "title_id": keys[:2] * 2, "time": times * 2}
    plays["seconds_viewed"] = [3000, 2000] * 2
    events = {
        "user_id": ["b", "b"], "signal": ["thumb", "trailer"], "title_id": keys[1:],
        "time": ["2025-01-02T20:00", "2025-01-02T20:30"], "value": [1.0, 30.0],
    }  # fmt: skip
    pl.DataFrame(plays).write_csv(tmp_path / "plays.csv")
    pl.DataFrame(events).write_csv(tmp_path / "events.csv")
    flags = "--checkpoint", workdir, "--histories", tmp_path / "plays.csv", "--now", "2025-01-03", "--k", 5
    scores = {}
    for name, more in (("without", ()), ("with", ("--signals", tmp_path / "events.csv"))):
        out = tmp_path / f"{name}.parquet"
        run("jaxrec.recommend", *flags, *more, "--out", out)
        scores[name] = dict(pl.read_parquet(out).group_by("user").agg("score").iter_rows())
    assert scores["with"]["a"] == scores["without"]["a"] == scores["without"]["b"] != scores["with"]["b"]
