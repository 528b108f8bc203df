"""Costs of collectives computed by hand, and the forecast from compiled programs."""

import pytest

from benchmarks import scaling
from benchmarks.links import CLUSTERS, LATENCY, Cluster, seconds

HOST = Cluster("host", 4, 4, 100.0, 0.0, 0, 1e3, 1e2, "")
HOSTS = Cluster("hosts", 16, 4, 100.0, 10.0, 0, 1e3, 1e2, "")
TORUS = Cluster("torus", 256, 256, 100.0, 0.0, 2, 1e3, 1e2, "")


@pytest.fixture(autouse=True)
def _no_latency(monkeypatch):
    monkeypatch.setitem(LATENCY, "inside", 0.0)
    monkeypatch.setitem(LATENCY, "between", 0.0)


@pytest.mark.parametrize(
    ("cluster", "kind", "n", "expected"),
    [
        (HOST, "all-reduce", 1, 0.0),
        (HOST, "all-reduce", 2, 8.0),  # 800 bytes at 100 a second: half is sent, half is received
        (HOST, "all-reduce", 4, 12.0),  # 2 * 3/4 * 8
        (HOST, "all-gather", 4, 6.0),
        (HOST, "all-to-all", 4, 6.0),
        (HOST, "reduce-scatter", 4, 24.0),  # 800 bytes stay on each of four chips: 3,200 bytes of input
        (HOST, "collective-permute", 4, 8.0),
        (HOSTS, "all-reduce", 4, 12.0),  # within one host
        # 12 among 4 in a host; then 200 bytes of each among four hosts at 10 a second: 2 * 3/4 * 20.
        (HOSTS, "all-reduce", 16, 42.0),
        (HOSTS, "all-gather", 16, 15.0 + 6.0),  # 200 bytes among hosts, 800 within
        (HOSTS, "reduce-scatter", 16, 240.0 + 96.0),  # 3,200 bytes leave a host's chips; 12,800 of input
        (HOSTS, "all-to-all", 16, 3 / 16 * 8 + 12 / 16 * 80),
        (TORUS, "all-reduce", 256, 2 * 255 / 256 * 8),
        (TORUS, "all-to-all", 256, 255 / 256 * 8 * 8),  # four links along each of two axes
        (TORUS, "all-to-all", 4, 3 / 4 * 8),  # one link between neighbours
    ],
)
def test_seconds_by_hand(cluster, kind, n, expected):
    assert seconds(cluster, kind, 800, n) == pytest.approx(expected)


def test_latency_counts_the_steps_of_a_ring(monkeypatch):
    monkeypatch.setitem(LATENCY, "inside", 1.0)
    monkeypatch.setitem(LATENCY, "between", 100.0)
    assert seconds(HOST, "all-reduce", 800, 4) == pytest.approx(12 + 6)
    assert seconds(HOSTS, "all-reduce", 800, 16) == pytest.approx(42 + 6 + 600)
    assert seconds(TORUS, "all-gather", 800, 256) == pytest.approx(255 / 256 * 8 + 2 * 15)


def test_clusters_match_published_figures():
    by_name = {c.name: c for c in CLUSTERS}
    assert max(c.chips for c in CLUSTERS) == 256 and all(c.source for c in CLUSTERS)
    assert by_name["TPU v5e pod"].inside * 8 == 1600e9  # bits
    assert by_name["TPU v5p pod"].inside * 8 == 4800e9
    assert by_name["hosts of 8 H100, InfiniBand"].between * 8 == 400e9
    assert by_name["8 H100 in a host"].inside * 2 == 900e9


def test_growth_passes_through_the_compiled_values():
    assert (
        scaling.extrapolate((4, 10.0), (8, 14.0), 4, 1) == 10
        and scaling.extrapolate((4, 10.0), (8, 14.0), 8, 1) == 14
    )
    assert scaling.extrapolate((4, 10.0), (8, 14.0), 256, 1) == 6 + 256
    assert scaling.extrapolate((4, 3.0), (8, 2.0), 16, -1) == pytest.approx(1.5)  # 1 + 8 / n
    assert scaling.extrapolate((4, 3.0), (8, 1.0), 256, 1) == 0


def test_efficiency_relative_to_one_chip():
    few = {"sent": {"all-reduce": {"bytes": 800, "count": 2}}, "held": 300}
    step = {n: scaling.predict(HOST, (2, few), (4, few), n, 1000.0, 0.5) for n in (1, 4)}
    assert step[1] == {"computing": 2.0, "update": pytest.approx(7.0), "sending": 0.0}
    assert step[4] == {"computing": 2.0, "update": pytest.approx(7.0), "sending": pytest.approx(12.0)}
    assert scaling.efficiency(step[1], step[1]) == (1, 1)
    assert scaling.efficiency(step[1], step[4]) == pytest.approx((9 / 21, 9 / 12))


@pytest.mark.slow
def test_a_sharded_table_of_100000_titles_is_larger_than_its_largest_collective():
    titles, width = 100_000, 16
    (account,) = scaling.compiled(2, [(titles, width, 16, "split")])
    assert {"all-to-all", "all-reduce"} <= account["sent"].keys()
    assert 0 < account["largest"] < 4 * titles * width / 2
    # Half of the table and of its two moments, and the whole of the rest.
    assert account["held"] > 3 * 4 * titles * width / 2
