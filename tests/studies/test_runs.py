"""Jobs run beside each other on their shares of the cores; what is done, failed or stopped is told apart."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.serialization import to_json
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_json
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies import plan, runs

ROOT = Path(__file__).resolve().parents[2]
CORES = sorted(os.sched_getaffinity(0))


def job(folder: Path, code: str) -> runs.Job:
    """The code leaves DONE."""
    folder.mkdir(exist_ok=True)
    command = ("-c", code.replace("DONE", str(folder / "0")))
    return runs.Job(folder.name, folder, command, "0", folder / "log.txt")


MARK = "open('DONE', 'w').write(str(sorted(__import__('os').sched_getaffinity(0))))"


def test_a_job_that_is_done_is_not_run_again(tmp_path, capfd):
    a, b = job(tmp_path / "a", MARK), job(tmp_path / "b", "1 / 0")
    (b.folder / "0").write_text("done before")
    with PreemptionHandler() as interrupt, runs.Pool(1, interrupt) as pool:
        assert pool.run([a, b]) == []
    assert ast.literal_eval((a.folder / "0").read_text()) == CORES
    assert (b.folder / "0").read_text() == "done before" and not b.log.exists()
    assert "[1/1] a: " in capfd.readouterr().err


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_jobs_beside_each_other_have_cores_of_their_own(tmp_path):
    jobs = [job(tmp_path / name, f"import time; time.sleep(0.5); {MARK}") for name in "ab"]
    with PreemptionHandler() as interrupt, runs.Pool(2, interrupt) as pool:
        assert pool.run(jobs) == []
    a, b = (set(ast.literal_eval((j.folder / "0").read_text())) for j in jobs)
    assert a and b and a | b == set(CORES) and not a & b


def test_a_failed_job_is_named_and_the_others_go_on(tmp_path, capfd):
    jobs = [
        job(tmp_path / "bad", "raise SystemExit('no such width')"),
        job(tmp_path / "idle", "pass"),  # says it is done and has left nothing
        job(tmp_path / "good", MARK),
    ]
    with PreemptionHandler() as interrupt, runs.Pool(1, interrupt) as pool:
        failures = pool.run(jobs)
    log = tmp_path / "bad" / "log.txt"
    assert failures[0] == f"bad: ended with exit status 1; its log is {log}, which ends: no such width"
    assert len(failures) == 2 and failures[1].startswith("idle: ended with exit status 0")
    assert (tmp_path / "good" / "0").exists()
    assert "[3/3] good: " in capfd.readouterr().err


def test_more_jobs_than_cores_are_refused():
    for jobs in (0, len(CORES) + 1):
        with pytest.raises(InputError, match=rf"--jobs={jobs}; allowed: 1 to {len(CORES)}, the cores"):
            runs.Pool(jobs, PreemptionHandler())


SLEEPER = "import os, time; open('DONE.pid', 'w').write(str(os.getpid())); time.sleep(60)"
STUDY = """
import sys
from pathlib import Path
from jaxrec.interrupt import Interrupt
from jaxrec.studies import runs
sleeper = runs.Job("s", Path(sys.argv[1]), ("-c", sys.argv[2]), "0", Path(sys.argv[1]) / "log.txt")
with Interrupt() as interrupt, runs.Pool(1, interrupt) as pool:
    print(pool.run([sleeper]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_training_outlives_its_study(tmp_path, number):
    code = SLEEPER.replace("DONE", str(tmp_path / "0"))
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path), code], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    note, end = tmp_path / "0.pid", time.monotonic() + 60
    while not (note.exists() and note.read_text()):
        assert study.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    study.send_signal(number)
    out, _ = study.communicate(timeout=30)
    assert out == ("[]\n" if number == signal.SIGTERM else "")  # stopped, which is no failure
    while Path(f"/proc/{note.read_text()}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def run(tiny_config, tmp_path):
    return plan.Run("r", 3, plan.edited(tiny_config, "r", {"train.seed": 3}), tmp_path / "r")


def test_a_runs_config_trains_it_again(run):
    assert load_config(str(runs.write_config(run))) == run.config


def test_a_workdir_of_another_config_is_refused(run):
    runs.write_config(run)
    kept = to_json(run.config)
    write_json(run.workdir / "config.json", kept | {"train": kept["train"] | {"log_seconds": 99.0}})
    runs.write_config(run)  # which changes nothing that is computed
    write_json(run.workdir / "config.json", kept | {"train": kept["train"] | {"length": "9 epochs"}})
    with pytest.raises(
        InputError, match=r"r: holds a run with train.length='9 epochs', this study has '2 epo"
    ):
        runs.write_config(run)


def test_a_dataset_is_prepared_once_for_all_that_read_it(run, tiny_directory, tmp_path):
    run.config.data.directory = str(tmp_path / "d")
    other = plan.Run("o", 0, plan.edited(run.config, "o", {"source.mood": 0.0}), tmp_path / "o")
    jobs = runs.preparations([run, other, run], tmp_path)
    assert sorted(j.name for j in jobs) == sorted(
        [f"dataset {tmp_path / 'd'}", f"dataset {other.config.data.directory}"]
    )
    run.config.data.directory = str(tiny_directory)
    assert runs.preparations([run], tmp_path) == []  # it is there
