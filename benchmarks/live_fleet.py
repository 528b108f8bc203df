"""Strategies of a live event, its faults, closed forms, and the speed of the simulation.

    python -m benchmarks.live_fleet [--devices 1000000] [--seeds 10] [--json F]

Prints the tables of `benchmarks/results/live.md`: the four strategies with capacities as in
`configs/live.py`, halved and doubled; each fault alone and all together over seeds, with the median and the
worst seed; the same fleet by cohorts at 100 times the devices.
"""

import copy
import time
from typing import Any

import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.config.loading import load_file
from jaxrec.core.errors import RunError
from jaxrec.live_events.fleet.prefetching import prefetch
from jaxrec.live_events.fleet.results import SHARES, past_capacity, summary, table
from jaxrec.live_events.fleet.simulation import FAULTS, closed_forms, simulate, with_faults
from jaxrec.live_events.fleet.strategies import STRATEGIES, broadcasting
from jaxrec.live_events.planning import make_plan
from jaxrec.live_events.scenario import LiveConfig


def _flags() -> None:
    flags.DEFINE_integer("devices", 1_000_000, "devices that are simulated one by one", lower_bound=50_000)
    flags.DEFINE_integer(
        "cohorts", 100_000_000, "devices that are simulated by cohorts", lower_bound=10**7 + 1
    )
    flags.DEFINE_integer("seeds", 10, "seeds of each fault", lower_bound=1)


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


def faults(config: LiveConfig, seeds: int) -> list[dict[str, Any]]:
    """Return the figures of each fault and of all together: the median seed by time to 99%, and the worst."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*FAULTS, "all")}
    for seed in range(seeds):
        one = copy.deepcopy(config)
        one.seed = seed
        plan = make_plan(one)
        prefetched = prefetch(one, plan, count_misses=False)
        for name, results in runs.items():
            faulty = with_faults(one, name)
            row = summary(faulty, broadcasting(faulty, plan, prefetched), prefetched)
            results.append(row | {"strategy": name, "past": past_capacity(row)})
    rows = []
    for results in runs.values():
        results.sort(key=lambda row: row["seconds"]["99"])
        middle = results[len(results) // 2]
        worst = {
            "seconds": {k: round(max(r["seconds"][k] or np.inf for r in results), 1) for k in SHARES},
            "spoilers": max(r["spoilers"] for r in results),
            "past": sorted({name for r in results for name in r["past"]}),
        }
        rows.append(middle | {"worst": worst})
    return rows


def main(args: flags.FlagValues) -> Report:
    """Simulate, print the tables, and return the closed forms and the speeds."""
    config = scenario(args.devices)
    rows, speed = strategies(config)
    print(table(rows), "\n")
    print("past their capacity:", {row["strategy"]: row["past"] for row in rows if row["past"]}, "\n")
    forms = closed_forms(config, simulate(config, (STRATEGIES[-1],)))
    faulty = faults(config, args.seeds)
    print(table(faulty), "\n")
    for row in faulty:
        print(f"worst of {args.seeds} seeds, {row['strategy']}: {row['worst']}")
    started = time.perf_counter()
    many = simulate(scenario(args.cohorts))
    seconds = time.perf_counter() - started
    print("\n" + table(many.rows), "\n")
    lines = [
        (name, f"{value:.5g}", f"{expected:.5g} ({value / expected - 1:+.2%})")
        for name, (value, expected) in forms.items()
    ]
    scale = args.cohorts / args.devices
    lines += speed
    lines += [
        (f"{row['strategy']}, cohorts: peak over that of individuals x {scale:g}",
         f"{row['peak_requests'] / scale / alone['peak_requests'] - 1:+.2%}",
         f"{row['peak_requests']:,.0f} requests/s")
        for row, alone in zip(many.rows, rows, strict=False)
    ]  # fmt: skip
    lines.append((f"{args.cohorts:,} devices by cohorts", f"{seconds:.1f} s", "all strategies"))
    figures = {"closed_forms": forms, "strategies": rows, "faults": faulty, "cohorts": many.rows}
    return Report(f"Live events, {args.devices:,} devices", figures, lines)


if __name__ == "__main__":
    run(main, _flags)
