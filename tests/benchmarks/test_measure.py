"""How benchmarks measure: turns, warm-up, ratios; never a time that a machine must meet."""

import pytest

from benchmarks import command, measure


def test_rivals_take_turns_and_warm_up_is_left_out():
    calls = []
    timings = measure.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, warmup=2
    )
    assert calls == ["a", "b"] * 5
    assert all(len(t.seconds) == 3 and min(t.seconds) > 0 for t in timings.values())


def test_a_ratio_is_of_the_same_round():
    slow, fast = measure.Timing((2.0, 40.0, 6.0)), measure.Timing((1.0, 10.0, 2.0))
    assert measure.ratio(slow, fast) == {"median": 3.0, "least": 2.0, "most": 4.0}


def test_a_rate():
    assert measure.Timing((2.0, 1.0, 4.0)).rate(8) == {"median": 4.0, "least": 2.0, "most": 8.0}


def test_the_machine_says_what_it_is():
    found = measure.machine()
    assert found["cores"] >= 1 and found["memory_gib"] > 0
    assert found["versions"]["jax"]
    assert measure.anonymous_memory() > 2**20


def test_a_table_is_markdown():
    figure = {"median": 1234.5, "least": 1.0, "most": 2e6}
    assert command.spread(figure, "x", 1) == "1,234.5 (1.0 to 2,000,000.0) x"
    table = command.Report("t", {}, [("a", "b", "c")]).table()
    assert table.splitlines()[-2:] == ["|---|---|---|", "| a | b | c |"]


@pytest.mark.parametrize("limit", [lambda: measure.matrix_rate(64), measure.copy_bandwidth])
def test_the_limits_are_rates(limit):
    found = limit()
    assert 0 < found["least"] <= found["median"] <= found["most"]
