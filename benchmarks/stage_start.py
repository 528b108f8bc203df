"""Time from the start of a process to its first step: a first stage, and a stage that starts from it.

    python -m benchmarks.stage_start [--rounds 3] [--json F]

Both stages are runs of `configs/study_stages.py:tiny`. Each has been run once before, so that its programs
are in the compilation cache, and is then started again in an empty workdir, in turn. The first step has ended
where the first line of metrics.jsonl is written; each step writes one.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from benchmarks.command import Report, run, spread
from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.studies.plan import Study, every_run
from jaxrec.studies.runs import config_file

WANTED = 5.0  # seconds that the second stage may take longer
FIRST, SECOND = "first_stage", "then_0.1"
_POLL_SECONDS = 0.01


def _flags() -> None:
    flags.DEFINE_integer("rounds", 3, "starts of each stage that are timed", lower_bound=1)


def stages(folder: Path) -> dict[str, Config]:
    """Return the configs of both stages, with a line of metrics for each step."""
    study = load_file("configs/study_stages.py:tiny", Study)
    study.base.data.directory, study.base.train.log_seconds = str(folder / "data"), 1e-9
    runs = {run.name: run.config for run in every_run(study, ("0.1",), 1, folder)}
    runs[SECOND].start.workdir = str(folder / FIRST)
    return {name: runs[name] for name in (FIRST, SECOND)}


def first_step(config: Config, workdir: Path) -> float:
    """Train a config to its end, and return the seconds from the start of the process to its first step.

    Raises:
        RuntimeError: The training failed.
    """
    source = workdir.with_suffix(".py")
    source.write_text(config_file(config, "A stage."))
    words = [sys.executable, "-m", "jaxrec.train", f"--config={source}", f"--workdir={workdir}"]
    return seconds_to_first_step(words, workdir, to_end=True)


def seconds_to_first_step(words: list[str], workdir: Path, to_end: bool) -> float:
    """Return the seconds from the start of a training's process to its first line of metrics.

    Args:
        words: Command of the training.
        workdir: Its workdir; the output is written beside it.
        to_end: Wait for the end of the training. False: kill it after its first step.

    Raises:
        RuntimeError: The training failed, or ended before its first step.
    """
    log, metrics, seconds = workdir.with_suffix(".log"), workdir / "metrics.jsonl", 0.0
    with log.open("w") as out:
        began = time.monotonic()
        process = subprocess.Popen(words, stdout=out, stderr=out, env=os.environ)
        while process.poll() is None and (to_end or not seconds):
            if not seconds and metrics.exists() and '"train"' in metrics.read_text():
                seconds = time.monotonic() - began
            time.sleep(_POLL_SECONDS)
        if not to_end:
            process.kill()
        process.wait()
    if not seconds or (to_end and process.returncode):
        raise RuntimeError(log.read_text()[-3000:])
    return seconds


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds to the first step by stage; the first start of each is not among them."""
    configs = stages(folder)
    for name in (FIRST, SECOND):  # in this order: the second starts from the workdir of the first
        first_step(configs[name], folder / name)
    out: dict[str, list[float]] = {name: [] for name in configs}
    for i in range(rounds):
        for name, config in configs.items():
            out[name].append(first_step(config, folder / f"{name}-{i}"))
    return out


def main(args: flags.FlagValues) -> Report:
    """Time both stages."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), args.rounds)
    figures = {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in seconds.items()
    }
    added = figures[SECOND]["median"] - figures[FIRST]["median"]
    rows = [
        ("first stage, process start to first step", spread(figures[FIRST], "s"), "-"),
        ("second stage, process start to first step", spread(figures[SECOND], "s"), "-"),
        ("second stage beyond the first", f"{added:+.2f} s", f"at most {WANTED:g} s"),
    ]
    return Report("Start of a stage", {"seconds": figures, "added": added}, rows)


if __name__ == "__main__":
    run(main, _flags)
