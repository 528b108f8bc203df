"""Cohorts of devices in place of individuals, for fleets of more than 10^7: counts by time bin and attempt.

What a device draws alone, a cohort draws at once: a multinomial over the bins of its window. Cost and memory
do not depend on the number of devices. Faults and displays need individuals, and are left out.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.live_events import equations as eq
from jaxrec.live_events.fleet.draws import Drawn
from jaxrec.live_events.fleet.prefetching import Prefetched
from jaxrec.live_events.fleet.requests import BIN_S, ServiceLog, backoff_bounds
from jaxrec.live_events.fleet.strategies import BROADCAST, FIXED, PERIODS, REACTIVE, StrategyRun
from jaxrec.live_events.planning import UpdatePlan
from jaxrec.live_events.scenario import Faults, LiveConfig

_ATTEMPTS = 20  # attempts of a request that have counts of their own; later ones are counted with the last
_KINDS = 2 * _ATTEMPTS  # attempts of devices that are not updated yet, then of those that are
_REFRESH_S = 10.0  # bin of refreshes before the start


class CohortRequests:
    """Requests of the future: counts by time bin and kind, which is an attempt before or after the update.

    Args:
        until_s: End of the simulation, seconds; later requests are left out.
        rng: Generator of the draws.
    """

    def __init__(self, until_s: float, rng: np.random.Generator) -> None:
        self.counts = np.zeros((int(np.ceil(until_s / BIN_S)) + 1, _KINDS), np.int64)
        self.rng = rng

    def spread(self, count: int, kind: int, begin_s: float, width_s: float) -> None:
        """Add requests that are spread evenly over a window, each by a draw.

        Args:
            count: Number of requests.
            kind: Kind.
            begin_s: Begin of the window, seconds; at least 0.
            width_s: Width of the window; 0: all come at its begin.
        """
        first, last = begin_s / BIN_S, (begin_s + width_s) / BIN_S
        low, high = int(first + 1e-6), max(int(np.ceil(last - 1e-6)), int(first + 1e-6) + 1)
        edges = np.clip(np.arange(low, high + 1), first, last)
        shares = np.diff(edges) / (last - first) if last > first else np.ones(1)
        drawn = self.rng.multinomial(count, shares / shares.sum())[: max(len(self.counts) - low, 0)]
        self.counts[low : low + len(drawn), kind] += drawn


def run_counts(
    config: LiveConfig, requests: CohortRequests, again: Callable[[float, np.ndarray], None]
) -> ServiceLog:
    """Serve requests as `requests.run_service` does, from time 0 to the end of `requests`.

    Args:
        config: Scenario.
        requests: Requests; retries and what `again` adds are added to them.
        again: Called with the time, and with the requests that were served in a bin by kind.
    """
    rate, retries = eq.free_requests(config), config.retries
    seconds = int(len(requests.counts) * BIN_S) + 1
    log = ServiceLog(0, np.zeros(seconds, np.int64), np.zeros(seconds, np.int64))
    limit, credit, waiting = max(int(rate * config.capacity.queue_s), 1), 0.0, 0
    queue: deque[np.ndarray] = deque()  # a batch of counts by kind for each bin
    bounds = backoff_bounds(retries, np.arange(_KINDS) % _ATTEMPTS)
    for one in range(len(requests.counts)):
        new = requests.counts[one].copy()
        if not waiting and not new.any():
            credit = 0.0
            continue
        second, now = int(one * BIN_S + 1e-9), (one + 1) * BIN_S
        log.offered[second] += new.sum()
        queue.append(new)
        waiting += int(new.sum())
        credit = min(credit, rate * BIN_S) + rate * BIN_S
        count = min(waiting, int(credit))
        credit -= count
        if count:
            log.served[second] += count
            again(now, _take(queue, count, first=True, rng=requests.rng))
        waiting -= count
        if waiting > limit:
            shed = _take(queue, waiting - limit, first=False, rng=requests.rng)
            log.shed += int(shed.sum())
            waiting = limit
            for kind in np.flatnonzero(shed):
                wait = float(bounds[kind])
                begin, width = (now, wait) if retries.jitter else (now + wait, 0.0)
                following = kind + 1 if (kind + 1) % _ATTEMPTS else kind
                requests.spread(int(shed[kind]), int(following), begin, width)
        log.longest_queue = max(log.longest_queue, waiting)
    return log


def _take(queue: deque[np.ndarray], count: int, first: bool, rng: np.random.Generator) -> np.ndarray:
    """Remove `count` requests from an end of a queue, and return their counts by kind.

    Of the batch that is cut, each request is as likely to be taken. Cut in proportion and rounded, batches of
    a few requests would lose the same kinds each time.
    """
    taken = np.zeros(_KINDS, np.int64)
    while count:
        batch = queue.popleft() if first else queue.pop()
        size = int(batch.sum())
        if size <= count:
            part = batch
        else:
            part = rng.multivariate_hypergeometric(batch, count, method="marginals")
            rest = batch - part
            queue.appendleft(rest) if first else queue.append(rest)
        taken += part
        count -= int(part.sum())
    return taken


def check_no_faults(config: LiveConfig) -> None:
    """Raise InputError if a scenario of cohorts has faults."""
    if config.faults != Faults():
        raise InputError(
            f"audience.devices={config.audience.devices}: faults are simulated for at most 10,000,000 devices"
        )


def _generator(config: LiveConfig, *parts: int) -> np.random.Generator:
    """Return the generator of the draws of a part of the simulation."""
    return np.random.default_rng([config.seed, int(Drawn.COHORT), *parts])


def prefetch_cohorts(config: LiveConfig, plan: UpdatePlan) -> Prefetched:
    """Return the requests of the prefetch window; `covered` is the share in an array of one value.

    The sessions of all devices are a Poisson process. Misses take the closed form.
    """
    rng, n, window = _generator(config, 0), config.audience.devices, plan.window_s
    curve = eq.Curve(config)
    ends = window - np.minimum(np.arange(int(window) + 2), window)  # seconds before the start
    until = np.array([curve.sessions(w) for w in ends])
    load = rng.poisson(n * -np.diff(until))
    sessions = int(load.sum())
    # Online devices by the bin of their first session, which is what refreshes start from.
    steps = int(window / _REFRESH_S)
    left = np.array([curve.sessions(window - step * _REFRESH_S) for step in range(steps + 1)])
    unvisited = np.exp(left - left[0])
    online = int(rng.binomial(n, config.audience.online))
    due = rng.multinomial(online, np.append(-np.diff(unvisited), unvisited[-1]))[:-1]
    low = round(config.times.ttl_s * (1 - plan.jitter) / _REFRESH_S)
    width = max(round(2 * plan.jitter * config.times.ttl_s / _REFRESH_S), 1)
    refreshed = np.zeros(steps + low + width + 1, np.int64)
    for step in range(steps):
        count = int(due[step] + refreshed[step])
        begin = step + low
        refreshed[begin : begin + width] += rng.multinomial(count, np.full(width, 1 / width))
    per_second = np.repeat(refreshed[:steps], int(_REFRESH_S)) / _REFRESH_S
    load[: len(per_second)] += np.round(per_second).astype(np.int64)
    covered = 1 - rng.binomial(n, np.exp(-curve.sessions(window))) / n
    return Prefetched(load, sessions, int(refreshed[:steps].sum()), np.array([covered]), plan.misses)


def fetching_cohorts(config: LiveConfig, strategy: str, jitter: float) -> StrategyRun:
    """Simulate a strategy without messages; see `strategies.fetching`."""
    rng, n = _generator(config, 1), config.audience.devices
    ttl, trigger = config.times.poll_s, config.times.trigger_s
    until = 3_600.0 if strategy == REACTIVE else PERIODS * ttl
    requests, online = CohortRequests(until, rng), int(rng.binomial(n, config.audience.online))
    updates: list[tuple[float, int]] = []

    def expire(since: float, count: int, kind: int) -> None:
        if strategy == FIXED:
            at = float(-ttl / 2 + ttl * (np.floor((since + ttl / 2) / ttl + 1e-9) + 1))
            requests.spread(count, kind, at, trigger)
        else:
            requests.spread(count, kind, since + ttl * (1 - jitter), 2 * jitter * ttl)

    def again(now: float, served: np.ndarray) -> None:
        updates.append((now, int(served[:_ATTEMPTS].sum())))
        if strategy != REACTIVE:
            expire(now, int(served.sum()), _ATTEMPTS)

    if strategy == REACTIVE:
        requests.spread(online, 0, 0.0, trigger)
    else:
        expire(-ttl / 2, online, 0)
    log = run_counts(config, requests, again)
    times, weights = (np.array(part) for part in zip(*updates, strict=True))
    left = online - int(weights.sum())
    if left:
        times, weights = np.append(times, np.inf), np.append(weights, left)
    fetched = int(log.served.sum())
    return StrategyRun(
        strategy, times, log, n * config.capacity.base, weights=weights, spoilers=None,
        stale=float((times * weights)[np.isfinite(times)].sum()),
        bytes=fetched * config.payload.slate_bytes, events=int(log.offered.sum()) + fetched,
    )  # fmt: skip


def broadcasting_cohorts(config: LiveConfig, plan: UpdatePlan, prefetched: Prefetched) -> StrategyRun:
    """Simulate the plan without faults; see `strategies.broadcasting`."""
    rng, n, c = _generator(config, 2), config.audience.devices, config.capacity
    online = int(rng.binomial(n, config.audience.online))
    rate = plan.shards * c.node_messages
    edges = np.minimum(np.arange(int(online / rate / BIN_S) + 2) * rate * BIN_S, online).astype(np.int64)
    sent = np.diff(edges)
    arrivals = CohortRequests(eq.broadcast_seconds(config, plan.shards) + 60, rng)
    begin = plan.shards / c.router_messages / 2
    for one, count in enumerate(sent):
        arrivals.spread(int(count), 0, begin + one * BIN_S, 2 * c.latency_s)
    arrived = arrivals.counts[:, 0]
    missing = rng.binomial(arrived, 1 - float(prefetched.covered.mean()))
    requests = CohortRequests(len(arrived) * BIN_S + plan.fill_s + 60, rng)
    for place in np.flatnonzero(missing):
        requests.spread(int(missing[place]), 0, float(place + 0.5) * BIN_S, plan.fill_s)
    updates = [
        (float(one + 0.5) * BIN_S, int(arrived[one] - missing[one])) for one in np.flatnonzero(arrived)
    ]
    log = run_counts(config, requests, lambda now, served: updates.append((now, int(served.sum()))))
    times, weights = (np.array(part) for part in zip(*updates, strict=True))
    middles = (np.arange(len(arrived)) + 0.5) * BIN_S
    load = eq.prefetch_peak(config, 1.0) + eq.online_devices(config) * plan.covered / config.times.ttl_s
    slates = n * float(prefetched.covered.mean()) + missing.sum()
    return StrategyRun(
        BROADCAST, times, log, n * c.base + load, weights=weights, spoilers=None, messages=2 * online,
        message_peak=int(np.add.reduceat(sent, np.arange(0, len(sent), round(1 / BIN_S))).max()),
        stale=float((times * weights).sum() + (middles * arrived).sum()),
        bytes=int(slates * config.payload.stages * config.payload.slate_bytes)
        + 2 * online * config.payload.message_bytes,
        events=prefetched.sessions + prefetched.refreshes + 2 * online + int(log.offered.sum()),
        broadcast_s=float((np.flatnonzero(arrived).max() + 1) * BIN_S),
    )  # fmt: skip
