"""Timing of the benchmarks: order of runs, warm-up, ratios; no speed is required."""

import numpy as np
import pytest

from benchmarks import command, measure


def test_rivals_run_in_turn_and_warm_up_is_not_counted():
    calls = []
    timings = measure.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, warmup=2
    )
    assert calls == ["a", "b"] * 5
    assert all(len(t.seconds) == 3 and min(t.seconds) > 0 for t in timings.values())


def test_rounds_are_timed_by_the_clock_that_is_given():
    ticks = iter(range(100))
    timings = measure.interleaved({"a": lambda: next(ticks), "b": int}, 2, 0, clock=lambda: next(ticks))
    assert timings["a"].seconds == (2, 2) and timings["b"].seconds == (1, 1)


def test_the_interval_of_a_median_is_between_two_order_statistics():
    assert measure.median_interval([*range(201)][::-1]) == (85, 115)
    assert measure.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    draws = np.random.default_rng(0).exponential(size=(2_000, 101))
    low, high = np.transpose([measure.median_interval(x) for x in draws.tolist()])
    assert 0.94 < ((low < np.log(2)) & (np.log(2) < high)).mean() < 0.98


def test_ratios_are_taken_within_a_round():
    slow, fast = measure.Timing((2.0, 40.0, 6.0)), measure.Timing((1.0, 10.0, 2.0))
    assert measure.ratio(slow, fast) == {"median": 3.0, "least": 2.0, "most": 4.0}


def test_rate_is_work_divided_by_seconds():
    assert measure.Timing((2.0, 1.0, 4.0)).rate(8) == {"median": 4.0, "least": 2.0, "most": 8.0}


def test_machine_description():
    description = measure.machine()
    assert description["cores"] >= 1 and description["memory_gib"] > 0
    assert description["versions"]["jax"]
    assert measure.anonymous_memory() > 2**20


def test_table_is_markdown():
    figure = {"median": 1234.5, "least": 1.0, "most": 2e6}
    assert command.spread(figure, "x", 1) == "1,234.5 (1.0 to 2,000,000.0) x"
    table = command.Report("t", {}, [("a", "b", "c")]).table()
    assert table.splitlines()[-2:] == ["|---|---|---|", "| a | b | c |"]


@pytest.mark.parametrize("limit", [lambda: measure.matrix_rate(64), measure.copy_bandwidth])
def test_limits_are_rates(limit):
    rate = limit()
    assert 0 < rate["least"] <= rate["median"] <= rate["most"]
