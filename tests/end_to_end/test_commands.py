"""The commands as a user types them: what they print, what they write, and their errors."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import run as type_in

ROOT = Path(__file__).resolve().parents[2]
METRICS = {"ndcg@1", "ndcg@5", "recall@5", "mrr@5", "users", "examples"}


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory):
    """A copy of the tiny run's workdir, and what `train` printed."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    shutil.copytree(tiny_run / "run", workdir)
    return workdir, (tiny_run / "stdout").read_text()


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """`evaluate` of the run with --verify, from a folder that is not the repository's."""
    flags = ("--json", "--per-user", "--heads", "--verify")
    cwd = tmp_path_factory.mktemp("elsewhere")
    done = type_in("-m", "jaxrec.evaluate", "--checkpoint", trained[0], *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"checkpoints, step \d+: \d+ files are as written", done.stderr)
    assert re.search(r"dataset .*: all files are as written, and 2,688 rows hold", done.stderr)
    return json.loads(done.stdout)


def test_train_prints_the_table_and_writes_what_it_promises(trained, tiny):
    workdir, printed = trained
    for row in (
        "model",
        "popularity",
        "item to item",
        "abandoned last",
        "in history first",
        "oracle, p/q",
        "oracle, p alone",
    ):
        assert re.search(rf"^{re.escape(row)} +0?\.\d+", printed, re.M), row
    result = json.loads((workdir / "test.json").read_text())
    assert set(result["lists"]) == {"enabled", "disabled"} and set(result["lists"]["enabled"]) == METRICS
    assert {"popularity", "abandoned_rule", "in_history_rule", "oracle"} <= set(result["baselines"])
    assert result["dataset"] == tiny.fingerprint
    assert result["lists"]["enabled"]["examples"] == tiny.manifest["splits"]["test"]["examples"]
    next_titles = int((tiny.rows("test").all()["target"] > 0).sum())  # absent ones are no queries
    assert result["lists_k3"]["enabled"]["examples"] == next_titles > result["lists"]["enabled"]["examples"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if line["split"] == "validation"]
    assert len(validations) == 2 and all(np.isfinite(line["loss"]) for line in lines)
    assert {"gradient_norm", "learning_rate", "gate_entropy", "gate_information"} <= set(lines[0])
    assert (workdir / "report.html").read_text().count("<svg") >= 3
    assert any((workdir / "tensorboard").iterdir())
    assert json.loads((workdir / "config.json").read_text())["name"] == "tiny"


def test_evaluate_needs_the_checkpoint_alone_and_agrees_with_the_run(trained, evaluated):
    workdir, result = trained[0], evaluated
    kept = json.loads((workdir / "test.json").read_text())
    for part in ("lists", "lists_k3", "baselines", "by_hard", "dataset", "step"):
        assert result[part] == kept[part]
    users = pl.read_parquet(workdir / "eval-test-best-per-user.parquet")
    assert len(users) == result["lists"]["enabled"]["users"]
    mean = (users["enabled/ndcg@1"] * users["queries"]).sum() / users["queries"].sum()
    assert mean == pytest.approx(result["lists"]["enabled"]["ndcg@1"], abs=1e-12)
    ((name, ctr),) = result["other_heads"].items()  # the tiny run has two heads, and ranks by the other
    assert name == "ctr" and ctr["lists"] != result["lists"]
    mean = (users["disabled_ctr_k3/mrr@5"] * users["queries_k3"]).sum() / users["queries_k3"].sum()
    assert mean == pytest.approx(ctr["lists_k3"]["disabled"]["mrr@5"], abs=1e-12)
    queries = pl.read_parquet(workdir / "eval-test-best-per-query.parquet")
    assert (queries["enabled"] == 1).mean() == pytest.approx(result["lists"]["enabled"]["ndcg@1"], abs=1e-12)


def test_evaluate_ranks_the_whole_catalogue(trained, tiny, tmp_path):
    """With --out the workdir stays as it is, but for the correction of the checkpoint, kept on first use."""
    workdir = trained[0]
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    out = tmp_path / "results" / "kept"
    flags = ("--lists=catalogue", "--seen=kept", "--json", "--per-user", "--diversity=0.5", f"--out={out}")
    done = type_in("-m", "jaxrec.evaluate", "--checkpoint", workdir, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    catalogue = result["catalogue"]
    assert result["lists"] == {} and catalogue["seen"] == "kept"
    assert catalogue["titles"] == tiny.layout.num_titles - 2
    assert {"hr@1", "ndcg@10", "mrr@100", "coverage@10", "novelty@10", "popularity_lift@10"} <= set(
        catalogue["model"]
    )
    assert catalogue["model"]["hr@100"] > catalogue["model"]["hr@10"] > catalogue["popularity"]["hr@1"] > 0
    assert catalogue["diversity"] == 0.5 and "ild@10" not in catalogue["popularity"]
    assert 2 > catalogue["model_mmr"]["ild@10"] > catalogue["model"]["ild@10"] > 0
    assert catalogue["model_mmr"]["hr@100"] == catalogue["model"]["hr@100"]  # among the same candidates
    after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    assert {p: t for p, t in after.items() if p.name != "correction.npz"} == before
    stem = "eval-test-best-catalogue-kept-mmr0.5"
    assert {path.name for path in out.iterdir()} == {
        f"{stem}{end}" for end in (".json", "-per-user.parquet", "-per-query.parquet")
    }
    users = pl.read_parquet(out / f"{stem}-per-user.parquet")
    mean = (users["catalogue/ndcg@10"] * users["queries"]).sum() / users["queries"].sum()
    assert mean == pytest.approx(catalogue["model"]["ndcg@10"], abs=1e-12)
    ranks = pl.read_parquet(out / f"{stem}-per-query.parquet")["catalogue"]
    assert (ranks <= 20).mean() == pytest.approx(catalogue["model"]["hr@20"], abs=1e-12)


def test_evaluate_writes_the_report_again_without_keys_of_users(trained, evaluated, tiny):
    """`evaluated` ran the command on the workdir of `train`, whose report had no Parquet files beside it."""
    workdir = trained[0]
    measured = json.loads((workdir / "report-test-best.json").read_text())
    assert set(measured["breakdowns"]) == {"history", "completion", "popularity", "user/segment"}
    for one in measured["breakdowns"].values():  # the groups add up to the result
        means = one["values"]["enabled/ndcg@1"]["model"]["mean"]
        total = np.dot(means, one["queries"]) / sum(one["queries"])
        assert total == pytest.approx(evaluated["lists"]["enabled"]["ndcg@1"], abs=1e-12)
    for bins in measured["calibration"]["click"].values():
        queries = evaluated["lists"]["enabled"]["examples"]
        assert sum(bins["count"]) == 21 * queries
        assert np.dot(bins["count"], bins["observed"]) == pytest.approx(queries)
    users = measured["examples"]["users"]
    assert [user["user"] for user in users] == [*range(1, 11)] and all(u["recommended"] for u in users)
    text = (workdir / "report.html").read_text()
    section = text[text.index('id="example-users"') : text.index('id="data"')]
    words = set(re.findall(r"\b\d+\b", re.sub("<[^>]*>", " ", section)))
    titles = set(map(str, tiny.arrays.title_key))
    keys = set(map(str, tiny.user_keys("test"))) - set(map(str, range(201)))  # ranks are at most 200
    assert words & titles and keys and not words & keys
    (workdir / "report.html").unlink()
    done = type_in("-m", "jaxrec.evaluate", "--checkpoint", workdir, "--report-users=0", "--lists=disabled")
    assert done.returncode == 0, done.stderr[-3000:]
    after = (workdir / "report.html").read_text()
    assert 'id="example-users"' not in after and "enabled list, K=3" in after


@pytest.mark.usefixtures("evaluated")
def test_report_of_one_run_and_of_two(trained, tmp_path):
    workdir, _ = trained
    done = type_in("-m", "jaxrec.report", workdir, "--out", tmp_path / "one.html")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'one.html'}\n"), done.stderr[-3000:]
    assert (tmp_path / "one.html").read_text() == (workdir / "report.html").read_text()
    done = type_in("-m", "jaxrec.report", workdir, workdir, "--out", tmp_path / "two.html", "--json")
    assert json.loads(done.stdout) == {"page": str(tmp_path / "two.html"), "runs": [str(workdir)] * 2}
    assert "B minus A, over 83 users" in (tmp_path / "two.html").read_text()
    for arguments, message in (
        ((), "error: W1 is missing; give W1 [W2 ...]"),
        ((tmp_path,), f"error: {tmp_path}: holds neither test.json nor eval-*.json; run evaluate first"),
    ):
        done = type_in("-m", "jaxrec.report", *arguments)
        assert (done.returncode, done.stderr.strip()) == (2, message)


@pytest.mark.usefixtures("evaluated")
def test_compare_two_runs(trained, tmp_path):
    """The run, and one whose users had one another's values."""
    workdir, _ = trained
    for kept in workdir.glob("eval-test-*"):
        shutil.copy(kept, tmp_path)
    ours = pl.read_parquet(next(tmp_path.glob("*-per-user.parquet")))
    theirs = ours.with_columns(ours["enabled/ndcg@5"].shuffle(seed=0) / 2)
    theirs.write_parquet(next(tmp_path.glob("*-per-user.parquet")))
    done = type_in("-m", "jaxrec.compare", workdir, tmp_path)
    damaged = f"error: {tmp_path}: eval-test-best-per-user.parquet is damaged: "
    assert done.returncode == 2 and done.stderr.startswith(damaged), done.stderr[-3000:]
    result = json.loads((tmp_path / "eval-test-best.json").read_text())
    assert len(result.pop("files")) == 2
    (tmp_path / "eval-test-best.json").write_text(json.dumps(result))  # as an earlier version wrote it
    done = type_in("-m", "jaxrec.compare", workdir, tmp_path, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    difference = json.loads(done.stdout)["metrics"]["enabled/ndcg@5"]
    expected = (ours["enabled/ndcg@5"] - theirs["enabled/ndcg@5"]).mean()
    assert difference["users"]["mean"] == pytest.approx(expected, abs=1e-12) != 0
    assert difference["users"]["n"] == len(ours) < difference["queries_as_the_paper"]["n"]
    table = type_in("-m", "jaxrec.compare", workdir, tmp_path).stdout
    assert re.search(rf"^enabled/ndcg@5 +[+]{expected:.4f}", table, re.M) and "as the paper tests" in table


@pytest.mark.slow
def test_running_a_finished_run_again_trains_no_further(trained, tiny_directory):
    workdir, _ = trained
    before = (workdir / "metrics.jsonl").read_text()
    data = f"--config.data.directory={tiny_directory}"
    done = type_in("-m", "jaxrec.train", "--config", "configs/tiny.py", "--workdir", workdir, data)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (workdir / "metrics.jsonl").read_text() == before


def test_prepare_writes_to_out_and_prints_the_counts(tmp_path):
    done = type_in("-m", "jaxrec.prepare", "--config", "configs/tiny.py", "--out", tmp_path / "d", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    printed = json.loads(done.stdout)
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert printed == {"directory": str(tmp_path / "d"), **manifest}


TRAIN = ["-m", "jaxrec.train", "--config"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([*TRAIN, "configs/tiny.py", "--config.model.width=13"], "model.width=13 must divide by num_heads=2"),
        (
            [*TRAIN, "configs/tiny.py", "--config.model.attention_impl=pallas"],
            "attention_impl='pallas' must be one of auto, einsum, dot_product: on cpu, in float32",
        ),
        (
            [*TRAIN, "configs/tiny.py", "--config.model.attention=cudnn"],
            "model.attention_impl='cudnn' must be one of auto, einsum, dot_product, pallas: it was removed",
        ),
        ([*TRAIN, "configs/tiny.py", "--config.train.batch=3"], "train.batch does not exist; there are seed"),
        ([*TRAIN, "configs/none.py"], "configs/none.py"),
        (
            [*TRAIN, "configs/tiny.py", "--processes=2"],
            "--processes=2 without --coordinator; allowed: all",
        ),
        (["-m", "jaxrec.evaluate", "--checkpoint", "nowhere"], "nowhere"),
        (
            ["-m", "jaxrec.evaluate", "--checkpoint", "x", "--lists=all"],
            "--lists=all; allowed: enabled, disabled",
        ),
        (["-m", "jaxrec.evaluate", "--checkpoint", "x", "--split=train"], "allowed: validation, test"),
        (
            ["-m", "jaxrec.evaluate", "--checkpoint", "x", "--lists=enabled", "--diversity=0.5"],
            "--diversity=0.5; allowed: 0 to 1, with --lists=catalogue",
        ),
        (["-m", "jaxrec.compare", "only-one"], "W2 is missing; give W1 W2"),
        (["-m", "jaxrec.compare", "one", "two", "three"], "'three' is no flag"),
        (["-m", "jaxrec.compare", "nowhere", "two"], "nowhere: holds nothing where one eval-test-"),
        (["-m", "jaxrec.evaluate", "--checkpoint", "x", "--next-k=0"], "--next-k=0; allowed: whole numbers"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, message, tmp_path, tiny_directory):
    more = []
    if "configs/tiny.py" in arguments:
        more = [f"--workdir={tmp_path / 'w'}", f"--config.data.directory={tiny_directory}"]
    done = type_in(*arguments, *more)
    assert done.returncode == 2 and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], done.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []


def test_another_config_in_the_same_workdir_is_refused(trained, tiny_directory):
    workdir, _ = trained
    more = [f"--workdir={workdir}", f"--config.data.directory={tiny_directory}", "--config.model.dropout=0.3"]
    done = type_in(*TRAIN, "configs/tiny.py", *more)
    assert done.returncode == 2
    expected = f"workdir {workdir}: holds a run with model.dropout=0.1, this config has 0.3"
    assert expected in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("command", ["train", "prepare", "evaluate", "compare"])
def test_help_is_plain_words(command):
    done = type_in("-m", f"jaxrec.{command}", "--help")
    assert done.returncode == 0 and f"python -m jaxrec.{command}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("compiled", ["quickly", pytest.param("as for users", marks=pytest.mark.slow)])
def test_the_readmes_first_command_runs(tmp_path, as_compiled_for_users, compiled):
    """Its own arguments, on fewer users and steps; the gate runs the other line as it stands. The slow form
    compiles its programs as users have them, which takes XLA most of the test's time."""
    (line,) = re.findall(r"^python3 .*-m (jaxrec\.train .*)$", (ROOT / "README.md").read_text(), re.M)
    fewer = [
        "--config.source.users=1200", "--config.source.test_only_users=50", "--config.train.duration=3 steps",
        f"--config.data.directory={tmp_path / 'd'}", f"--workdir={tmp_path / 'w'}",
    ]  # fmt: skip
    env = as_compiled_for_users if compiled == "as for users" else os.environ
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(line), *fewer], cwd=ROOT, env=env | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of the way from popularity to the oracle" in done.stdout


def test_training_on_a_prepared_dataset_loads_neither_polars_nor_tfds(tiny_run):
    modules = (tiny_run / "modules").read_text().splitlines()
    assert {"jax", "jaxrec.training.trainer", "jaxrec.reporting.metric_writer"} <= {*modules}
    assert not {"polars", "tensorflow_datasets", "tensorflow", "torch"} & {*modules}


def test_a_checkpoint_is_evaluated_with_the_attention_of_this_machine(trained, monkeypatch):
    """However the machine that trained it worked it out."""
    from jaxrec.tasks import loading

    restore = loading.Checkpointer.restore_meta

    def trained_elsewhere(self, which):
        meta = restore(self, which)
        meta["config"]["model"] |= {"attention": "cudnn", "dtype": "bfloat16"}
        return meta

    monkeypatch.setattr(loading.Checkpointer, "restore_meta", trained_elsewhere)
    model = loading.load_checkpoint(trained[0], "last").config.model
    assert (model.attention_impl, model.dtype) == ("auto", "bfloat16")
