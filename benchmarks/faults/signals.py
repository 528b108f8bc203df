"""Kinds of faults of processes: signals, threads that raise, clocks, second starts, lost hosts, NaN."""

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

from benchmarks.faults.lab import Trial, Verdict
from benchmarks.faults.processes import CONFIG, PHASES, Start, ended, pod, training
from benchmarks.faults.verdicts import FaultError, contents, refusal

_STARTING = "before the package was imported"


def _fresh(trial: Trial, phase: str) -> Path | None:
    """Give the trial what its phase needs; return an empty folder of programs, or None."""
    if phase == "preparation":
        trial.data = trial.folder / "data"
    return trial.folder / "programs" if phase == "compile" and trial.draws.random() < 0.3 else None


def _interrupt(trial: Trial, number: signal.Signals, phase: str) -> tuple[int, str]:
    """Send a signal at a random moment of a phase; return status and standard error."""
    cache = _fresh(trial, phase)
    with trial.start(cache=cache) as start:
        trial.moment = start.wait_for_phase(phase, trial.draws) + (", nothing compiled" if cache else "")
        start.send(number)
        status = start.wait()
        return status, start.stderr()


def kill(trial: Trial) -> Verdict:
    """Kill the process, and start again."""
    status, stderr = _interrupt(trial, signal.SIGKILL, PHASES[trial.turn % 6])
    if status not in (0, -signal.SIGKILL):
        raise FaultError(f"status {status} after SIGKILL: {stderr[-600:]}")
    return trial.end_equal()


def _end_of_signal(trial: Trial, number: signal.Signals, statuses: tuple[int, ...]) -> Verdict:
    status, stderr = _interrupt(trial, number, PHASES[trial.turn % 6])
    text = f"status {status}"
    started = "Traceback" in stderr and f"{os.sep}jaxrec{os.sep}" not in stderr
    if number == signal.SIGINT and started:
        text += f", {_STARTING}"  # by Python itself
    elif "Traceback" in stderr or status not in (*statuses, -number if not stderr else 0, 0):
        raise FaultError(f"status {status} after {number.name}: {stderr[-600:]}")
    return Verdict(trial.end_equal().name, text)


def sigterm(trial: Trial) -> Verdict:
    """Send SIGTERM, and start again."""
    return _end_of_signal(trial, signal.SIGTERM, (143,))


def sigint(trial: Trial) -> Verdict:
    """Send SIGINT as Ctrl-C does, and start again."""
    return _end_of_signal(trial, signal.SIGINT, (130,))


def input_thread(trial: Trial) -> Verdict:
    """Raise in a thread that reads rows: an error of the disk, or a defect."""
    error, read = ("EIO", "defect")[trial.turn % 2], trial.draws.randint(1, 7)
    trial.moment = f"{error} at read {read}"
    with trial.start(faults={"raise_at": read, "error": error}) as start:
        status, stderr = start.wait(), start.stderr()
    if status == 0:
        trial.check_equal()
        return Verdict("equal", "no such read")
    if error == "EIO":
        line = refusal(status, stderr, "train-00000.rows")
    elif status == 1 and "planted: a defect" in stderr:
        line = "a traceback that names the defect"
    else:
        raise FaultError(f"status {status}: {stderr[-600:]}")
    return Verdict(trial.end_equal().name, line)


def clock(trial: Trial) -> Verdict:
    """Kill, set clock and dates of files apart, and start again."""
    days = trial.draws.choice((-4000, -30, -1, 1, 30, 4000)) * trial.draws.random()
    trial.continue_stopped()
    with trial.start() as start:
        moment = start.wait_for_phase(trial.draws.choice(("steps", "save")), trial.draws)
        start.send(signal.SIGKILL)
        start.wait()
    trial.moment = f"{moment}; clock {days:+.1f} days"
    shift = trial.draws.choice((-86_400.0, 86_400.0)) * 365 * trial.draws.random()
    for path in trial.workdir.rglob("*"):
        os.utime(path, (time.time() + shift,) * 2)
    return trial.end_equal(faults={"clock": days * 86_400})


def nan_features(trial: Trial) -> Verdict:
    """Put NaN into the completions of a batch; start again without."""
    batch = trial.draws.randint(0, 44)
    trial.moment = f"batch {batch}"
    with trial.start(faults={"nonfinite_at": batch}) as start:
        status, stderr = start.wait(), start.stderr()
    line = refusal(status, stderr, "not finite")
    if not (trial.workdir / "nonfinite.npz").exists():
        raise FaultError("no nonfinite.npz was written")
    trial.end_equal()
    return Verdict("refused", line)


def two_starts(trial: Trial) -> Verdict:
    """Start twice in one workdir: one is refused, or waits for nothing."""
    delay = trial.draws.uniform(0, 3)
    trial.moment = f"second start after {delay:.2f} s"
    first = trial.start()
    with ended(first):
        first.sleep(delay)
        second = trial.start()
        with ended(second):
            ends = [(start.wait(), start.stderr()) for start in (first, second)]
    lines = [refusal(*end, r"is in use by process \d+") for end in ends if end[0]]
    if len(lines) == 2:
        raise FaultError(f"both were refused: {' | '.join(lines)}")
    trial.check_equal()
    return Verdict("refused" if lines else "equal", lines[0] if lines else "one after the other")


def two_preparations(trial: Trial) -> Verdict:
    """Start training and preparation of one dataset; every other time one of them is killed."""
    trial.data = trial.folder / "data"
    delay, is_killed = trial.draws.uniform(0, 1.0), trial.turn % 2 == 1
    prepare = [sys.executable, "-m", "jaxrec.prepare", "--config", CONFIG, "--out", str(trial.data)]
    commands = [training(trial.workdir, trial.data), prepare]
    if trial.draws.random() < 0.5:
        commands.reverse()
    trial.moment = f"second start after {delay:.2f} s"
    first = trial.start(commands[0])
    with ended(first):
        first.sleep(delay)
        second = trial.start(commands[1])
        with ended(second):
            both = [first, second]
            if is_killed:
                killed = both.pop(trial.draws.randrange(2))
                killed.wait_until(lambda: "preparing " in killed.stderr() or trial.data.exists())
                killed.sleep(trial.draws.uniform(0, 0.5))
                killed.send(signal.SIGKILL)
                trial.moment += f"; {'the second' if killed is second else 'the first'} killed"
            for start in both:
                if status := start.wait():
                    raise FaultError(f"status {status}: {start.stderr()[-600:]}")
    if contents(trial.data) != trial.lab.data_contents:
        raise FaultError("the dataset's files differ")
    return trial.end_equal()


def lost_host(trial: Trial) -> Verdict:
    """Kill one of two processes that train together, and start both again."""
    command = pod(trial.workdir, trial.data)
    process, phase = trial.draws.randrange(2), trial.draws.choice(("compile", "steps", "save", "evaluation"))
    with trial.start(command) as start:
        moment = start.wait_for_phase(phase, trial.draws)
        lost = _processes_of(start)
        trial.moment = f"process {process}, {moment}"
        if len(lost) > process:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(lost[process], signal.SIGKILL)
        status, stderr = start.wait(), start.stderr()
    if status and not re.search(r"local\.sh: lost process \d", stderr):
        raise FaultError(f"the launcher names no lost process: status {status}: {stderr[-600:]}")
    with trial.start(command) as start:
        if status := start.wait():
            raise FaultError(f"started again: status {status}: {start.stderr()[-600:]}")
    trial.check_equal(expected=trial.lab.pair_outcome)
    return Verdict("equal")


def _processes_of(start: Start) -> list[int]:
    """Return the ids of the trainings of a launcher, in the order of their numbers."""
    ids = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one has just ended
        for pid in Path(f"/proc/{start.pid}/task/{start.pid}/children").read_text().split():
            if b"jaxrec.train" in Path(f"/proc/{pid}/cmdline").read_bytes():
                ids.append(int(pid))
    return ids


KINDS = {
    "kill -9": kill,
    "SIGTERM": sigterm,
    "SIGINT": sigint,
    "input thread raises": input_thread,
    "clock set apart": clock,
    "NaN in features": nan_features,
    "two starts": two_starts,
    "two preparations": two_preparations,
    "lost host": lost_host,
}
