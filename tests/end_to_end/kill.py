"""Kill one of two processes at a random step, repeatedly, then send SIGTERM to each:

    python tests/end_to_end/kill.py [--times 10] [--seed 0]

Print the time until the other process had ended, the number of lost steps, and the time for saving. Fail
if the launcher does not name the killed process, if saved steps are lost, or if the final parameters are not
those of an uninterrupted run. test_pods.py has two of each.
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
    dataset, steps = folder / "data", APART * (times + 2) + 10
    prepare = [sys.executable, "-m", "jaxrec.prepare", "--config", "configs/tiny.py", "--out", str(dataset)]
    subprocess.run(prepare, cwd=ROOT, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    with Pod(folder / "whole", dataset, steps=steps, every=600) as pod:
        status, stderr = pod.end(1200)
        assert status == 0, stderr
    draws, at, kept, cut = random.Random(seed), 0, 0, folder / "cut"
    left, lost, grace = list[float](), list[float](), list[float]()
    for number, sent in enumerate([signal.SIGKILL] * times + [signal.SIGTERM] * 2):
        preempted = sent == signal.SIGTERM
        at, process = max(at, kept) + draws.randint(2, APART), number % 2 if preempted else draws.randrange(2)
        with Pod(cut, dataset, steps=steps) as pod:
            pod.wait_for(at)
            reached, began = pod.step(), time.monotonic()
            pod.send(process, sent)
            status, stderr = pod.end()
            seconds = time.monotonic() - began
            assert resumed_from(stderr) == kept and "still there" not in stderr, stderr
            kept = pod.saved()
        if preempted:
            assert status == 75 and stderr.count(f"SIGTERM: saved at step {kept} in {cut}") == 2, stderr
            grace.append(seconds)
        else:
            assert status == 128 + sent and f"lost process {process} (killed by SIGKILL)" in stderr, stderr
            left.append(seconds)
            lost.append(reached - kept)
        print(
            f"{number + 1}: {sent.name} to process {process} at step {reached}; both had left after "
            f"{seconds:.2f} s; saved: step {kept}", flush=True,
        )  # fmt: skip
    with Pod(cut, dataset, steps=steps) as pod:
        status, stderr = pod.end(1200)
        assert status == 0 and resumed_from(stderr) == kept, stderr
    assert same(final_parameters(folder / "whole", steps), final_parameters(cut, steps))
    numbers = {"seconds from a kill": left, "steps lost": lost, "seconds from SIGTERM": grace}
    for what, values in numbers.items():
        if not values:
            continue
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{what}: {low:.2f} min, {middle:.2f} median, {high:.2f} max")
    print(f"heartbeat limit {HEARTBEAT} s; final parameters equal an uninterrupted run's, bit for bit")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        main(options.times, options.seed, Path(name))
