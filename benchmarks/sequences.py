"""Training speed of SASRec, epoch by epoch, compared with RecTools.

    python -m benchmarks.sequences --peer-python ENV/bin/python

The generated log has a million plays in 6,000 sequences of up to 200, and one more play of each user that
is held out, as in leave-last-out. Both train the model of configs/sequences.py:sasrec (d=50, 2 blocks, 128
titles drawn for each position, batches of 128) on the same million plays, with as many threads as cores.
jaxrec's time includes its input pipeline, from prepared rows. `peers/rectools_sasrec.py` documents what is
timed of the peer. The peer is a process with its own environment. It trains one epoch on request and is
idle otherwise, so that epochs run in turn; the first epoch of each is not counted. An epoch of jaxrec
consists of full batches only, so its time is scaled to all sequences.
"""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from absl import flags

from benchmarks import step_parts
from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, interleaved, ratio
from jaxrec.config.loading import load_config
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / "benchmarks/peers/rectools_sasrec.py"
OURS, THEIRS = "jaxrec", "RecTools"
USERS, TITLES, PLAYS, LONGEST, SHORTEST = 6_000, 3_700, 1_000_000, 200, 20
HELD_OUT = 1  # further plays of each user, not trained on
_CHUNK = 500  # users generated at once
_BEGINS, _MOST_APART = 1_000_000_000, 3600  # seconds


# ---------------------------------------------------------------- the log


def lengths(users: int, plays: int, rng: np.random.Generator) -> np.ndarray:
    """Return lengths [users] in SHORTEST..LONGEST with the sum `plays`.

    Lengths are lognormal and clipped, as MovieLens'.

    Raises:
        ValueError: No such lengths exist.
    """
    drawn = rng.lognormal(0.0, 1.0, users)
    low, high = 0.0, 1e6
    for _ in range(60):  # bisection for the scale at which the sum is `plays`
        scale = (low + high) / 2
        too_many = np.clip(np.round(scale * drawn), SHORTEST, LONGEST).sum() > plays
        low, high = (low, scale) if too_many else (scale, high)
    counts = np.clip(np.round(low * drawn), SHORTEST, LONGEST).astype(int)
    if counts.sum() != plays:
        raise ValueError(f"{users} users cannot have {plays} plays, {SHORTEST} to {LONGEST} each")
    return counts


def write_log(path: Path, users: int = USERS, titles: int = TITLES, plays: int = PLAYS) -> np.ndarray:
    """Write a CSV of user,item,timestamp, with the same bytes each time.

    The log has `plays` plays in `lengths`, and HELD_OUT more of each user. Within a user, no title repeats
    and the time increases. The n-th title is drawn 1/n as often as the first.

    Returns:
        Lengths [users] without the held-out plays.
    """
    rng = np.random.default_rng(0)
    counts = lengths(users, plays, rng)
    popular = -np.log(np.arange(1, titles + 1))
    names = rng.permutation(titles) + 1
    with path.open("w") as file:
        file.write("user,item,timestamp\n")
        for first in range(0, users, _CHUNK):
            user_counts = counts[first : first + _CHUNK] + HELD_OUT
            # Draws without replacement: the largest log weights plus Gumbel noise.
            keys = popular + rng.gumbel(size=(len(user_counts), titles))
            order = np.argsort(-keys, axis=1)[:, : user_counts.max()]
            time = _BEGINS + rng.integers(1, _MOST_APART, order.shape).cumsum(axis=1)
            present = np.arange(user_counts.max()) < user_counts[:, None]
            user = np.repeat(np.arange(first, first + len(user_counts)) + 1, user_counts)
            np.savetxt(file, np.stack([user, names[order[present]], time[present]], axis=1), "%d", ",")
    return counts


# ---------------------------------------------------------------- rivals


class Peer:
    """Process of the peer: `about` is its first line, `epoch()` trains one more epoch."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        self.about = self._read_line()

    def _read_line(self) -> dict[str, Any]:
        """Return the next line of JSON.

        Raises:
            InputError: The process ended. The message holds the last line of standard error.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        raise InputError(
            f"the peer ended with status {status}: {words[-1] if words else 'no output'}; "
            'it needs "rectools[torch]==0.19.*"'
        )

    def epoch(self) -> dict[str, Any]:
        """Train one epoch and return its figures."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_read_line` reports why the process ended
            self._process.stdin.write(b"epoch\n")
        return self._read_line()


@contextlib.contextmanager
def peer(command: list[str]) -> Iterator[Peer]:
    """Yield a process with the protocol of peers/rectools_sasrec.py --wait.

    The process ends with the context.

    Raises:
        InputError: The interpreter cannot be started.
    """
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=errors)
        except OSError as error:
            raise InputError(
                f"--peer-python={command[0]}: {error.strerror}; allowed: an interpreter with rectools[torch]"
            ) from None
        with process:  # closing the input ends the process
            yield Peer(process, errors)


def ours(log: Path, directory: Path) -> tuple[Callable[[], None], float]:
    """Return our epoch, with its input pipeline, and the factor to all sequences."""
    config = load_config(f"{ROOT / 'configs/sequences.py'}:sasrec")
    config.data.path, config.data.directory = str(log), str(directory)
    ensure_dataset(config, str(directory))
    dataset = Dataset(directory)
    rows, size = dataset.rows("train"), config.train.batch_size
    config.train.steps_per_call = 1  # an epoch then has all of its full batches
    steps = rows.rows // size
    train, _ = step_parts.ours(
        step_parts.program_of(config, dataset, size), dataset.arrays.title_table(), rows
    )
    return lambda: train(steps), rows.rows / (steps * size)


# ---------------------------------------------------------------- the command


def _flags() -> None:
    flags.DEFINE_string("peer_python", "", "Python interpreter with rectools[torch]; empty: jaxrec alone")
    flags.DEFINE_bool("ours", True, "time jaxrec; --noours: the peer alone")
    flags.DEFINE_integer("rounds", 3, "counted epochs of each", lower_bound=1)
    flags.DEFINE_integer("users", USERS, "sequences; the number of plays is proportional", lower_bound=256)


def main(args: flags.FlagValues) -> Report:
    if not (args.ours or args.peer_python):
        raise InputError("--noours: allowed only with --peer-python")
    plays = PLAYS * args.users // USERS
    scale: dict[str, float] = {}
    turns: dict[str, Callable[[], Any]] = {}
    figures: dict[str, Any] = {"sequences": args.users, "interactions": plays, "rounds": args.rounds}
    with tempfile.TemporaryDirectory(prefix="jaxrec-sequences-") as folder, contextlib.ExitStack() as stack:
        log = Path(folder) / "log.csv"
        write_log(log, args.users, plays=plays)
        if args.ours:
            turns[OURS], scale[OURS] = ours(log, Path(folder) / "rows")
        if args.peer_python:
            command = [args.peer_python, str(PEER), str(log), "--wait"]
            command += ["--epochs", str(args.rounds + 1), "--held-out", str(HELD_OUT)]
            theirs = stack.enter_context(peer(command))
            if theirs.about["interactions"] != plays:
                raise ValueError(f"the peer trains on {theirs.about['interactions']} plays, not on {plays}")
            epochs: list[dict[str, Any]] = []
            turns[THEIRS], scale[THEIRS] = lambda: epochs.append(theirs.epoch()), 1.0
            figures |= {"peer": theirs.about, "peer_epochs": epochs}  # the first epoch is not counted
        timed = interleaved(turns, args.rounds)
    timings = {name: Timing(tuple(s * scale[name] for s in t.seconds)) for name, t in timed.items()}
    return Report(
        "sequences", figures | _figures(timings, plays), _table(timings, plays, figures.get("peer"))
    )


def _figures(timings: dict[str, Timing], plays: int) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "epoch_seconds": {name: t.seconds for name, t in timings.items()},
        "interactions_per_second": {name: t.rate(plays) for name, t in timings.items()},
    }
    if len(timings) == 2:
        figures["times_faster"] = ratio(timings[THEIRS], timings[OURS])
    return figures


def _table(timings: dict[str, Timing], plays: int, peer: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    comparison = {OURS: "input stream included; scaled from whole batches to all sequences"}
    if peer is not None:
        version, torch = peer["versions"]["rectools"], peer["versions"]["torch"]
        comparison[THEIRS] = f"{version} on torch {torch}, {peer['threads']} threads"
    rows = []
    for name, timing in timings.items():
        seconds = {"median": timing.median, "least": min(timing.seconds), "most": max(timing.seconds)}
        rows.append((f"{name}: an epoch of {plays:,} plays", spread(seconds, "s", 1), comparison[name]))
        rows.append((f"{name}: plays", spread(timing.rate(plays), "a second", 0), ""))
    if len(timings) == 2:
        rows.append(
            (f"{OURS} to {THEIRS}", spread(ratio(timings[THEIRS], timings[OURS]), "times"), "target 2")
        )
    return rows


if __name__ == "__main__":
    run(main, _flags)
