"""Several processes over jax.distributed: the numbers of one, and nothing lost but what was not saved.

`pytest -m slow tests/end_to_end/test_pods.py` stops each of the two processes in both ways; kill.py stops
them more often.
"""

import json
import random
import re
import signal
import socket
import sys

import pytest
from commands import Command, environment, run
from pods import SMALL, STEPS, Pod, arguments, final_parameters, resumed_from, same

from jaxrec.reporting.metric_writer import METRICS_FILE, read_metrics

SEED = 6  # of the steps at which processes are killed
FAILED = r"\((exit status 1|killed by SIGABRT)"  # by its collective's error, or by jax


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pods")


@pytest.fixture(scope="module")
def whole(folder, tiny_directory):
    """Two processes of two devices, each with a quarter of the rows, which nobody stops."""
    with Pod(folder / "whole", tiny_directory, devices=2, every=600, resident="always") as pod:
        status, stderr = pod.end()
        assert status == 0, stderr[-3000:]
    return pod.workdir


@pytest.fixture(scope="module")
def alone(folder, tiny_directory):
    """One process of one device, as a laptop runs it; of four, in float64, it is in test_exactness."""
    workdir = folder / "alone"
    done = run("-m", "jaxrec.train", *arguments(workdir, tiny_directory, config=SMALL))
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


def near(a, b, most):
    """Float32 sums in another order make a little of forty steps, and a rank another where scores tie."""
    return a == b if isinstance(a, int | str) else abs(a - b) <= most * max(1.0, abs(b))


def test_two_processes_of_two_devices_train_to_the_metrics_of_one(whole, alone):
    ours, theirs = (json.loads((d / "test.json").read_text()) for d in (whole, alone))
    assert ours["step"] == theirs["step"] and ours["baselines"] == theirs["baselines"]
    assert not (alone / "report.html").exists()  # evaluate.report=False
    for name, metrics in theirs["lists"].items():
        for metric, value in metrics.items():
            assert near(ours["lists"][name][metric], value, 0.004)  # two of 604 ranks
    pairs = zip(*(lines(d) for d in (whole, alone)), strict=True)
    for a, b in pairs:
        assert a.keys() == b.keys() and a["split"] == b["split"]
        wrong = {k: (a[k], b[k]) for k in a if not near(a[k], b[k], 0.008 if "/" in k else 1e-5)}
        assert wrong == {}


def lines(workdir):
    """Return the validation lines of metrics.jsonl, which do not depend on the time."""
    validations = [line for line in read_metrics(workdir / METRICS_FILE) if line["split"] == "validation"]
    assert [line["step"] for line in validations] == [28, STEPS]
    return validations


def test_two_processes_evaluate_a_checkpoint_as_the_run_did(whole, tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    outs, errs = ([tmp_path / f"{name}-{process}" for process in range(2)] for name in ("out", "err"))
    both = [
        Command(
            ["-m", "jaxrec.evaluate", "--checkpoint", whole, "--json",
             f"--coordinator={address}", "--processes=2", f"--process={process}"],
            outs[process], errs[process], env=environment(2),
        )
        for process in range(2)
    ]  # fmt: skip
    assert [process.wait(300) for process in both] == [0, 0], [err.read_text()[-3000:] for err in errs]
    printed, nothing = (out.read_text() for out in outs)
    assert nothing == ""
    expected = json.loads((whole / "test.json").read_text())
    for part in ("lists", "lists_k3", "baselines", "by_hard", "dataset", "step"):
        assert json.loads(printed)[part] == expected[part]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed", "preempted"),
    [
        pytest.param((0,), (1,), id="the first is killed, the second gets SIGTERM"),
        pytest.param((0, 1), (0, 1), marks=pytest.mark.slow, id="each in turn"),
    ],
)
def test_a_killed_process_is_named_and_costs_what_was_not_saved(
    whole, tiny_directory, tmp_path, killed, preempted
):
    """Processes are killed at random steps; then some get SIGTERM, which loses no step. In the end it
    is the run that nobody stopped."""
    cut = tmp_path / "cut"
    draws, at = random.Random(SEED), 0
    for process in killed:
        at = draws.randint(at + 2, at + 8)
        with Pod(cut, tiny_directory, devices=2) as pod:
            pod.wait_for(at)
            pod.send(process, signal.SIGKILL)
            status, stderr = pod.end()
            kept = pod.saved()
        assert status == 128 + signal.SIGKILL, stderr[-3000:]
        assert f"lost process {process} (killed by SIGKILL)" in stderr
        assert re.search(rf"process {1 - process} ended .*{FAILED}", stderr), stderr[-3000:]
        assert "still there" not in stderr  # it had left within the heartbeat limit and a margin
        for each in (0, 1):
            match = re.search(rf"process {each} had reached step (\d+)", stderr)
            assert match and int(match[1]) <= pod.step()
        assert kept > 0
    for process in preempted:
        with Pod(cut, tiny_directory, devices=2) as pod:
            pod.wait_for(kept + 3)
            # Nothing but what was not saved is done again.
            assert resumed_from(pod.log_text()[pod.begun :]) == kept
            pod.send(process, signal.SIGTERM)
            status, stderr = pod.end()
            kept = pod.saved()
        assert status == 75, stderr[-3000:]
        assert stderr.count(f"SIGTERM: saved at step {kept} in {cut}") == 2  # both, at the same step
        assert [stderr.count(f"process {each} was preempted (exit status 75)") for each in (0, 1)] == [1, 1]
        assert not (cut / "test.json").exists()
    with Pod(cut, tiny_directory, devices=2) as pod:
        status, stderr = pod.end()
    assert status == 0 and resumed_from(stderr) == kept, stderr[-3000:]
    assert same(final_parameters(whole), final_parameters(cut))
    assert (
        json.loads((cut / "test.json").read_text())["lists"]
        == json.loads((whole / "test.json").read_text())["lists"]
    )


# What one of two processes runs into, before train is started.
BREAKS = {
    "RuntimeError: a defect of one host": """
import jaxrec.reporting.metric_writer
def due(self, step):
    raise RuntimeError("a defect of one host")
jaxrec.reporting.metric_writer.Writer.due = due
""",
    "error: dataset /nowhere: no manifest.json; prepare it with python -m jaxrec.prepare": """
sys.argv.append("--config.data.directory=/nowhere")
""",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "message, status", [*zip(BREAKS, (1, 2), strict=True)], ids=["a defect", "wrong input"]
)
def test_an_error_on_one_host_ends_both(tiny_directory, tmp_path, message, status):
    python = tmp_path / "python"
    python.write_text(f"""#!{sys.executable}
import os, runpy, sys
if os.environ.get("JAXREC_PROCESS") != "1":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
sys.path.insert(0, os.getcwd())
del sys.argv[:2]
{BREAKS[message]}
runpy.run_module("jaxrec.train", run_name="__main__", alter_sys=True)
""")
    python.chmod(0o755)
    with Pod(tmp_path / "run", tiny_directory, PYTHON=str(python)) as pod:
        ended, stderr = pod.end()
    assert ended == status and message in stderr.splitlines(), stderr[-3000:]
    assert f"lost process 1 (exit status {status})" in stderr and "still there" not in stderr
    assert re.search(rf"process 0 ended .*{FAILED}", stderr), stderr[-3000:]
