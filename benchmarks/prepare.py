"""Dataset preparation: events per second and peak memory, compared with pandas.

Watch events of an artificial service, 5.5 per user, are written as Parquet files and prepared. Each size of
`--events` is prepared once, in a separate process whose peak memory is read. A size that pandas finishes
in half a minute is prepared in turn with pandas. The command refuses to time a peer whose rows differ.

    python -m benchmarks.prepare --events 5e5,5.5e6,5e7    # the last takes minutes and 40 GB of disk
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.measure import interleaved, ratio
from jaxrec.config.schema import Columns, Config, Feature, Tables
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import open_source

TITLES = 5_000
EVENTS_A_USER = 5.5
_BLOCK_USERS = 200_000  # users per file
_START_MS, _DAYS = 1_704_067_200_000, 84  # from 2024-01-01


def config_of(folder: Path) -> Config:
    """Return the config for the tables of `write_tables`: features as in own_data.py."""
    names = Columns("user_id", "title_id", "started_at", "ms", "seconds_viewed")
    tables = (str(folder / "interactions"), str(folder / "titles.parquet"), str(folder / "users.parquet"))
    features = (
        Feature("title_id", "category", "title", width=64),
        Feature("genres", "categories", "title", width=32, most=5),
        Feature("release_year", "number", "title", width=4),
        Feature("country", "category", "user", width=8),
        Feature("device", "category", "context", width=8),
        Feature("completion", "number", "interaction", width=8),
        Feature("sessions", "number", "interaction", width=8),
        Feature("age", "number", "interaction", width=8),
    )
    return Config(name="benchmark", source=Tables(*tables, names), features=features)


def write_tables(folder: Path, events: int, seed: int = 0) -> None:
    """Write about `events` raw rows to `folder`.

    Popularity follows Zipf's law, activity is heavy-tailed, and some rows are invalid.
    """
    (folder / "interactions").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    runtime = np.round(rng.gamma(4.0, 15.0, TITLES) + 5.0, 1)
    runtime[-10:] = 0.0  # unknown
    genres = np.array([f"genre {i}" for i in range(20)])
    titles = {
        "title_id": _title_keys(np.arange(TITLES)),
        "runtime_minutes": runtime,
        "genres": [genres[g[: 1 + i % 4]].tolist() for i, g in enumerate(rng.integers(0, 20, (TITLES, 4)))],
        "release_year": rng.integers(1960, 2024, TITLES),
    }
    pl.DataFrame(titles).write_parquet(folder / "titles.parquet")
    users = max(round(events / EVENTS_A_USER), 1)
    keys = 10**9 + 7 * np.arange(users)
    countries = np.array([f"country {i:02d}" for i in range(40)])
    country = countries[np.minimum(rng.geometric(0.15, users) - 1, 39)]
    pl.DataFrame({"user_id": keys, "country": country}).write_parquet(folder / "users.parquet")
    popularity = np.cumsum(1.0 / np.arange(1, TITLES + 1) ** 0.9)
    for b, first in enumerate(range(0, users, _BLOCK_USERS)):
        block = _events(rng, keys[first : first + _BLOCK_USERS], popularity / popularity[-1], runtime)
        block.write_parquet(folder / "interactions" / f"{b:05d}.parquet")


def _title_keys(number: np.ndarray) -> np.ndarray:
    return np.char.add("t", np.char.zfill(number.astype(str), 5))


def _events(
    rng: np.random.Generator, users: np.ndarray, popularity: np.ndarray, runtime: np.ndarray
) -> pl.DataFrame:
    """Return the events of `users`, in random order."""
    mean = EVENTS_A_USER - 0.5  # before rounding up
    plays = np.ceil(rng.lognormal(np.log(mean) - 0.5, 1.0, len(users))).astype(np.int64)
    user = np.repeat(users, plays)
    n = len(user)
    title = np.searchsorted(popularity, rng.random(n))
    again = np.flatnonzero((rng.random(n) < 0.08)[1:] & (user[1:] == user[:-1])) + 1
    title[again] = title[again - 1]  # the user continues the title
    fraction = np.where(rng.random(n) < 0.15, 0.05 * rng.random(n), rng.beta(1.0, 0.7, n))
    seconds = np.round(fraction * np.maximum(runtime[title], 30.0) * 60.0, 1)
    time = _START_MS + rng.integers(0, _DAYS * 86_400, n) * 1000
    together = np.flatnonzero((rng.random(n) < 0.02)[1:] & (user[1:] == user[:-1])) + 1
    time[together] = time[together - 1]  # simultaneous events: neither is in the other's history
    devices = np.array(["tv", "phone", "tablet", "web", "console", ""])
    device = devices[np.searchsorted([0.45, 0.75, 0.85, 0.95, 0.99], rng.random(n))]
    unknown, early, negative, absent, copied = rng.random((5, n)) < 0.001
    time[early] = 0
    seconds[negative] *= -1.0
    seconds[absent] = np.nan
    title[unknown] = TITLES + 7
    order = rng.permutation(np.concatenate([np.arange(n), np.flatnonzero(copied)]))
    columns = {
        "user_id": user,
        "title_id": _title_keys(np.arange(TITLES + 8))[title],
        "started_at": time,
        "seconds_viewed": seconds,
        "device": device,
    }
    return pl.DataFrame({name: column[order] for name, column in columns.items()})


def ours(folder: Path, out: Path) -> Dataset:
    """Prepare the tables in `folder` to `out`, which is deleted first."""
    shutil.rmtree(out, ignore_errors=True)
    config = config_of(folder)
    prepare(open_source(config.source, config.features), config, str(out))
    return Dataset(out)


def peer(folder: Path, keyed: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """Prepare the tables with pandas; return split -> field -> rows.

    Args:
        folder: Folder of the tables.
        keyed: True to draw as jaxrec does; False to draw from NumPy's generator.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        from benchmarks.peers import pandas_prepare
    except ImportError as e:
        raise InputError(f"{e.name} is not installed; the peers need pip install '.[peers]'") from e
    draws = pandas_prepare.Keyed(0) if keyed else pandas_prepare.Generator(0)
    return pandas_prepare.prepare(folder, config_of(folder), draws)


def differing(dataset: Dataset, peers: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Return the fields, as "split.field", in which a peer's rows differ from ours."""
    names = []
    for split in SPLITS:
        rows = dataset.rows(split).all()
        ours_by_name, theirs = {name: rows[name] for name in rows.dtype.names or ()}, peers[split]
        names += [f"{split}.{name}" for name in sorted(set(ours_by_name) ^ set(theirs))]
        for name in sorted(set(ours_by_name) & set(theirs)):
            if not np.array_equal(
                ours_by_name[name], theirs[name], equal_nan=ours_by_name[name].dtype.kind == "f"
            ):
                names.append(f"{split}.{name}")
    return names


def measure_alone() -> None:
    """Print seconds, rows and peak memory of a preparation as JSON.

    The function runs in its own process: `python -c ... FOLDER OUT`.
    """
    started = time.perf_counter()
    dataset = ours(Path(sys.argv[1]), Path(sys.argv[2]))
    seconds = time.perf_counter() - started
    examples = sum(split["examples"] for split in dataset.manifest["splits"].values())
    figures = {
        "seconds": seconds,
        "events": dataset.manifest["rows"]["read"],
        "examples": examples,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(figures))


def peak_bytes() -> int:
    """Return the largest memory of this process; ru_maxrss includes that of the parent at the fork."""
    [peak] = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")
    ]
    return int(peak.split()[1]) * 1024


def _alone(folder: Path, out: Path) -> dict:
    code = "from benchmarks.prepare import measure_alone; measure_alone()"
    process = subprocess.run(
        [sys.executable, "-c", code, str(folder.resolve()), str(out.resolve())],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


def main(args: flags.FlagValues) -> Report:
    sizes = [parse_size(text, "events") for text in args.events]
    figures: dict = {"alone": []}
    with tempfile.TemporaryDirectory(prefix="jaxrec-prepare-", dir=args.scratch or None) as scratch:
        root = Path(scratch)
        small_folder, raced_folder, out = root / "small", root / "raced", root / "prepared"
        rows = []
        if args.peer_events:
            write_tables(small_folder, 3_000)
            differences = differing(ours(small_folder, out), peer(small_folder, keyed=True))
            if differences:
                raise InputError(
                    f"the pandas rows differ from ours in {', '.join(differences)}; allowed: equal rows"
                )
            write_tables(raced_folder, args.peer_events)
            rivals = {"ours": lambda: ours(raced_folder, out), "pandas": lambda: peer(raced_folder)}
            timings = interleaved(rivals, args.rounds, warmup=0)  # the small size above was the warm-up
            times = ratio(timings["pandas"], timings["ours"])
            events = ours(raced_folder, out).manifest["rows"]["read"]
            rates = {name: timing.rate(events) for name, timing in timings.items()}
            figures |= {"raced_events": events, "events_a_second": rates, "times_pandas": times}
            rows = [
                (
                    f"{name}, {events:,} events",
                    spread(rate, "events/s", 0),
                    f"{args.rounds} rounds, in turn",
                )
                for name, rate in rates.items()
            ]
            rows += [("ours over pandas", spread(times, "times", 1), "target: 10")]
        for size in sizes:
            folder = root / f"{size}"
            write_tables(folder, size)
            alone = _alone(folder, out)
            figures["alone"].append(alone)
            rows.append(
                (
                    f"{alone['events']:,} events, {alone['examples']:,} examples",
                    f"{alone['seconds']:.1f} s, {alone['events'] / alone['seconds']:,.0f} events/s",
                    f"peak {alone['peak_bytes'] / 2**30:.2f} GiB, one run",
                )
            )
            shutil.rmtree(folder)
            shutil.rmtree(out)
    return Report("prepare", figures, rows)


def parse_size(text: str, key: str) -> int:
    """Return a number of events, at least 1000.

    Args:
        text: Number, such as "5.5e6".
        key: Name of its flag, for the error message.

    Raises:
        InputError: It is no such number.
    """
    try:
        size = int(float(text))
    except (ValueError, OverflowError):
        size = 0
    if size < 1000:
        raise InputError(f"--{key}={text}; allowed: comma-separated numbers of at least 1000, such as 5.5e6")
    return size


def _flags() -> None:
    flags.DEFINE_list("events", ["5e5", "5.5e6"], "sizes to prepare without the peer")
    flags.DEFINE_integer("peer_events", 50_000, "size to prepare in turn with pandas; 0: none", lower_bound=0)
    flags.DEFINE_integer("rounds", 3, "rounds with pandas", lower_bound=1)
    flags.DEFINE_string("scratch", "", "folder for temporary files; empty: the system's")


if __name__ == "__main__":
    run(main, _flags)
