"""Preparation with signals and labels: seconds and peak memory beside those of the plays alone.

The log is that of `benchmarks.prepare`. As many other events, half of them thumbs and half trailers, are in
two tables of their own. Each form is prepared in turn, in a process of its own.

    python -m benchmarks.signals --events 5.5e6
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

from benchmarks import prepare
from benchmarks.command import Report, run, spread
from benchmarks.measure import Timing, ratio
from jaxrec.config.schema import Config, Label, Signal
from jaxrec.data.runners import local
from jaxrec.data.storage.dataset import Dataset
from jaxrec.sources import open_source

ALONE, SIGNALS, LABELS = FORMS = ("plays alone", "with signals", "with signals and five labels")
_DAY_MS = 86_400_000


def config_of(folder: Path, form: str) -> Config:
    """Return the config of a form, one of `FORMS`."""
    config = prepare.config_of(folder)
    if form != ALONE:
        config.signals = (
            Signal("thumb", "sign", table=str(folder / "thumb.parquet")),
            Signal("trailer", "seconds", table=str(folder / "trailer.parquet")),
        )
    if form == LABELS:
        config.labels = (
            Label("thumb", "last", "thumb", hours=168),
            Label("trailers", "count", "trailer"),
            Label("finished", "at_least", hours=168, at=0.9),
            Label("returned", "returned", hours=168),
            Label("discovery", "discovery", feature="genres"),
        )
    return config


def write_tables(folder: Path, events: int, seed: int = 0) -> None:
    """Write a log of about `events` plays, and as many events of two signals, within a day of a play."""
    prepare.write_tables(folder, events, seed)
    log = pl.read_parquet(folder / "interactions" / "*.parquet")
    rng = np.random.default_rng(seed + 1)
    for name, values in (("thumb", np.array([-1.0, 1.0])), ("trailer", np.arange(5.0, 61.0))):
        rows = rng.integers(0, log.height, log.height // 2)
        table = log[rows].select("user_id", "title_id", "started_at")
        later = table["started_at"] + pl.Series(rng.integers(0, _DAY_MS, len(rows)))
        value = pl.Series("value", rng.choice(values, len(rows)))
        table.with_columns(later.alias("started_at"), value).write_parquet(folder / f"{name}.parquet")


def measure_form() -> None:
    """Print seconds, events and peak memory of one preparation as JSON: `python -c ... FOLDER OUT FORM`."""
    folder, out, form = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = config_of(folder, form)
    started = time.perf_counter()
    source = open_source(config.source, config.features, config.data.path, config.signals)
    local.prepare(source, config, str(out))
    seconds, manifest = time.perf_counter() - started, Dataset(out).manifest
    events = sum(signal["read"] for signal in manifest.get("signals", {}).values())
    figures = {"seconds": seconds, "plays": manifest["rows"]["read"], "events": events}
    print(json.dumps(figures | {"peak_bytes": prepare.peak_bytes()}))


def in_process(folder: Path, out: Path, form: str) -> dict:
    """Return the figures of one preparation in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    code = "from benchmarks.signals import measure_form; measure_form()"
    line = [sys.executable, "-c", code, str(folder.resolve()), str(out.resolve()), form]
    process = subprocess.run(
        line, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(process.stdout)


def main(args: flags.FlagValues) -> Report:
    size = prepare.parse_size(args.events, "events")
    with tempfile.TemporaryDirectory(prefix="jaxrec-signals-", dir=args.scratch or None) as scratch:
        folder, out = Path(scratch) / "tables", Path(scratch) / "prepared"
        write_tables(folder, size)
        measured: dict[str, list[dict]] = {form: [] for form in FORMS}
        for _ in range(args.rounds):
            for form in FORMS:
                measured[form].append(in_process(folder, out, form))
    rows, figures = [], {}
    timing = {form: Timing(tuple(one["seconds"] for one in runs)) for form, runs in measured.items()}
    for form, runs in measured.items():
        times = ratio(timing[form], timing[ALONE])
        rate = timing[form].rate(runs[0]["plays"] + runs[0]["events"])
        peak = max(one["peak_bytes"] for one in runs)
        figures[form] = {"seconds": timing[form].seconds, "times_plays_alone": times, "peak_bytes": peak}
        what = f"{form}: {runs[0]['plays']:,} plays, {runs[0]['events']:,} other events"
        median = f"median {timing[form].median:.1f} s, peak {peak / 2**30:.2f} GiB"
        rows.append((what, spread(rate, "events/s", 0), median))
        if form != ALONE:
            rows.append((f"{form}, over plays alone", spread(times, "times", 2), "target: 1.5"))
    return Report("signals", figures, rows)


def _flags() -> None:
    flags.DEFINE_string("events", "5.5e6", "plays, and as many other events")
    flags.DEFINE_integer("rounds", 3, "rounds of all forms in turn", lower_bound=1)
    flags.DEFINE_string("scratch", "", "folder for temporary files; empty: the system's")


if __name__ == "__main__":
    run(main, _flags)
