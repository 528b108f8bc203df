"""A study of three rows, one after another, as a user types it: stopped, gone on with, finished, refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.slow  # 120 s: five trainings by commands; test_every_row.py runs a study in process

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
from configs import tiny
from jaxrec.studies.paper import STL
from jaxrec.studies.plan import Claim, ResultTable, Row, Study


BASE = tiny.get_config()
BASE.model.features = ("title_id", "segment", "completion")  # the fewer, the sooner all is compiled
BST = {"model.experts": BASE.model.experts[-1:]}
TUNED = {"start.freeze": ("title/title_id/*",), "train.duration": "1 epochs"}


def rows(base):
    return (
        Row("bst_pl", BST, {"4": "BST, all"}, {("enabled", 1): (0.6065, 0.7864, 0.9356, 0.7363)}),
        Row("bst_stl", {**STL, **BST}, {"4": "BST"}),
        Row("bst_tuned", {**STL, **BST, **TUNED}, {"4": "BST, tuned"}, after="bst_pl"),
    )


def get_config():
    claims = (Claim("PL over STL", (("bst_pl", "bst_stl"),)),)
    return Study("two rows", BASE, rows, (ResultTable("4", "Table 4"),), ("4",), claims)
"""


@pytest.fixture(scope="module")
def typed(tiny_directory, tmp_path_factory):
    """The command line of a study of 12 epochs, one seed, and where it lives."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "two.py").write_text(STUDY)
    line = [
        sys.executable, "-m", "jaxrec.study", f"--config={folder / 'two.py'}", f"--workdir={folder / 'S'}",
        f"--config.data.directory={tiny_directory}", "--config.train.duration=12 epochs", "--seeds=1",
        "--json",
    ]  # fmt: skip
    return line, folder / "S"


def start(line):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=ROOT, env=environment, text=True, **pipes)


@pytest.fixture(scope="module")
def studied(typed):
    """Stopped by SIGTERM in its first training, then run to its end."""
    line, folder = typed
    study, end = start(line), time.monotonic() + 200
    first = folder / "runs" / "bst_pl" / "seed-0"
    while not any((first / "checkpoints").glob("*/commit_success.txt")):
        assert study.poll() is None and time.monotonic() < end, (first / "log.txt").read_text()
        time.sleep(0.02)
    study.send_signal(signal.SIGTERM)
    _, stderr = study.communicate(timeout=120)
    assert study.returncode == 0, stderr
    assert "0 of 3 trainings are done" in stderr
    assert not (first / "test.json").exists() and not (folder / "study.json").exists()
    again = start(line)
    out, stderr = again.communicate(timeout=400)
    assert again.returncode == 0, stderr
    assert re.search(r"^\[3/3\] bst_tuned seed 0: \d+ s; 0 left", stderr, re.M)
    assert re.search(r"from step [1-9]", (first / "log.txt").read_text())  # it did not begin again
    return json.loads(out)


def test_a_study_that_was_stopped_goes_on_and_reports_each_row(typed, studied):
    _, folder = typed
    assert json.loads((folder / "study.json").read_text()) == studied
    assert (studied["done"], studied["runs"], studied["seeds"]) == (3, 3, [0])
    best, bst, tuned = studied["tables"]["4"]["rows"]
    for row in (best, bst, tuned):
        kept = json.loads((folder / "runs" / row["row"] / "seed-0" / "test.json").read_text())
        for part in ("", "_k3"):
            for name, figures in kept[f"lists{part}"].items():
                assert row["figures"][name + part]["ndcg@5"]["mean"] == figures["ndcg@5"]
    assert [*best["other_heads"]] == ["ctr"] and bst["other_heads"] == {}
    assert studied["edits"]["bst_stl"]["objective.ranking"] == 0
    record = json.loads((folder / "runs/bst_tuned/seed-0/start.json").read_text())
    assert record["workdir"] == str(folder / "runs/bst_pl/seed-0") and len(record["checksums"]) == 64
    assert "title/title_id/embedding" in record["frozen"] and studied["after"] == {"bst_tuned": "bst_pl"}
    users = [
        pl.read_parquet(folder / f"runs/{row}/seed-0/eval-test-best-per-user.parquet").sort("user")
        for row in ("bst_pl", "bst_stl")
    ]
    enabled, disabled = studied["claims"]
    expected = (users[0]["enabled/ndcg@1"] - users[1]["enabled/ndcg@1"]).mean()
    (part,) = enabled["parts"]
    assert part["over_users"]["mean"] == pytest.approx(expected, abs=1e-9)
    assert part["over_seeds"]["mean"] == pytest.approx(expected, abs=1e-9)
    assert part["over_seeds"]["p"] is None and enabled["verdict"] == "not significant"  # of one seed
    assert disabled["list"] == "disabled" and disabled["by_ctr_head"]
    text = (folder / "study.md").read_text()
    assert "| PL over STL | enabled | 1 | **not significant** |" in text and "| BST, all | " in text
    assert "| BST, tuned, after BST, all | " in text


def test_what_is_done_is_not_run_again_and_another_study_is_refused(typed, studied):
    line, folder = typed
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*.parquet")}
    again = start(line)
    out, stderr = again.communicate(timeout=60)
    assert again.returncode == 0 and "seed 0" not in stderr
    assert json.loads(out)["claims"] == studied["claims"]
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*.parquet")}
    for more, message in (
        ("--config.model.dropout=0.3", "holds a run with model.dropout=0.1, this study has 0.3; allowed"),
        ("--config.model.width=13", "model.width=13 must divide by num_heads=2"),
        ("--tables=9", "--tables=9; allowed: 4"),
        ("--seeds=0", "--seeds=0; allowed: 1 or more"),
        ("--jobs=99", "--jobs=99; allowed: 1 to "),
        ("--config=configs/tiny.py", "get_config() gave a Config, not a jaxrec.studies.declared.study.Study"),
    ):
        wrong = start([*line, more])
        out, stderr = wrong.communicate(timeout=60)
        assert (wrong.returncode, out) == (2, ""), stderr
        assert stderr.startswith("error: ") and message in stderr and stderr.count("\n") == 1


def test_a_training_that_fails_is_named_and_the_study_exits_1(typed, tmp_path):
    line, _ = typed
    failing = start([*line, f"--workdir={tmp_path}", "--config.start.workdir=nowhere"])
    out, stderr = failing.communicate(timeout=120)
    assert failing.returncode == 1
    log = tmp_path / "runs/bst_pl/seed-0/log.txt"
    assert f"bst_pl seed 0: ended with exit status 2; its log is {log}" in stderr
    assert "checkpoint nowhere/checkpoints: no such directory" in stderr and "bst_stl seed 0: ended" in stderr
    assert "bst_tuned seed 0: not run, because bst_pl seed 0 failed\n" in stderr
    assert json.loads(out)["done"] == 0 and json.loads(out)["claims"] == []
    assert "| BST | - | - |" in (tmp_path / "study.md").read_text()
