"""Simulation of the strategies of a scenario, and their comparison with the closed forms."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.live_events import equations as eq
from jaxrec.live_events.fleet import cohorts
from jaxrec.live_events.fleet.draws import Drawn, draw
from jaxrec.live_events.fleet.prefetching import Prefetched, prefetch
from jaxrec.live_events.fleet.requests import Calendar, run_service
from jaxrec.live_events.fleet.results import summary
from jaxrec.live_events.fleet.strategies import (
    BROADCAST,
    STRATEGIES,
    StrategyRun,
    broadcasting,
    fetching,
    online_list,
)
from jaxrec.live_events.planning import UpdatePlan, make_plan
from jaxrec.live_events.scenario import Faults, LiveConfig

# Each fault of a table alone, in the amounts of the scenario; `all` has all of them.
FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "loss 5%": {"loss": 0.05},
    "loss 10%": {"loss": 0.1},
    "duplicates": {"duplicates": 0.1},
    "reordering to 30 s": {"reorder_s": 30.0},
    "a region drops": {"drop": "*"},
    "its gateways refuse for 10 s": {"drop": "*", "gateway_down_s": 10.0},
    "router down 10 s": {"router_down_s": 10.0},
    "repeated seq": {"repeated_seq": True},
    "start 20 min late": {"late_s": 1_200.0},
    "end 30 min early": {"early_s": 1_800.0},
    "clocks off by 2 min": {"clock_s": 120.0},
    "5% old, start late": {"old_version": 0.05, "late_s": 1_200.0},
}
MOST_INDIVIDUALS = 10**7


class Simulation(NamedTuple):
    """Simulated strategies of one scenario: the plan, prefetching, outcomes, and their figures."""

    plan: UpdatePlan
    prefetched: Prefetched | None
    outcomes: list[StrategyRun]
    rows: list[dict[str, Any]]


def simulate(config: LiveConfig, strategies: Sequence[str] = STRATEGIES) -> Simulation:
    """Simulate strategies, device by device up to MOST_INDIVIDUALS, and by cohorts beyond.

    Raises:
        InputError: A strategy is unknown, or a scenario of cohorts has faults.
        RunError: The scenario has no plan.
    """
    for strategy in strategies:
        if strategy not in STRATEGIES:
            raise InputError(f"--strategy={strategy}; allowed: all, or some of {', '.join(STRATEGIES)}")
    by_cohorts = config.audience.devices > MOST_INDIVIDUALS
    if by_cohorts:
        cohorts.check_no_faults(config)
    plan = make_plan(config)
    prefetched = None
    if BROADCAST in strategies:
        prefetched = (cohorts.prefetch_cohorts if by_cohorts else prefetch)(config, plan)
    outcomes, rows = [], []
    for strategy in strategies:
        if strategy == BROADCAST:
            assert prefetched is not None
            outcome = (cohorts.broadcasting_cohorts if by_cohorts else broadcasting)(config, plan, prefetched)
        else:
            outcome = (cohorts.fetching_cohorts if by_cohorts else fetching)(config, strategy, plan.jitter)
        outcomes.append(outcome)
        rows.append(summary(config, outcome, prefetched if strategy == BROADCAST else None))
    return Simulation(plan, prefetched, outcomes, rows)


def with_faults(config: LiveConfig, name: str) -> LiveConfig:
    """Return a scenario with the faults of a name of FAULTS, or with `all` of them; `config` stays."""
    chosen = FAULTS[name] if name != "all" else {k: v for one in FAULTS.values() for k, v in one.items()}
    changed = copy.deepcopy(config)
    changed.faults = Faults(**chosen)
    if changed.faults.drop:
        changed.faults.drop = max(config.audience.regions, key=lambda region: region.share).name
    return changed


def closed_forms(config: LiveConfig, simulation: Simulation) -> dict[str, tuple[float, float]]:
    """Return the simulated value and the closed form of five quantities, for a scenario without faults.

    The fill is that of devices that all start to fetch at the trigger; in the update they start as the
    broadcast reaches them.
    """
    plan, prefetched = simulation.plan, simulation.prefetched
    assert prefetched is not None
    devices = online_list(config)
    missing = np.flatnonzero(~prefetched.covered[devices])
    calendar, ends = Calendar(), [0.0]
    calendar.push(
        plan.fill_s * draw(config.seed, Drawn.FILL, devices[missing]),
        missing,
        np.zeros(len(missing), np.int64),
    )

    def served(times: np.ndarray, who: np.ndarray) -> None:
        ends.append(float(times[-1]))

    rate, queue = eq.free_requests(config), config.capacity.queue_s
    run_service(calendar, rate, queue, config.retries, config.seed, 3_600, served)
    outcome = next(o for o in simulation.outcomes if o.strategy == BROADCAST)
    return {
        "prefetch load, requests/s": (
            prefetched.sessions / plan.window_s,
            eq.prefetch_load(config, plan.window_s),
        ),
        "covered": (float(prefetched.covered.mean()), plan.covered),
        "broadcast, s": (outcome.broadcast_s, plan.broadcast_s),
        "fill, s": (max(ends), plan.fill_s),
        "misses/s": (prefetched.misses, plan.misses),
    }
