"""python -m benchmarks.sequences --peer-python ENV/bin/python: an epoch of SASRec, beside RecTools'.

A made log of a million plays in 6,000 sequences of up to 200, and one more of each user that is held out, as
leave-last-out has it. Both train the model of configs/sequences.py:sasrec (d=50, 2 blocks, 128 titles drawn
for each place, batches of 128) on the same million, at as many threads as there are cores; ours with its
input stream, from prepared rows; `peers/rectools_sasrec.py` says what of the peer is timed. The peer is a
process in an environment of its own, told when to train its next epoch and idle otherwise: epochs take turns,
the first of each is not counted. Our epoch has whole batches alone, so it is scaled to all sequences.
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
HELD_OUT = 1  # of each user, past PLAYS
_CHUNK = 500  # users made at once
_BEGINS, _MOST_APART = 1_000_000_000, 3600  # seconds


# ---------------------------------------------------------------- the log


def lengths(users: int, plays: int, rng: np.random.Generator) -> np.ndarray:
    """[users] lengths in SHORTEST..LONGEST that add up to `plays`: lognormal, cut off, as MovieLens' are."""
    drawn = rng.lognormal(0.0, 1.0, users)
    low, high = 0.0, 1e6
    for _ in range(60):  # the scale of which the whole is `plays`
        scale = (low + high) / 2
        too_many = np.clip(np.round(scale * drawn), SHORTEST, LONGEST).sum() > plays
        low, high = (low, scale) if too_many else (scale, high)
    found = np.clip(np.round(low * drawn), SHORTEST, LONGEST).astype(int)
    if found.sum() != plays:
        raise ValueError(f"{users} users cannot have {plays} plays, {SHORTEST} to {LONGEST} each")
    return found


def write_log(path: Path, users: int = USERS, titles: int = TITLES, plays: int = PLAYS) -> np.ndarray:
    """A CSV of user,item,timestamp, the same bytes each time: `plays` of them in `lengths`, and HELD_OUT more
    of each user. Within a user no title comes twice and time rises; of titles the n-th is drawn 1/n as often
    as the first. Returns the lengths without what is held out."""
    rng = np.random.default_rng(0)
    counts = lengths(users, plays, rng)
    popular = -np.log(np.arange(1, titles + 1))
    names = rng.permutation(titles) + 1
    with path.open("w") as file:
        file.write("user,item,timestamp\n")
        for first in range(0, users, _CHUNK):
            many = counts[first : first + _CHUNK] + HELD_OUT
            # Draws without replacement are the largest of the weights' logs plus Gumbel noise.
            keys = popular + rng.gumbel(size=(len(many), titles))
            order = np.argsort(-keys, axis=1)[:, : many.max()]
            time = _BEGINS + rng.integers(1, _MOST_APART, order.shape).cumsum(axis=1)
            there = np.arange(many.max()) < many[:, None]
            user = np.repeat(np.arange(first, first + len(many)) + 1, many)
            np.savetxt(file, np.stack([user, names[order[there]], time[there]], axis=1), "%d", ",")
    return counts


# ---------------------------------------------------------------- the rivals


class Peer:
    """The peer's process: `about` is what it said of itself, `epoch()` has it train one more."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        self.about = self._said()

    def _said(self) -> dict[str, Any]:
        """The next line of JSON. Raises InputError with the process's last words where it ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        raise InputError(
            f"the peer ended with status {status}: {words[-1] if words else 'no word'}; "
            'it needs "rectools[torch]==0.19.*"'
        )

    def epoch(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said last is why
            self._process.stdin.write(b"epoch\n")
        return self._said()


@contextlib.contextmanager
def peer(command: list[str]) -> Iterator[Peer]:
    """A process that talks as peers/rectools_sasrec.py does with --told, until the block's end."""
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=errors)
        except OSError as error:
            raise InputError(
                f"--peer-python={command[0]}: {error.strerror}; allowed: an interpreter with rectools[torch]"
            ) from None
        with process:  # its input's end is its own
            yield Peer(process, errors)


def ours(log: Path, directory: Path) -> tuple[Callable[[], None], float]:
    """Our epoch from the stream, steps compiled, and how many of it all sequences make."""
    config = load_config(f"{ROOT / 'configs/sequences.py'}:sasrec")
    config.data.path, config.data.directory = str(log), str(directory)
    ensure_dataset(config, str(directory))
    dataset = Dataset(directory)
    rows, size = dataset.rows("train"), config.train.batch_size
    config.train.dispatch = 1  # so that an epoch is all of its steps
    steps = rows.rows // size
    train, _ = step_parts.ours(
        step_parts.program_of(config, dataset, size), dataset.arrays.title_table(), rows
    )
    return lambda: train(steps), rows.rows / (steps * size)


# ---------------------------------------------------------------- the command


def _flags() -> None:
    flags.DEFINE_string("peer_python", "", "an interpreter with rectools[torch]; empty: ours alone")
    flags.DEFINE_bool("ours", True, "whether ours runs; --noours for the peer alone")
    flags.DEFINE_integer("rounds", 3, "epochs of each that count", lower_bound=1)
    flags.DEFINE_integer("users", USERS, "sequences; their plays are in proportion", lower_bound=256)


def main(found: flags.FlagValues) -> Report:
    if not (found.ours or found.peer_python):
        raise InputError("--noours: allowed where --peer-python names an interpreter")
    plays = PLAYS * found.users // USERS
    scale: dict[str, float] = {}
    turns: dict[str, Callable[[], Any]] = {}
    figures: dict[str, Any] = {"sequences": found.users, "interactions": plays, "rounds": found.rounds}
    with tempfile.TemporaryDirectory(prefix="jaxrec-sequences-") as folder, contextlib.ExitStack() as ends:
        log = Path(folder) / "log.csv"
        write_log(log, found.users, plays=plays)
        if found.ours:
            turns[OURS], scale[OURS] = ours(log, Path(folder) / "rows")
        if found.peer_python:
            command = [found.peer_python, str(PEER), str(log), "--told"]
            command += ["--epochs", str(found.rounds + 1), "--held-out", str(HELD_OUT)]
            theirs = ends.enter_context(peer(command))
            if theirs.about["interactions"] != plays:
                raise ValueError(f"the peer trains on {theirs.about['interactions']} plays, not on {plays}")
            said: list[dict[str, Any]] = []
            turns[THEIRS], scale[THEIRS] = lambda: said.append(theirs.epoch()), 1.0
            figures |= {"peer": theirs.about, "peer_epochs": said}  # the first is not counted
        timed = interleaved(turns, found.rounds)
    each = {name: Timing(tuple(s * scale[name] for s in t.seconds)) for name, t in timed.items()}
    return Report("sequences", figures | _measured(each, plays), _table(each, plays, figures.get("peer")))


def _measured(each: dict[str, Timing], plays: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "epoch_seconds": {name: t.seconds for name, t in each.items()},
        "interactions_per_second": {name: t.rate(plays) for name, t in each.items()},
    }
    if len(each) == 2:
        found["times_faster"] = ratio(each[THEIRS], each[OURS])
    return found


def _table(each: dict[str, Timing], plays: int, peer: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    beside = {OURS: "input stream included; scaled from whole batches to all sequences"}
    if peer is not None:
        version, torch = peer["versions"]["rectools"], peer["versions"]["torch"]
        beside[THEIRS] = f"{version} on torch {torch}, {peer['threads']} threads"
    rows = []
    for name, timing in each.items():
        seconds = {"median": timing.median, "least": min(timing.seconds), "most": max(timing.seconds)}
        rows.append((f"{name}: an epoch of {plays:,} plays", spread(seconds, "s", 1), beside[name]))
        rows.append((f"{name}: plays", spread(timing.rate(plays), "a second", 0), ""))
    if len(each) == 2:
        rows.append((f"{OURS} to {THEIRS}", spread(ratio(each[THEIRS], each[OURS]), "times"), "target 2"))
    return rows


if __name__ == "__main__":
    run(main, _flags)
