"""Time from the start of a process to the first step of a day's update, with new titles and without.

    python -m benchmarks.day_start [--rounds 3] [--json F]

Both updates start from the run of the same day and keep its optimizer. The one is on a later day, with the
titles launched since; the other is on the same day once more. Datasets are prepared before. Each update has
been run once before, so that its programs are in the compilation cache, and is then started again in an empty
workdir, in turn.
"""

import statistics
import tempfile
from pathlib import Path

from absl import flags

from benchmarks.command import Report, run, spread
from benchmarks.stage_start import first_step
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config, Simulator, Start
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import Dataset

WANTED = 0.5  # seconds that new titles may add
FIRST, SAME, GROWN = "first_day", "same_titles", "new_titles"
_UNTIL = {FIRST: "2025-01-06", SAME: "2025-01-06", GROWN: "2025-01-13"}


def _flags() -> None:
    flags.DEFINE_integer("rounds", 3, "starts of each update that are timed", lower_bound=1)


def days(folder: Path) -> dict[str, Config]:
    """Return the configs of the first day and of both updates, with a line of metrics for each step."""
    out = {}
    for name, until in _UNTIL.items():
        config = load_config("configs/tiny.py")
        assert isinstance(config.source, Simulator)
        config.source.users, config.source.titles, config.source.launches = 2000, 1500, 0.4
        config.data.directory, config.data.capacity = str(folder / f"data-{name}"), 2048
        config.data.until, config.data.since = until, "2024-12-30"
        config.train.duration, config.train.log_seconds = "20 steps", 1e-9
        config.evaluate.report = False
        if name != FIRST:
            config.data.continues, config.data.replay = str(folder / f"data-{FIRST}"), 0.1
            config.start = Start(str(folder / FIRST), "last", optimizer="kept")
        out[name] = config
    return out


def measure(folder: Path, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Return the seconds to the first step of both updates, and the number of new titles."""
    configs, titles = days(folder), {}
    for name, config in configs.items():
        ensure_dataset(config, config.data.directory)
        titles[name] = len(Dataset(config.data.directory).arrays.title_key)
        first_step(config, folder / name)  # the updates start from the workdir of the first day
    out: dict[str, list[float]] = {SAME: [], GROWN: []}
    for i in range(rounds):
        for name in out:
            out[name].append(first_step(configs[name], folder / f"{name}-{i}"))
    return out, titles[GROWN] - titles[FIRST]


def main(args: flags.FlagValues) -> Report:
    """Time both updates."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, new = measure(Path(folder), args.rounds)
    figures = {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in seconds.items()
    }
    added = figures[GROWN]["median"] - figures[SAME]["median"]
    rows = [
        ("update without new titles, process start to first step", spread(figures[SAME], "s"), "-"),
        (f"update with {new:,} new titles", spread(figures[GROWN], "s"), "-"),
        ("new titles add", f"{added:+.2f} s", f"at most {WANTED:g} s"),
    ]
    return Report("Start of a day", {"seconds": figures, "added": added, "new_titles": new}, rows)


if __name__ == "__main__":
    run(main, _flags)
