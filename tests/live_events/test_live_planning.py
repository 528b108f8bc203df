"""The planner against brute force over a fine grid, and closed forms against numbers worked out apart."""

import copy
import random

import numpy as np
import pytest

from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError, RunError
from jaxrec.live_events import equations as eq
from jaxrec.live_events.planning import (
    CAPS,
    binding,
    make_plan,
    plan_document,
    plan_text,
    violations,
    with_more,
)
from jaxrec.live_events.scenario import LiveConfig, Region, SlateQuality, check_scenario


@pytest.fixture
def scenario() -> LiveConfig:
    """The scenario of `configs/live.py`."""
    config = load_file("live", LiveConfig)
    check_scenario(config)
    return config


def random_scenario(seed: int) -> LiveConfig:
    """Return a scenario whose capacities are plentiful, tight or too small."""
    d = random.Random(seed)
    config = load_file("live", LiveConfig)
    a, c, t, p = config.audience, config.capacity, config.times, config.payload
    a.devices = d.choice((20_000, 300_000, 5_000_000))
    a.online, a.sessions_per_day = d.uniform(0.05, 0.9), d.uniform(0.3, 6)
    a.evening_peak, a.peak_hour = d.uniform(1, 4), d.uniform(12, 23.9)
    a.regions = tuple(Region(f"r{i}", 1 / n) for n in [d.randint(1, 6)] for i in range(n))
    c.requests = 10 ** d.uniform(-3.8, -2)
    c.base = c.requests * d.uniform(0, 0.8)
    c.messages = 10 ** d.uniform(-2.5, -1)
    c.node_messages = d.choice((100.0, 1_000.0, 20_000.0))
    c.origin = 10 ** d.uniform(-0.5, 3)
    c.cache_bytes = int(10 ** d.uniform(4.5, 8))
    t.start_hour, t.prefetch_hours = d.uniform(0, 23.9), d.uniform(0.5, 40)
    t.ttl_s, t.tolerance_s = d.uniform(300, 7_200), d.uniform(0, 2_400)
    t.deadline_s = d.choice((30.0, 60.0, 240.0))
    ndcg = sorted(d.uniform(0, 0.3) for _ in range(5))
    p.quality = tuple(SlateQuality(k, q) for k, q in zip((1, 8, 64, 256, 1024), ndcg, strict=True))
    check_scenario(config)
    return config


def brute_force(config: LiveConfig) -> tuple[float, float]:
    """Return the shortest update of a fine grid, and the largest NDCG of updates within 5% of it.

    All formulas are written here once more. Both are None where no point of the grid fits.
    """
    a, c, t, p = config.audience, config.capacity, config.times, config.payload
    n, regions = a.devices, len(a.regions)
    grid = np.linspace(0, t.prefetch_hours * 3600, 8_001)  # of windows, too; 18 s at most
    angle = 2 * np.pi * ((t.start_hour - a.peak_hour) * 3600 - grid) / 86_400
    day = 2 * np.pi * np.arange(4_000) / 4_000
    low, high = 0.0, 50.0
    for _ in range(60):  # the concentration whose curve has the wanted peak over its mean
        k = (low + high) / 2
        low, high = (k, high) if np.exp(k) / np.exp(k * np.cos(day)).mean() < a.evening_peak else (low, k)
    rate = a.sessions_per_day / 86_400 * np.exp(low * np.cos(angle)) / np.exp(low * np.cos(day)).mean()
    area = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(grid))])
    sessions, peaks = area[1:], np.maximum.accumulate(rate)[1:]
    jitters = np.linspace(0.5 / 4_000, 0.5, 4_000)
    jitters = jitters[t.ttl_s * (1 - jitters) >= t.tolerance_s]
    shards = np.arange(1, int(n * c.messages / c.node_messages) + 1)
    if not len(jitters) or not len(shards):
        return None, None
    broadcast = (shards / c.router_messages + n * a.online / (shards * c.node_messages) + c.latency_s).min()
    refreshes = (a.online / (2 * jitters * t.ttl_s)).min()  # the load is the sum of terms of each
    served = n * (c.base + peaks + refreshes) <= n * c.requests
    updates, values = [], []
    for quality in p.quality:
        if quality.kappa * p.stages * p.slate_bytes > c.cache_bytes:
            continue
        if quality.kappa * regions / t.ttl_s > c.origin:
            continue
        fill = np.exp(-sessions) * a.online / (c.requests - c.base)
        update = np.maximum(broadcast, np.maximum(fill, quality.kappa * regions / c.origin))
        updates += [*update[served]]
        values += [quality.ndcg] * int(served.sum())
    updates, values = np.array(updates), np.array(values)
    if not len(updates) or updates.min() > t.deadline_s:
        return None, None
    near = updates <= min(1.05 * updates.min(), t.deadline_s)
    return updates.min(), values[near].max()


def compared(seeds: range) -> tuple[int, int]:
    """Compare plans with brute force; return the numbers of plans and of scenarios without one."""
    counts = [0, 0]
    for seed in seeds:
        config = random_scenario(seed)
        shortest, ndcg = brute_force(config)
        if shortest is None:
            with pytest.raises(RunError, match=r"no plan: (capacity|times)\."):
                make_plan(config)
            counts[1] += 1
            continue
        plan = make_plan(config)
        assert violations(config, plan) == [], seed
        best = min(make_plan_of_one(config, q).update_s for q in allowed(config))
        assert abs(best / shortest - 1) < 0.01, seed
        assert plan.update_s <= min(1.05 * best, config.times.deadline_s) * (1 + 1e-9), seed
        # The grid's shortest time is a little longer than the exact one, and so is what is near to it.
        assert plan.ndcg >= ndcg or plan.update_s < 1.05 * shortest, seed
        counts[0] += 1
    return counts[0], counts[1]


def allowed(config: LiveConfig):
    """Yield the qualities of kappas for which there is a plan."""
    for quality in config.payload.quality:
        try:
            make_plan_of_one(config, quality)
        except RunError:
            continue
        yield quality


def make_plan_of_one(config: LiveConfig, quality: SlateQuality):
    """Return the plan of a single kappa."""
    one = copy.deepcopy(config)
    one.payload.quality = (quality,)
    return make_plan(one)


def test_plans_are_those_of_brute_force():
    plans, none = compared(range(40))
    assert plans >= 8 and none >= 8


@pytest.mark.slow
def test_plans_are_those_of_brute_force_long():
    plans, none = compared(range(1_000, 1_500))
    assert plans >= 100 and none >= 100


def test_the_curve_of_sessions_has_its_mean_and_its_peak(scenario):
    curve = eq.Curve(scenario)
    assert curve.sessions(eq.DAY_S) == pytest.approx(3, rel=1e-6)
    assert curve.largest_rate(eq.DAY_S) == pytest.approx(2.5 * 3 / eq.DAY_S, rel=1e-6)
    assert curve.times(np.array([1.2]))[0] == pytest.approx(
        np.interp(1.2, [curve.sessions(h * 60) for h in range(1500)], np.arange(1500) * 60), rel=1e-4
    )
    scenario.audience.evening_peak = 1.0
    assert eq.Curve(scenario).sessions(3_600) == pytest.approx(3 / 24, rel=1e-6)


def test_the_plan_of_the_scenario_by_hand(scenario):
    """Each day three sessions: 1 - e^-3 of devices; 20 nodes send 400,000 messages in 20 s."""
    document = plan_document(scenario)
    plan = document["plan"]
    assert plan["covered"] == pytest.approx(1 - np.exp(-3), rel=1e-5)
    assert plan["broadcast_s"] == pytest.approx(0.002 + 20 + 0.1) and plan["shards"] == 20
    assert plan["fill_s"] == pytest.approx(np.exp(-3) * 400_000 / 1_500, rel=1e-4)
    assert plan["kappa"] == 256 and document["binding"] == "capacity.messages"
    more = document["ten_percent_more"]
    assert more["capacity.messages"]["seconds"] == pytest.approx(20 - 20 / 1.1, abs=0.01)
    assert [cap for cap, gain in more.items() if gain["seconds"]] == ["capacity.messages"] and [*more] == [
        *CAPS
    ]
    assert {one["kappa"] for one in document["pareto"]} == {256, 1024}  # the origin fills 1,024 in 31 s
    assert "bound by capacity.messages" in plan_text(document)


def test_the_window_ends_where_the_service_bears_no_more(scenario):
    """A start twelve hours after the peak: the window reaches back to where mu is all that is left."""
    scenario.audience.peak_hour, scenario.times.deadline_s = 8.0, 2_000.0
    scenario.capacity.requests, scenario.capacity.base = 0.00026, 0.0001
    plan = make_plan(scenario)
    left = 0.00026 - 0.0001 - 0.4 / 3_600
    assert violations(scenario, plan) == [] and plan.window_s < 12 * 3_600
    assert eq.Curve(scenario).largest_rate(plan.window_s) == pytest.approx(left, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "cap"),
    [
        ({"capacity.origin": 20.0}, "capacity.origin"),
        ({"capacity.requests": 0.0008, "times.deadline_s": 200.0}, "capacity.requests"),
    ],
)
def test_the_binding_capacity(scenario, change, cap):
    for key, value in change.items():
        group, name = key.split(".")
        setattr(getattr(scenario, group), name, value)
    scenario.payload.quality = tuple(q for q in scenario.payload.quality if q.kappa == 256)
    assert binding(scenario, make_plan(scenario)) == cap
    assert make_plan(with_more(scenario, cap, 1.1)).update_s < make_plan(scenario).update_s


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("capacity.requests", 0.0006, "capacity.requests: 697.917 of 600 at the least"),
        ("capacity.messages", 0.004, "capacity.messages: the broadcast takes 100.1 s of times.deadline_s=60"),
        ("capacity.messages", 0.0005, "capacity.messages=0.0005 must be 0.001 for a single node"),
        ("capacity.origin", 0.0005, "capacity.origin: 0.000833333 of 0.0005 at the least"),
        ("capacity.cache_bytes", 1_000, "capacity.cache_bytes: 20,480 of 1,000 at the least"),
        ("times.ttl_s", 600.0, "times.ttl_s=600 must be above times.tolerance_s=1200"),
        ("times.prefetch_hours", 1.0, "capacity.requests: the fill of the 0.735 of devices without a"),
    ],
)  # fmt: skip
def test_a_capacity_that_cannot_be_met_is_named(scenario, key, value, text):
    group, name = key.split(".")
    setattr(getattr(scenario, group), name, value)
    with pytest.raises(RunError) as error:
        make_plan(scenario)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("capacity.requests", 0.0, "capacity.requests=0.0 must be above 0"),
        ("capacity.base", 0.002, "capacity.base=0.002 must be below capacity.requests=0.002"),
        ("times.prefetch_hours", -1.0, "prefetching ends at the start"),
        ("audience.online", 1.5, "audience.online=1.5 must be at most 1"),
        ("audience.devices", 10, "audience.devices=10 must be between 1,000 and 10^9"),
        ("audience.regions", (Region("a", 0.5),), "have shares that add up to 1"),
        ("audience.regions", (Region("a", 0.5), Region("a", 0.5)), "have names that differ"),
        ("payload.quality", (), "hold the NDCG of at least one kappa"),
        ("payload.quality", (SlateQuality(4, 0.1), SlateQuality(1, 0.1)), "have rising kappas"),
        ("faults.loss", 1.0, "faults.loss=1.0 must be from 0 to below 1"),
        ("faults.drop", "mars", "faults.drop='mars' must be one of americas"),
        ("times.ttl_s", float("nan"), "times.ttl_s=nan must be a finite number"),
    ],
)
def test_a_wrong_scenario_is_refused(scenario, key, value, text):
    group, name = key.split(".")
    setattr(getattr(scenario, group), name, value)
    with pytest.raises(InputError) as error:
        check_scenario(scenario)
    assert text in str(error.value)
