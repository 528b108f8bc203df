"""Jobs run in parallel on separate cores; done, failed and stopped jobs differ."""

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
    """Return a job that runs `code`; DONE stands for the path of the job's output."""
    folder.mkdir(exist_ok=True)
    command = ("-c", code.replace("DONE", str(folder / "0")))
    return runs.Job(folder.name, folder, command, "0", folder / "log.txt")


WRITE_CORES = "open('DONE', 'w').write(str(sorted(__import__('os').sched_getaffinity(0))))"


def test_a_done_job_is_not_run_again(tmp_path, capfd):
    a, b = job(tmp_path / "a", WRITE_CORES), job(tmp_path / "b", "1 / 0")
    (b.folder / "0").write_text("done before")
    with PreemptionHandler() as interrupt, runs.Pool(1, interrupt) as pool:
        assert pool.run([a, b]) == []
    assert ast.literal_eval((a.folder / "0").read_text()) == CORES
    assert (b.folder / "0").read_text() == "done before" and not b.log.exists()
    assert "[1/1] a: " in capfd.readouterr().err


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_parallel_jobs_have_separate_cores(tmp_path):
    jobs = [job(tmp_path / name, f"import time; time.sleep(0.5); {WRITE_CORES}") for name in "ab"]
    with PreemptionHandler() as interrupt, runs.Pool(2, interrupt) as pool:
        assert pool.run(jobs) == []
    a, b = (set(ast.literal_eval((j.folder / "0").read_text())) for j in jobs)
    assert a and b and a | b == set(CORES) and not a & b


def test_a_failed_job_is_named_and_the_other_jobs_run(tmp_path, capfd):
    jobs = [
        job(tmp_path / "bad", "raise SystemExit('no such width')"),
        job(tmp_path / "idle", "pass"),  # exits with status 0 without its output
        job(tmp_path / "good", WRITE_CORES),
    ]
    with PreemptionHandler() as interrupt, runs.Pool(1, interrupt) as pool:
        failures = pool.run(jobs)
    log = tmp_path / "bad" / "log.txt"
    assert failures[0] == f"bad: ended with exit status 1; its log is {log}, which ends: no such width"
    assert len(failures) == 2 and failures[1].startswith("idle: ended with exit status 0")
    assert (tmp_path / "good" / "0").exists()
    assert "[3/3] good: " in capfd.readouterr().err


def test_more_jobs_than_cores_are_rejected():
    for jobs in (0, len(CORES) + 1):
        with pytest.raises(InputError, match=rf"--jobs={jobs}; allowed: 1 to {len(CORES)}, the cores"):
            runs.Pool(jobs, PreemptionHandler())


SLEEPER = "import os, time; open('DONE.pid', 'w').write(str(os.getpid())); time.sleep(60)"
STUDY = """
import sys
from pathlib import Path
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies import runs
sleeper = runs.Job("s", Path(sys.argv[1]), ("-c", sys.argv[2]), "0", Path(sys.argv[1]) / "log.txt")
with PreemptionHandler() as interrupt, runs.Pool(1, interrupt) as pool:
    print(pool.run([sleeper]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_training_outlives_its_study(tmp_path, number):
    code = SLEEPER.replace("DONE", str(tmp_path / "0"))
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path), code], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    pid_file, end = tmp_path / "0.pid", time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert study.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    study.send_signal(number)
    out, _ = study.communicate(timeout=30)
    assert out == ("[]\n" if number == signal.SIGTERM else "")  # a stopped job is not a failure
    while Path(f"/proc/{pid_file.read_text()}").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def run(tiny_config, tmp_path):
    return plan.Run("r", 3, plan.apply_edits(tiny_config, "r", {"train.seed": 3}), tmp_path / "r")


def test_config_file_of_a_run_returns_its_config(run):
    assert load_config(str(runs.write_config(run))) == run.config


def test_a_workdir_of_another_config_is_rejected(run):
    runs.write_config(run)
    recorded = to_json(run.config)
    write_json(run.workdir / "config.json", recorded | {"train": recorded["train"] | {"log_seconds": 99.0}})
    runs.check_workdir(run)  # log_seconds does not change what is computed
    write_json(run.workdir / "config.json", recorded | {"train": recorded["train"] | {"length": "9 epochs"}})
    with pytest.raises(
        InputError, match=r"r: holds a run with train.duration='9 epochs', this study has '2 epo"
    ):
        runs.check_workdir(run)


def test_a_dataset_is_prepared_once_for_all_runs_that_read_it(run, tiny_directory, tmp_path):
    run.config.data.directory = str(tmp_path / "d")
    other = plan.Run("o", 0, plan.apply_edits(run.config, "o", {"source.mood": 0.0}), tmp_path / "o")
    jobs = runs.preparation_jobs([run, other, run], tmp_path)
    assert sorted(j.name for j in jobs) == sorted(
        [f"dataset {tmp_path / 'd'}", f"dataset {other.config.data.directory}"]
    )
    run.config.data.directory = str(tiny_directory)
    assert runs.preparation_jobs([run], tmp_path) == []  # already prepared
