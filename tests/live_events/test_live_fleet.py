"""The fleet: closed forms, displays as of `core.live.states`, queues, retries, strategies and faults."""

import copy

import numpy as np
import pytest

from jaxrec.config.loading import load_file
from jaxrec.core.live.states import DELAYED, STATES, DeviceState, advance, apply, store_content, view
from jaxrec.live_events import equations as eq
from jaxrec.live_events.fleet import displays, prefetching, requests
from jaxrec.live_events.fleet.broadcast import DROP_S, deliver
from jaxrec.live_events.fleet.prefetching import poisson_counts, prefetch, refresh_times
from jaxrec.live_events.fleet.requests import BIN_S, Calendar, run_service
from jaxrec.live_events.fleet.results import past_capacity, quantile, summary, table, updated_by
from jaxrec.live_events.fleet.simulation import FAULTS, closed_forms, simulate, with_faults
from jaxrec.live_events.fleet.strategies import (
    BROADCAST,
    FIXED,
    JITTERED,
    REACTIVE,
    STRATEGIES,
    broadcasting,
    fetching,
    online_list,
)
from jaxrec.live_events.fleet.timeline import EPOCH_S, EVENT, make_timeline
from jaxrec.live_events.planning import make_plan
from jaxrec.live_events.scenario import LiveConfig, Retries, check_scenario

FULL_JITTER = Retries()


def small(devices: int = 20_000, kappa: int = 16) -> LiveConfig:
    """Return the scenario with fewer devices, as many nodes and a single kappa."""
    config = load_file("live", LiveConfig)
    config.audience.devices = devices
    config.capacity.node_messages = devices * config.capacity.messages / 20
    config.times.poll_s = 300.0
    config.payload.quality = tuple(q for q in config.payload.quality if q.kappa == kappa)
    check_scenario(config)
    return config


@pytest.fixture(scope="module")
def simulated():
    """The scenario of 20,000 devices, and all strategies on it."""
    config = small()
    return config, simulate(config)


# ---------------------------------------------------------------- closed forms


def _within(config: LiveConfig, bound: float) -> None:
    simulation = simulate(config, (BROADCAST,))
    for name, (value, expected) in closed_forms(config, simulation).items():
        assert value == pytest.approx(expected, rel=bound), name


def test_closed_forms():
    """At 200,000 devices, where 3 standard errors of the fill are 2%."""
    _within(small(200_000), 0.02)


@pytest.mark.slow
def test_closed_forms_long():
    config = load_file("live", LiveConfig)
    config.audience.devices = 1_000_000
    _within(config, 0.02)


def test_poisson_counts_have_their_distribution():
    uniforms = (np.arange(100_000) + 0.5) / 100_000
    counts = poisson_counts(uniforms, 3.0)
    assert counts.mean() == pytest.approx(3, abs=1e-3) and counts.var() == pytest.approx(3, abs=1e-2)
    assert (counts == 0).mean() == pytest.approx(np.exp(-3), abs=1e-4)


def test_chunks_change_nothing(monkeypatch):
    config = small(5_000)
    whole = prefetch(config, make_plan(config))
    monkeypatch.setattr(prefetching, "CHUNK", 777)
    parts = prefetch(config, make_plan(config))
    assert (parts.load == whole.load).all() and (parts.covered == whole.covered).all()
    assert parts.misses == whole.misses


def test_jitter_of_each_refresh_spreads_what_was_alike():
    """All slates are of the same time. The sixth refreshes are spread by more than the first, by sqrt 6."""
    config = small()
    config.seed, config.times.ttl_s = 3, 1_000.0
    who, when = refresh_times(config, 0.2, np.arange(4_000), np.full(4_000, -9_000.0))
    number = np.arange(len(who)) - np.searchsorted(np.sort(who), np.sort(who))
    order = np.lexsort((when, who))
    sixth = when[order][number == 5]
    first = when[order][number == 0]
    assert first.std() == pytest.approx(400 / 12**0.5, rel=0.05)
    assert sixth.std() == pytest.approx(6**0.5 * first.std(), rel=0.08)


# ---------------------------------------------------------------- queue and retries


def _run(times, devices, rate, retries=FULL_JITTER, queue_s=2.0, until=3_600.0):
    """Return the log of requests at times, and who was served when."""
    calendar, served = Calendar(), []
    calendar.push(np.asarray(times, float), np.asarray(devices), np.zeros(len(devices), np.int64))
    log = run_service(
        calendar, rate, queue_s, retries, 0, until, lambda when, who: served.append((when.copy(), who.copy()))
    )
    return log, *(np.concatenate([one[i] for one in served]) for i in (0, 1))


def test_all_requests_are_served_once_and_never_faster_than_the_rate():
    rng = np.random.default_rng(0)
    log, when, who = _run(rng.uniform(0, 3, 5_000), np.arange(5_000), rate=100)
    assert sorted(who) == [*range(5_000)]
    assert log.served.max() <= 100 and log.served.sum() == 5_000
    assert log.offered.sum() == 5_000 + log.shed and log.shed > 0
    assert log.longest_queue <= 200
    assert when.max() >= 50


def test_requests_of_a_bin_are_served_in_their_order():
    """In one bin and in a queue, whatever the order of their arrival in the calendar."""
    calendar, served = Calendar(), []
    calendar.push(np.array([0.39, 0.01, 0.32]), np.array([1, 0, 2]), np.zeros(3, np.int64))
    assert calendar.pop(0)[1].tolist() == [0]  # the others are in their bins now
    calendar.push(np.array([0.35, 0.55]), np.array([3, 4]), np.zeros(2, np.int64))
    run_service(calendar, 10, 60, FULL_JITTER, 0, 60, lambda when, who: served.extend(who.tolist()))
    assert served == [2, 3, 1, 4]


def test_a_queue_that_is_long_enough_sheds_none():
    log, when, _ = _run(np.zeros(1_000), np.arange(1_000), rate=100, queue_s=20)
    assert log.shed == 0 and when.max() == pytest.approx(10, abs=BIN_S)


def test_a_calendar_returns_what_it_holds_in_the_order_of_time():
    rng = np.random.default_rng(1)
    calendar, times = Calendar(), rng.uniform(0, 50, 3_000)
    for part in np.array_split(np.arange(3_000), 10):
        calendar.push(times[part], part, part % 3)
    came = []
    while (one := calendar.first()) is not None:
        came.append(calendar.pop(one))
    assert (np.concatenate([c[0] for c in came]) == np.sort(times)).all()
    every = np.concatenate([c[1] for c in came])
    assert (times[every] == np.sort(times)).all()
    assert (np.concatenate([c[2] for c in came]) == every % 3).all()


def test_retries_without_jitter_rebuild_the_herd():
    """10,000 requests at once find room for 300; the others come back together, or spread."""
    herd, *_ = _run(np.zeros(10_000), np.arange(10_000), 100, Retries(jitter=False))
    spread, *_ = _run(np.zeros(10_000), np.arange(10_000), 100)
    assert herd.offered[10:].max() > 4 * spread.offered[10:].max()
    assert (herd.offered[3:40] > 0).mean() < 0.5 < (spread.offered[3:40] > 0).mean()


def test_backoff_is_within_its_bounds():
    attempts = np.repeat(np.arange(8), 1_000)
    waits = requests.backoff(Retries(2.0, 20.0), 0, np.arange(8_000), attempts).reshape(8, 1_000)
    bounds = np.array([2, 4, 8, 16, 20, 20, 20, 20])
    assert (waits.max(axis=1) <= bounds).all() and (waits.max(axis=1) > 0.98 * bounds).all()
    assert waits.mean(axis=1) == pytest.approx(bounds / 2, rel=0.1)
    fixed = requests.backoff(Retries(2.0, 20.0, jitter=False), 0, np.arange(8), np.arange(8))
    assert (fixed == bounds).all()


# ---------------------------------------------------------------- displays


@pytest.mark.parametrize("name", [*FAULTS, "all"])
def test_displays_are_those_of_the_states(name):
    """60 devices at all times, each beside a device of `core.live.states` with the same messages."""
    config = with_faults(small(2_000), name)
    plan, devices, timeline = make_plan(config), online_list(config), make_timeline(config)
    covered = prefetch(config, plan, count_misses=False).covered[devices]
    deliveries = deliver(config, timeline, plan.shards, devices)
    screens = displays.make_screens(config, timeline, deliveries, devices, covered)
    missing, times = displays.fetch_times(config, screens, devices, plan.fill_s, deliveries)
    screens.slates[missing] = times
    moments = displays.times_of(timeline)[0][::3]
    shown = np.array([displays.displayed(screens, time) for time in moments])
    chosen = np.unique(np.concatenate([np.arange(0, len(devices), 16), missing[:10]]))
    for i in chosen:
        states = frozenset(STATES) - ({DELAYED} if screens.old[i] else set())
        device = DeviceState(states=states)
        arrivals = zip(deliveries.arrival[:, i], timeline.sent, strict=True)
        inbox = sorted(arrivals, key=lambda pair: pair[0])
        for time, code in zip(moments, shown[:, i], strict=True):
            while inbox and inbox[0][0] <= time:
                device = apply(device, inbox.pop(0)[1].message)
            if screens.slates[i] <= time:
                for state in STATES:
                    device = store_content(device, EVENT, state)
            device = advance(device, EPOCH_S + time + screens.clocks[i])
            assert view(device, EVENT).state == STATES[code], (name, i, time)


def test_a_display_without_a_message_is_a_spoiler(simulated):
    """The count itself: a screen that shows the end to three devices without its message."""
    config, simulation = simulated
    devices, timeline = online_list(config), make_timeline(config)
    deliveries = deliver(config, timeline, simulation.plan.shards, devices)
    covered = np.ones(len(devices), bool)
    screens = displays.make_screens(config, timeline, deliveries, devices, covered)
    assert displays.stale_and_spoiled(screens)[1] == 0
    screens.in_force[screens.order.index(1), :3] = timeline.end_s - 100
    assert displays.stale_and_spoiled(screens)[1] == 3


def test_stale_seconds_by_hand(simulated):
    """Devices that all receive the start 5 s late and the end 7 s late are stale for 12 s."""
    config, simulation = simulated
    devices, timeline = online_list(config)[:50], make_timeline(config)
    deliveries = deliver(config, timeline, simulation.plan.shards, devices)
    deliveries.arrival[0], deliveries.arrival[1] = 5, timeline.end_s + 7
    screens = displays.make_screens(config, timeline, deliveries, devices, np.ones(50, bool))
    assert displays.stale_and_spoiled(screens) == (50 * 12, 0)


# ---------------------------------------------------------------- strategies and faults


def test_the_plan_beats_the_herds(simulated):
    _, simulation = simulated
    rows = {row["strategy"]: row for row in simulation.rows}
    assert [*rows] == [*STRATEGIES]
    assert rows[REACTIVE]["peak_requests"] >= 20 * rows[BROADCAST]["peak_requests"]
    assert rows[FIXED]["peak_requests"] >= 5 * rows[JITTERED]["peak_requests"]
    assert rows[BROADCAST]["seconds"]["99"] <= 60 < rows[REACTIVE]["seconds"]["99"]
    assert past_capacity(rows[BROADCAST]) == [] and past_capacity(rows[REACTIVE]) == ["request"]
    assert all(row["spoilers"] == 0 for row in rows.values())
    offered = simulation.outcomes[1].service.offered
    peaks = np.flatnonzero(offered > 0.5 * offered.max())
    assert len(peaks) >= 3 and all(np.diff(peaks)[np.diff(peaks) > 60] > 200)  # they recur with the TTL
    assert len(table(simulation.rows).splitlines()) == 6


def test_the_plan_holds_under_loss_and_a_reconnect_storm(simulated):
    config, simulation = simulated
    config = copy.deepcopy(config)
    config.faults.loss, config.faults.drop = 0.05, "americas"
    outcome = broadcasting(config, simulation.plan, simulation.prefetched)
    row = summary(config, outcome, simulation.prefetched)
    assert row["seconds"]["99"] <= 60 and row["seconds"]["all"] is not None
    assert row["spoilers"] == 0 and past_capacity(row) == []
    assert 0 < row["peak_reconnections"] <= row["reconnection_capacity"]


@pytest.mark.parametrize("name", [*FAULTS, "all"])
def test_every_fault_ends_with_all_devices_updated_and_no_spoiler(simulated, name):
    config, simulation = simulated
    faulty = with_faults(config, name)
    outcome = broadcasting(faulty, simulation.plan, simulation.prefetched)
    assert np.isfinite(outcome.updates).all() and outcome.spoilers == 0
    assert (outcome.updates >= 0).all()


def test_faults_cost_what_they_should(simulated):
    config, simulation = simulated

    def of(name):
        return broadcasting(with_faults(config, name), simulation.plan, simulation.prefetched)

    none = of("none")

    def after(outcome, share):
        return quantile(*updated_by(outcome), share)

    assert after(of("router down 10 s"), 0.5) == pytest.approx(after(none, 0.5) + 10, abs=0.5)
    assert after(of("loss 10%"), 0.99) > after(none, 0.99) + 1
    assert after(of("reordering to 30 s"), 0.99) > 30
    assert of("clocks off by 2 min").stale > 1.5 * none.stale  # clocks that are behind hold the end back
    assert of("5% old, start late").stale > of("start 20 min late").stale
    assert of("repeated seq").stale > none.stale
    assert of("duplicates").messages == pytest.approx(1.1 * none.messages, rel=0.01)


def test_seeds_give_other_draws_and_one_seed_the_same():
    config = small(1_000)
    config.times.poll_s = 60.0
    first, again = (fetching(config, JITTERED, 0.5).updates for _ in range(2))
    assert (first == again).all()
    config.seed = 1
    other = fetching(config, JITTERED, 0.5).updates
    assert len(other) != len(first) or (other != first).any()


def test_bins_of_time_hold_few_messages_more_than_the_rate(simulated):
    """A node sends no more than its rate, and the messages of a second are those of all nodes."""
    config, simulation = simulated
    outcome = simulation.outcomes[-1]
    nodes = simulation.plan.shards
    assert outcome.message_peak <= nodes * config.capacity.node_messages
    assert outcome.message_peak >= 0.95 * nodes * config.capacity.node_messages


def test_a_quantile_counts_devices_that_are_never_updated():
    updates = np.array([1.0, 2.0, 3.0, np.inf])
    assert [quantile(updates, np.arange(1, 5), share) for share in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, None]


def test_reconnections_fit_the_gateways():
    config = small()
    assert eq.reconnection_seconds(config) == pytest.approx(1.1 * 0.4 * 0.45 / 0.01)
    config.retries.window_s = 3.0
    assert eq.reconnection_seconds(config) == 3.0


def test_gateways_that_are_down_refuse_devices(simulated):
    """Those that tried within the 30 s come back by their backoff: later, and not all at once."""
    config, simulation = simulated
    config = with_faults(config, "its gateways refuse for 10 s")
    config.faults.gateway_down_s = 30.0
    devices, timeline = online_list(config), make_timeline(config)
    deliveries = deliver(config, timeline, simulation.plan.shards, devices)
    since_drop = deliveries.down[1, np.isfinite(deliveries.down[1])] - DROP_S
    assert len(since_drop) == pytest.approx(0.45 * len(devices), rel=0.05)
    assert since_drop.min() >= 30 and 30 < np.median(since_drop) < 60 < since_drop.max() < 120
    per_second = np.bincount(since_drop.astype(int))
    assert per_second.max() <= 1.1 * config.audience.devices * config.capacity.reconnections
