"""Plan of an update: kappa, prefetch window, jitter, shards and fill window under all capacities.

The time of the update is the longer of broadcast and fill. The plan has the largest NDCG among those within
5% of the shortest time. For a kappa the best values are exact: a longer window covers more devices, and its
peak load only grows, so that the longest window that the service bears is found by bisection. A larger jitter
lowers the peak of refreshes and changes nothing else, so that it is as large as slates outlive the tolerance.
"""

import copy
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from jaxrec.core.errors import RunError
from jaxrec.live_events import equations as eq
from jaxrec.live_events.scenario import LiveConfig

SLACK = 1.05  # times of an update that count as equal, over the shortest
CAPS = {
    "capacity.requests": "requests a second of the service",
    "capacity.messages": "messages a second",
    "capacity.origin": "requests a second of the origin",
    "capacity.cache_bytes": "bytes of an edge cache",
    "times.prefetch_hours": "hours before the start",
}
_WINDOWS = 48  # windows of the Pareto set, for each kappa


@dataclasses.dataclass(frozen=True)
class UpdatePlan:
    """Values of a plan, and what follows from them.

    Attributes:
        kappa: Number of segments.
        window_s: Prefetch window T_p, seconds.
        jitter: Jitter j of the TTL.
        shards: Broadcast nodes.
        fill_s: Window over which devices without a slate fetch it, seconds.
        broadcast_s: Time until the last online device has the message, seconds.
        covered: Share of devices that hold the slate at the start.
        ndcg: NDCG@10 of the slates.
        peak: Largest requests a second of playback, prefetching and refreshes together.
        misses: Requests a second at the origin.
    """

    kappa: int
    window_s: float
    jitter: float
    shards: int
    fill_s: float
    broadcast_s: float
    covered: float
    ndcg: float
    peak: float
    misses: float

    @property
    def update_s(self) -> float:
        """Time of the update, seconds."""
        return max(self.broadcast_s, self.fill_s)


def make_plan(config: LiveConfig) -> UpdatePlan:
    """Return the plan of a scenario.

    Raises:
        RunError: A capacity cannot be met; the line names each such capacity and the amount that lacks.
    """
    plans = [plan for quality in config.payload.quality for plan in _best_of(config, quality.kappa)]
    shortest = min((plan.update_s for plan in plans), default=math.inf)
    if shortest > config.times.deadline_s:
        raise RunError("no plan: " + "; ".join(lacks(config)))
    longest = min(SLACK * shortest, config.times.deadline_s)
    return max((p for p in plans if p.update_s <= longest), key=lambda p: (p.ndcg, -p.update_s))


def plan_with(config: LiveConfig, kappa: int, window_s: float, jitter: float, shards: int) -> UpdatePlan:
    """Return the plan of chosen values, whether or not capacities bear it."""
    n = config.audience.devices
    share = eq.covered(config, window_s)
    load = eq.prefetch_peak(config, window_s) + eq.refresh_peak(config, jitter)
    return UpdatePlan(
        kappa=kappa,
        window_s=window_s,
        jitter=jitter,
        shards=shards,
        fill_s=eq.fill_seconds(config, 1 - share, kappa),
        broadcast_s=eq.broadcast_seconds(config, shards),
        covered=share,
        ndcg={q.kappa: q.ndcg for q in config.payload.quality}[kappa],
        peak=load + n * config.capacity.base,
        misses=eq.misses(config, kappa),
    )


def violations(config: LiveConfig, plan: UpdatePlan) -> list[str]:
    """Return the capacities that a plan exceeds, each with both values, the deadline aside."""
    checks = [
        ("capacity.requests", plan.peak, config.audience.devices * config.capacity.requests),
        ("capacity.origin", plan.misses, config.capacity.origin),
        ("capacity.cache_bytes", eq.edge_bytes(config, plan.kappa), config.capacity.cache_bytes),
        ("times.ttl_s (least TTL must outlive the tolerance)", plan.jitter, eq.largest_jitter(config)),
        ("times.prefetch_hours", plan.window_s / 3600, config.times.prefetch_hours),
        ("capacity.messages", plan.shards, eq.most_shards(config)),
    ]
    return [
        f"{name}: {needed:,.6g} of {cap:,.6g}" for name, needed, cap in checks if needed > cap * (1 + 1e-9)
    ]


def _shards(config: LiveConfig) -> int:
    """Return the number of nodes of the shortest broadcast: the sum of two terms, convex in the nodes."""
    c, most = config.capacity, eq.most_shards(config)
    free = (eq.online_devices(config) * c.router_messages / c.node_messages) ** 0.5
    around = {min(max(1, int(free) + d), most) for d in (0, 1)}
    return min(around, key=lambda shards: eq.broadcast_seconds(config, shards))


def _best_of(config: LiveConfig, kappa: int) -> Iterable[UpdatePlan]:
    """Yield the plan of the shortest update for a kappa, or nothing if no values fit the capacities."""
    jitter = eq.largest_jitter(config)
    if jitter <= 0 or eq.most_shards(config) < 1:
        return
    shards = _shards(config)

    def plan_of(window_s: float) -> UpdatePlan:
        return plan_with(config, kappa, window_s, jitter, shards)

    longest = config.times.prefetch_hours * 3600
    least = plan_of(min(1.0, longest))
    if violations(config, least):
        return
    if violations(config, plan_of(longest)):
        low, high = least.window_s, longest
        while high - low > 0.5:
            middle = (low + high) / 2
            low, high = (low, middle) if violations(config, plan_of(middle)) else (middle, high)
        longest = low
    yield plan_of(longest)


def lacks(config: LiveConfig) -> list[str]:
    """Return the capacities that no plan can meet, each with the amount that lacks.

    The values are those of the smallest kappa and the largest jitter, which need least.
    """
    t, jitter = config.times, eq.largest_jitter(config)
    if jitter <= 0:
        return [
            f"times.ttl_s={t.ttl_s:g} must be above times.tolerance_s={t.tolerance_s:g}: slates expire "
            "before a late start"
        ]
    if eq.most_shards(config) < 1:
        needed = config.capacity.node_messages / config.audience.devices
        return [f"capacity.messages={config.capacity.messages:g} must be {needed:.3g} for a single node"]
    kappa, shards = config.payload.quality[0].kappa, _shards(config)
    least = violations(config, plan_with(config, kappa, min(1.0, t.prefetch_hours * 3600), jitter, shards))
    if least:
        return [f"{text} at the least" for text in least]
    (best,) = _best_of(config, kappa)
    texts = []
    if best.broadcast_s > t.deadline_s:
        texts.append(
            f"capacity.messages: the broadcast takes {best.broadcast_s:.4g} s of times.deadline_s="
            f"{t.deadline_s:g}, {best.broadcast_s / t.deadline_s:.3g} times too long"
        )
    if best.fill_s > t.deadline_s:
        origin = kappa * len(config.audience.regions) / config.capacity.origin
        cap = "capacity.origin" if best.fill_s == origin else "capacity.requests"
        texts.append(
            f"{cap}: the fill of the {1 - best.covered:.3g} of devices without a slate takes "
            f"{best.fill_s:.4g} s of times.deadline_s={t.deadline_s:g}, "
            f"{best.fill_s / t.deadline_s:.3g} times too long"
        )
    return texts


def binding(config: LiveConfig, plan: UpdatePlan) -> str:
    """Return the capacity that bounds the time of a plan's update."""
    if plan.broadcast_s >= plan.fill_s:
        return "capacity.messages"
    if plan.fill_s > eq.fill_seconds(config, 1 - plan.covered, 0) * (1 + 1e-9):
        return "capacity.origin"
    return "capacity.requests"


def with_more(config: LiveConfig, cap: str, factor: float) -> LiveConfig:
    """Return a scenario with a multiple of a capacity.

    Args:
        config: Scenario; not modified.
        cap: Key of CAPS.
        factor: Multiple.
    """
    changed = copy.deepcopy(config)
    group, name = cap.split(".")
    value = getattr(getattr(changed, group), name)
    setattr(getattr(changed, group), name, type(value)(value * factor))
    return changed


def gains(config: LiveConfig, plan: UpdatePlan) -> dict[str, dict[str, float]]:
    """Return what 10% more of each capacity buys: less time, seconds, and more NDCG."""
    result = {}
    for cap in CAPS:
        better = make_plan(with_more(config, cap, 1.1))
        result[cap] = {"seconds": plan.update_s - better.update_s, "ndcg": better.ndcg - plan.ndcg}
    return result


def pareto(config: LiveConfig, plan: UpdatePlan) -> list[UpdatePlan]:
    """Return the plans of a grid that none is better than in time, NDCG and peak load, by time.

    Args:
        config: Scenario.
        plan: The chosen plan, whose jitter and shards the grid has.
    """
    longest = config.times.prefetch_hours * 3600
    grid = [
        plan_with(config, quality.kappa, longest * (i + 1) / _WINDOWS, plan.jitter, plan.shards)
        for quality in config.payload.quality
        for i in range(_WINDOWS)
    ]
    feasible = [
        one for one in grid if not violations(config, one) and one.update_s <= config.times.deadline_s
    ]
    best = [one for one in feasible if not any(_better(other, one) for other in feasible)]
    # Of windows that give the same, the shortest.
    distinct = {(one.update_s, one.ndcg, one.peak): one for one in reversed(best)}
    return sorted(distinct.values(), key=lambda one: (one.update_s, -one.ndcg))


def _better(one: UpdatePlan, other: UpdatePlan) -> bool:
    """Return True if a plan is at least as good as another in all three, and better in one."""
    a, b = ((p.update_s, -p.ndcg, p.peak) for p in (one, other))
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def plan_document(config: LiveConfig) -> dict[str, Any]:
    """Return the plan as JSON: values, the binding capacity, gains, the Pareto set, the reactive peak."""
    plan = make_plan(config)

    def document(one: UpdatePlan) -> dict[str, Any]:
        return dataclasses.asdict(one) | {"update_s": one.update_s}

    return {
        "plan": document(plan),
        "binding": binding(config, plan),
        "ten_percent_more": gains(config, plan),
        "pareto": [document(one) for one in pareto(config, plan)],
        "reactive_peak": eq.reactive_peak(config),
        "capacity": config.audience.devices * config.capacity.requests,
    }


def plan_text(document: dict[str, Any]) -> str:
    """Return the document of `plan_document` as text for people."""
    p = document["plan"]
    lines = [
        f"update {p['update_s']:.4g} s: broadcast {p['broadcast_s']:.4g} s by {p['shards']} nodes, fill "
        f"{p['fill_s']:.4g} s; bound by {document['binding']}",
        f"kappa {p['kappa']}, NDCG@10 {p['ndcg']:.4g}; prefetch {p['window_s'] / 3600:.4g} h before, "
        f"jitter {p['jitter']:.3g}: {p['covered']:.1%} of devices are covered",
        f"peak {p['peak']:,.0f} of {document['capacity']:,.0f} requests/s, without prefetching "
        f"{document['reactive_peak']:,.0f}; origin {p['misses']:.3g} misses/s",
        "",
        "10% more of                seconds less   NDCG more",
    ]
    lines += [
        f"{cap:<26} {gain['seconds']:12.3f} {gain['ndcg']:11.4f}"
        for cap, gain in document["ten_percent_more"].items()
    ]
    lines += ["", "plans that none is better than in time, NDCG and peak load:"]
    lines += [
        f"{one['update_s']:8.2f} s  kappa {one['kappa']:>5}  NDCG@10 {one['ndcg']:.4f}  window "
        f"{one['window_s'] / 3600:5.2f} h  peak {one['peak']:,.0f} requests/s"
        for one in document["pareto"]
    ]
    return "\n".join(lines)
