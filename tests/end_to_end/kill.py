"""Kills one of two processes at a random step, again and again, and compares with the run that nobody killed:

    python tests/end_to_end/kill.py [--times 10] [--seed 0]

Prints how long the other process took to leave and how many steps were lost each time, and fails where the
launcher did not name the one that was killed, more was lost than had not been saved, or the final parameters
differ. test_pods.py has two of these.
"""

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pods import ENVIRONMENT, HEARTBEAT, Pod, final_parameters, resumed_from, same  # noqa: E402

APART = 12  # steps between two kills, at most


def main(times: int, seed: int, folder: Path) -> None:
    dataset, steps = folder / "data", APART * times + 10
    prepare = [sys.executable, "-m", "jaxrec.prepare", "--config", "configs/tiny.py", "--out", str(dataset)]
    subprocess.run(prepare, cwd=ROOT, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    with Pod(folder / "whole", dataset, steps=steps, every=600) as pod:
        status, said = pod.end(1200)
        assert status == 0, said
    draws, at, kept, left, lost = random.Random(seed), 0, 0, [], []
    cut = folder / "cut"
    for number in range(times):
        at, process = max(at, kept) + draws.randint(2, APART), draws.randrange(2)
        with Pod(cut, dataset, steps=steps) as pod:
            pod.wait_for(at)
            reached = pod.step()
            began = time.monotonic()
            pod.send(process, signal.SIGKILL)
            status, said = pod.end()
            left.append(time.monotonic() - began)
            assert resumed_from(said) == kept, said
            kept = pod.saved()
        assert status == 128 + signal.SIGKILL and f"lost process {process} (killed by SIGKILL)" in said, said
        assert "still there" not in said, said
        lost.append(reached - kept)
        print(
            f"kill {number + 1}: process {process} at step {reached}; the other left in {left[-1]:.2f} s; "
            f"saved: step {kept}, lost: {lost[-1]} steps", flush=True,
        )  # fmt: skip
    with Pod(cut, dataset, steps=steps) as pod:
        status, said = pod.end(1200)
        assert status == 0 and resumed_from(said) == kept, said
    assert same(final_parameters(folder / "whole", steps), final_parameters(cut, steps))
    for what, values in (("seconds until the other had left", left), ("steps lost", lost)):
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{what}: {low:.2f} min, {middle:.2f} median, {high:.2f} max")
    print(f"heartbeat limit {HEARTBEAT} s; final parameters as of the run nobody killed, bit for bit")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        main(given.times, given.seed, Path(name))
