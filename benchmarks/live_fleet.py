"""Strategies of a live event, its faults, closed forms, and the speed of the simulation.

    python -m benchmarks.live_fleet [--parts all] [--devices 1000000] [--seeds 10] [--json F]

Prints the tables of `benchmarks/results/live.md`, by parts: the four strategies with capacities as in
`configs/live.py`, halved and doubled; closed forms; each fault alone and all together over seeds, with the
median and the worst seed; the same fleet by cohorts at 100 times the devices; and the peaks of individuals
and of cohorts over seeds.
"""

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.config.loading import load_file
from jaxrec.core.errors import RunError
from jaxrec.live_events.fleet.cohorts import broadcasting_cohorts, fetching_cohorts, prefetch_cohorts
from jaxrec.live_events.fleet.prefetching import prefetch
from jaxrec.live_events.fleet.results import SHARES, past_capacity, summary, table
from jaxrec.live_events.fleet.simulation import FAULTS, closed_forms, simulate, with_faults
from jaxrec.live_events.fleet.strategies import BROADCAST, STRATEGIES, broadcasting, fetching
from jaxrec.live_events.planning import make_plan
from jaxrec.live_events.scenario import LiveConfig


def _flags() -> None:
    flags.DEFINE_integer("devices", 1_000_000, "devices that are simulated one by one", lower_bound=50_000)
    flags.DEFINE_integer(
        "cohorts", 100_000_000, "devices that are simulated by cohorts", lower_bound=10**7 + 1
    )
    flags.DEFINE_integer("seeds", 10, "seeds of each fault and of each peak", lower_bound=2)
    flags.DEFINE_multi_enum(
        "parts", ["all"], ["all", *_PARTS], "parts to simulate; may be there several times"
    )


def scenario(devices: int) -> LiveConfig:
    """Return the scenario of `configs/live.py` with a number of devices."""
    config = load_file("live", LiveConfig)
    config.audience.devices = devices
    return config


def with_capacity(config: LiveConfig, factor: float) -> LiveConfig:
    """Return a scenario with a multiple of the requests and messages that services bear."""
    changed = copy.deepcopy(config)
    for name in ("requests", "base", "messages"):
        setattr(changed.capacity, name, factor * getattr(config.capacity, name))
    return changed


def strategies(config: LiveConfig) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Return the figures of the four strategies at three capacities, and rows of speed."""
    rows, speed = [], []
    for factor in (1.0, 0.5, 2.0):
        for strategy in STRATEGIES:
            started = time.perf_counter()
            try:
                (row,) = simulate(with_capacity(config, factor), (strategy,)).rows
            except RunError as error:
                print(f"capacity x {factor:g}, {strategy}: {error}")
                continue
            seconds = time.perf_counter() - started
            rows.append(row | {"strategy": f"{strategy}, x {factor:g}", "past": past_capacity(row)})
            if factor == 1.0:
                rate = row["events"] / seconds
                speed.append((f"{strategy}: device events/s", f"{rate:,.0f}", f"{row['events']:,} events"))
    return rows, speed


def faults_of_seed(config: LiveConfig, seed: int) -> list[dict[str, Any]]:
    """Return the figures of each fault and of all together for a seed."""
    one = copy.deepcopy(config)
    one.seed = seed
    plan = make_plan(one)
    prefetched, rows = prefetch(one, plan, count_misses=False), []
    for name in (*FAULTS, "all"):
        faulty = with_faults(one, name)
        row = summary(faulty, broadcasting(faulty, plan, prefetched), prefetched)
        rows.append(row | {"strategy": name, "past": past_capacity(row)})
    return rows


def faults(runs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the figures of each fault: the median seed by time to 99%, and the worst of the seeds."""
    rows = []
    for of_fault in zip(*runs, strict=True):
        results = sorted(of_fault, key=lambda row: row["seconds"]["99"])
        middle = results[len(results) // 2]
        worst = {
            "seconds": {k: round(max(r["seconds"][k] or np.inf for r in results), 1) for k in SHARES},
            "spoilers": max(r["spoilers"] for r in results),
            "past": sorted({name for r in results for name in r["past"]}),
        }
        rows.append(middle | {"worst": worst})
    return rows


def peaks_of(config: LiveConfig, strategy: str, seeds: int, by_cohorts: bool) -> tuple[np.ndarray, float]:
    """Return the peak of each seed in requests a second, and the largest second of the mean over seeds.

    The peak of a seed is the largest of some noisy seconds, and above the largest mean.
    """
    loads, base = [], 0.0
    for seed in range(seeds):
        one = copy.deepcopy(config)
        one.seed = seed
        plan = make_plan(one)
        if strategy != BROADCAST:
            outcome = (fetching_cohorts if by_cohorts else fetching)(one, strategy, plan.jitter)
        elif by_cohorts:
            outcome = broadcasting_cohorts(one, plan, prefetch_cohorts(one, plan))
        else:
            outcome = broadcasting(one, plan, prefetch(one, plan, count_misses=False))
        log, base = outcome.service, outcome.base
        assert log is not None
        loads.append(np.concatenate([np.zeros(log.first_s, np.int64), log.offered]))
    mean = np.mean([np.pad(load, (0, max(map(len, loads)) - len(load))) for load in loads], axis=0)
    return base + np.array([load.max() for load in loads]), base + float(mean.max())


def peaks(devices: int, many: int, seeds: int) -> list[dict[str, Any]]:
    """Return the peaks of individuals and of cohorts, of all strategies and for several numbers of devices.

    Requests a second are those of `devices` devices.
    """
    kinds = [(strategy, devices, False) for strategy in STRATEGIES]
    kinds += [(BROADCAST, int(factor * devices), False) for factor in (0.05, 0.2, 4)]
    kinds += [(BROADCAST, devices, True), *((strategy, many, True) for strategy in STRATEGIES)]
    rows = []
    for strategy, size, by_cohorts in kinds:
        # The peaks of many devices hardly differ by seed.
        of_seeds, of_mean = peaks_of(scenario(size), strategy, 2 if size == many else seeds, by_cohorts)
        scale, error = devices / size, float(of_seeds.std(ddof=1) / len(of_seeds) ** 0.5)
        rows.append({
            "strategy": strategy, "devices": size, "form": "cohorts" if by_cohorts else "individuals",
            "peak": scale * float(of_seeds.mean()), "error": scale * error, "peak_of_mean": scale * of_mean,
        })  # fmt: skip
        line = "| {strategy} | {form} | {devices:,} | {peak:,.0f} | {error:,.1f} | {peak_of_mean:,.0f} |"
        print(line.format(**rows[-1]))
    return rows


def _strategies(args: flags.FlagValues) -> tuple[Any, list[tuple[str, str, str]]]:
    rows, speed = strategies(scenario(args.devices))
    print(table(rows), "\n")
    print("past their capacity:", {row["strategy"]: row["past"] for row in rows if row["past"]}, "\n")
    return rows, speed


def _closed_forms(args: flags.FlagValues) -> tuple[Any, list[tuple[str, str, str]]]:
    config = scenario(args.devices)
    forms = closed_forms(config, simulate(config, (BROADCAST,)))
    return forms, [
        (name, f"{value:.5g}", f"{expected:.5g} ({value / expected - 1:+.2%})")
        for name, (value, expected) in forms.items()
    ]


def _faults(args: flags.FlagValues) -> tuple[Any, list[tuple[str, str, str]]]:
    rows = faults([faults_of_seed(scenario(args.devices), seed) for seed in range(args.seeds)])
    print(table(rows), "\n")
    for row in rows:
        print(f"worst of {args.seeds} seeds, {row['strategy']}: {row['worst']}")
    return rows, []


def _cohorts(args: flags.FlagValues) -> tuple[Any, list[tuple[str, str, str]]]:
    started = time.perf_counter()
    many = simulate(scenario(args.cohorts))
    seconds = time.perf_counter() - started
    print("\n" + table(many.rows), "\n")
    return many.rows, [(f"{args.cohorts:,} devices by cohorts", f"{seconds:.1f} s", "all strategies")]


def _peaks(args: flags.FlagValues) -> tuple[Any, list[tuple[str, str, str]]]:
    rows = peaks(args.devices, args.cohorts, args.seeds)
    alone = {row["strategy"]: row for row in rows[: len(STRATEGIES)]}
    lines = []
    for row in rows[-len(STRATEGIES) :]:
        of = alone[row["strategy"]]
        mean, largest = row["peak_of_mean"] / of["peak_of_mean"] - 1, row["peak"] / of["peak"] - 1
        name = f"{row['strategy']}: {args.cohorts:,} devices by cohorts over individuals, scaled"
        lines.append(
            (name, f"{mean:+.2%}", f"largest second of the mean; {largest:+.2%} of the seeds' peaks")
        )
    return rows, lines


_PARTS = {
    "strategies": _strategies, "closed_forms": _closed_forms, "faults": _faults, "cohorts": _cohorts,
    "peaks": _peaks,
}  # fmt: skip


def main(args: flags.FlagValues) -> Report:
    """Simulate the parts, print their tables, and return the closed forms, speeds and peaks."""
    figures, lines = {}, []
    for part in _PARTS if args.parts == ["all"] else args.parts:
        figures[part], of_part = _PARTS[part](args)
        lines += of_part
    return Report(f"Live events, {args.devices:,} devices", figures, lines)


if __name__ == "__main__":
    run(main, _flags)
