"""Cohorts against individuals: the same quantiles, peaks and coverage, whatever the number of devices."""

import numpy as np
import pytest

from jaxrec.config.loading import load_file
from jaxrec.core.errors import InputError
from jaxrec.live_events.fleet import cohorts, simulation
from jaxrec.live_events.fleet.results import SHARES, updated_by
from jaxrec.live_events.fleet.simulation import simulate
from jaxrec.live_events.fleet.strategies import BROADCAST, JITTERED, STRATEGIES
from jaxrec.live_events.scenario import LiveConfig, check_scenario


def scenario(devices: int) -> LiveConfig:
    """Return the scenario with 20 nodes, whatever the number of devices."""
    config = load_file("live", LiveConfig)
    config.audience.devices = devices
    config.capacity.node_messages = devices * config.capacity.messages / 20
    config.times.poll_s = 120.0
    check_scenario(config)
    return config


def by_cohorts(monkeypatch, config, strategies):
    monkeypatch.setattr(simulation, "MOST_INDIVIDUALS", 0)
    result = simulate(config, strategies)
    monkeypatch.undo()
    return result


def _compare(monkeypatch, devices: int, strategies, bounds: tuple[float, float]) -> None:
    """Compare seconds and peaks of requests, within two relative bounds."""
    config = scenario(devices)
    counts, individuals = by_cohorts(monkeypatch, config, strategies), simulate(config, strategies)
    for row, other in zip(counts.rows, individuals.rows, strict=True):
        for share in SHARES:
            seconds = (row["seconds"][share], other["seconds"][share])
            if None in seconds:  # the last devices may not be served before the end
                assert share != "50"
                continue
            assert seconds[0] == pytest.approx(seconds[1], rel=bounds[0], abs=1.5), (row["strategy"], share)
        assert row["peak_requests"] == pytest.approx(other["peak_requests"], rel=bounds[1]), row["strategy"]
        assert row["stale_s"] == pytest.approx(other["stale_s"], rel=bounds[0], abs=0.6)
        assert row["spoilers"] is None and other["spoilers"] == 0
    if BROADCAST in strategies:
        one, other = counts.prefetched, individuals.prefetched
        assert one.sessions == pytest.approx(other.sessions, rel=bounds[0])
        assert one.refreshes == pytest.approx(other.refreshes, rel=bounds[0])
        assert one.covered.mean() == pytest.approx(other.covered.mean(), rel=bounds[0])


def test_cohorts_are_as_individuals(monkeypatch):
    """20,000 devices, whose peaks of a second vary by a tenth; those with a TTL need twice the capacity."""
    _compare(monkeypatch, 20_000, (JITTERED, BROADCAST), (0.02, 0.15))


@pytest.mark.slow
def test_cohorts_are_as_individuals_long(monkeypatch):
    _compare(monkeypatch, 1_000_000, STRATEGIES, (0.01, 0.03))


def test_queues_cut_batches_in_proportion_and_lose_none():
    rng = np.random.default_rng(0)
    queue = cohorts.deque(rng.integers(0, 50, (5, 40)))
    whole = sum(queue)
    first = cohorts._take(queue, 300, first=True, rng=rng)
    last = cohorts._take(queue, 1_500, first=False, rng=rng)
    assert first.sum() == 300 and last.sum() == 1_500
    assert (first + last + sum(queue) == whole).all()


def test_requests_are_spread_evenly_over_their_window():
    counts = cohorts.CohortRequests(30.0, np.random.default_rng(0))
    counts.spread(100_000, 3, 2.05, 10.0)
    counts.spread(50, 4, 7.0, 0.0)
    bins = counts.counts[:, 3]
    assert bins.sum() == 100_000 and np.flatnonzero(bins)[[0, -1]].tolist() == [20, 120]
    assert bins[21:120].std() < 5 * 1_000**0.5 and bins[20] == pytest.approx(500, abs=120)
    assert counts.counts[70, 4] == 50


def test_all_devices_are_counted(monkeypatch):
    result = by_cohorts(monkeypatch, scenario(100_000_000), (BROADCAST,))
    times, devices = updated_by(result.outcomes[0])
    assert devices[-1] == pytest.approx(40_000_000, rel=1e-3) and np.isfinite(times).all()


def test_cohorts_with_faults_are_refused(monkeypatch):
    config = scenario(20_000_000)
    config.faults.loss = 0.1
    with pytest.raises(InputError, match="faults are simulated for at most 10,000,000 devices"):
        simulate(config)
