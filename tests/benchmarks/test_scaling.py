"""What collectives cost on links, by hand; what a forecast makes of what was compiled."""

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
        (HOST, "all-reduce", 2, 8.0),  # 800 bytes at 100 a second: half goes, half comes back
        (HOST, "all-reduce", 4, 12.0),  # 2 * 3/4 * 8
        (HOST, "all-gather", 4, 6.0),
        (HOST, "all-to-all", 4, 6.0),
        (HOST, "reduce-scatter", 4, 24.0),  # 800 bytes stay on each of four, so that 3,200 went in
        (HOST, "collective-permute", 4, 8.0),
        (HOSTS, "all-reduce", 4, 12.0),  # within one host
        # Among 4 in a host 12; then 200 bytes of each among four hosts at 10 a second: 2 * 3/4 * 20.
        (HOSTS, "all-reduce", 16, 42.0),
        (HOSTS, "all-gather", 16, 15.0 + 6.0),  # 200 bytes among hosts, 800 within
        (HOSTS, "reduce-scatter", 16, 240.0 + 96.0),  # 3,200 bytes leave a host's chips, 12,800 went in
        (HOSTS, "all-to-all", 16, 3 / 16 * 8 + 12 / 16 * 80),
        (TORUS, "all-reduce", 256, 2 * 255 / 256 * 8),
        (TORUS, "all-to-all", 256, 255 / 256 * 8 * 8),  # four links along each of two axes
        (TORUS, "all-to-all", 4, 3 / 4 * 8),  # the one link there is between neighbours
    ],
)
def test_seconds_by_hand(cluster, kind, n, expected):
    assert seconds(cluster, kind, 800, n) == pytest.approx(expected)


def test_latency_is_of_a_rings_steps(monkeypatch):
    monkeypatch.setitem(LATENCY, "inside", 1.0)
    monkeypatch.setitem(LATENCY, "between", 100.0)
    assert seconds(HOST, "all-reduce", 800, 4) == pytest.approx(12 + 6)
    assert seconds(HOSTS, "all-reduce", 800, 16) == pytest.approx(42 + 6 + 600)
    assert seconds(TORUS, "all-gather", 800, 256) == pytest.approx(255 / 256 * 8 + 2 * 15)


def test_clusters_are_as_published():
    by_name = {c.name: c for c in CLUSTERS}
    assert max(c.chips for c in CLUSTERS) == 256 and all(c.source for c in CLUSTERS)
    assert by_name["TPU v5e pod"].inside * 8 == 1600e9  # bits
    assert by_name["TPU v5p pod"].inside * 8 == 4800e9
    assert by_name["hosts of 8 H100, InfiniBand"].between * 8 == 400e9
    assert by_name["8 H100 in a host"].inside * 2 == 900e9


def test_growth_goes_through_what_was_compiled():
    assert (
        scaling.through((4, 10.0), (8, 14.0), 4, 1) == 10
        and scaling.through((4, 10.0), (8, 14.0), 8, 1) == 14
    )
    assert scaling.through((4, 10.0), (8, 14.0), 256, 1) == 6 + 256
    assert scaling.through((4, 3.0), (8, 2.0), 16, -1) == pytest.approx(1.5)  # 1 + 8 / n
    assert scaling.through((4, 3.0), (8, 1.0), 256, 1) == 0


def test_a_step_beside_one_alone():
    few = {"sent": {"all-reduce": {"bytes": 800, "count": 2}}, "held": 300}
    step = {n: scaling.predicted(HOST, (2, few), (4, few), n, 1000.0, 0.5) for n in (1, 4)}
    assert step[1] == {"computing": 2.0, "update": pytest.approx(7.0), "sending": 0.0}
    assert step[4] == {"computing": 2.0, "update": pytest.approx(7.0), "sending": pytest.approx(12.0)}
    assert scaling.efficiency(step[1], step[1]) == (1, 1)
    assert scaling.efficiency(step[1], step[4]) == pytest.approx((9 / 21, 9 / 12))


def test_a_split_table_of_a_hundred_thousand_titles_is_larger_than_all_that_is_sent():
    titles, width = 100_000, 16
    (found,) = scaling.compiled(2, [(titles, width, 16, "split")])
    assert {"all-to-all", "all-reduce"} <= found["sent"].keys()
    assert 0 < found["largest"] < 4 * titles * width / 2
    # Half the table and its two moments, and the whole of all else.
    assert found["held"] > 3 * 4 * titles * width / 2
