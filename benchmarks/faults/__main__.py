"""Random faults of real trainings, and what they left behind.

    python -m benchmarks.faults --out FOLDER [--count 300] [--seed 0] [--jobs 2] [--kinds "kill -9,lost host"]
    python -m benchmarks.faults --out FOLDER --summary benchmarks/results/faults.md

Each trial starts `python -m jaxrec.train`, causes one fault at a random moment, repairs what a user would
repair, and starts again. The end is `equal` (all as in a run left alone, bit for bit), `refused` (one line
named the cause, and after the repair the end is equal), or FAULT, whose folder is kept. Trial N has kind
N modulo the number of kinds, and draws from the seed and N. A line of FOLDER/trials.jsonl is one trial;
trials with a line are not run again.
"""

import argparse
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import logging

from benchmarks.faults import damage, places, signals
from benchmarks.faults.lab import Lab, Trial, Verdict
from benchmarks.faults.processes import HangError
from benchmarks.faults.summary import TRIALS, about, read_trials, remove_cut_line, summarize
from benchmarks.faults.verdicts import FaultError

KINDS: dict[str, Callable[[Trial], Verdict]] = {**signals.KINDS, **places.KINDS, **damage.KINDS}
_WRITING = threading.Lock()


def run_trial(lab: Lab, out: Path, number: int, seed: int, kinds: list[str]) -> None:
    """Run one trial and append its line; the folder is kept where the verdict is FAULT."""
    kind, began = kinds[number % len(kinds)], time.monotonic()
    folder = (out / f"trial-{number:04d}").resolve()
    places.unmount_all(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trial, hang = Trial(lab, folder, number, seed, number // len(kinds)), False
    try:
        verdict, text = KINDS[kind](trial)
    except FaultError as error:
        verdict, text = "FAULT", str(error)
    except HangError as error:
        verdict, text, hang = "FAULT", f"hang: {error}", True
    except Exception as error:  # of the harness: recorded, and the other trials run
        verdict, text = "FAULT", f"harness: {type(error).__name__}: {error}"
    seconds = round(time.monotonic() - began, 1)
    text = text.replace(str(folder), "TRIAL")
    line = {
        "number": number, "kind": kind, "seed": seed, "moment": trial.moment, "verdict": verdict,
        "hang": hang, "seconds": seconds, "text": text,
    }  # fmt: skip
    with _WRITING, (out / TRIALS).open("a") as file:
        file.write(json.dumps(line) + "\n")
    if verdict != "FAULT":
        shutil.rmtree(folder)
    print(f"{number} {kind}, {trial.moment}: {verdict} ({seconds} s) {text[:300]}", flush=True)


def run_trials(out: Path, count: int, seed: int, jobs: int, kinds: list[str]) -> list[dict[str, Any]]:
    """Run the trials below `count` that have no line yet; return the lines of all."""
    out.mkdir(parents=True, exist_ok=True)
    about(out, seed, kinds)
    print(f"seed {seed}, {count} trials of {len(kinds)} kinds in {out}", flush=True)
    lab = Lab(out.resolve() / "lab")
    places.unmount_all(out.resolve())
    lab.make(has_pair="lost host" in kinds)
    remove_cut_line(out)
    done = {line["number"] for line in read_trials(out)}
    with ThreadPoolExecutor(jobs) as pool:
        trials = [
            pool.submit(run_trial, lab, out, number, seed, kinds)
            for number in range(count)
            if number not in done
        ]
        try:
            for trial in trials:
                trial.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return read_trials(out)


def main(argv: list[str]) -> int:
    """Parse the command line and run; return 1 if a verdict is FAULT."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the trials")
    parser.add_argument("--count", type=int, default=300, help="number of trials")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--summary", type=Path, help="write the table of the trials so far, and run none")
    options = parser.parse_args(argv)
    if options.summary:
        options.summary.write_text(summarize(options.out))
        return 0
    kinds = options.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"--kinds: {unknown[0]!r} is none of {', '.join(KINDS)}")
    logging.set_verbosity(logging.ERROR)  # Orbax warns of each state that is read without its folder
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else processes inherit that it is ignored
    lines = run_trials(options.out, options.count, options.seed, options.jobs, kinds)
    faults = sum(line["verdict"] == "FAULT" for line in lines)
    hangs = sum(line["hang"] for line in lines)
    print(f"{len(lines)} trials, {faults} faults, {hangs} hangs")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
