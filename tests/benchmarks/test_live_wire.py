"""Prediction of the wire by the fleet's simulator, from the parameters of a process, and its comparison."""

import numpy as np
import pytest

from benchmarks.live_devices import rate_of, seconds_of
from benchmarks.live_wire import (
    DELAY,
    DROPPED,
    PLANNED,
    PRE,
    RESTARTED,
    REVOKE,
    START,
    WireFigures,
    comparison,
    predict,
)

FIGURES = WireFigures(1_000.0, 0.03, 500.0, 250.0, start_s=4.0)


@pytest.fixture(scope="module")
def predicted():
    return predict(FIGURES, 1_000)


def test_connected_devices_get_a_message_at_the_rate_of_the_process(predicted):
    for message in (PRE, START, DELAY, REVOKE):
        assert predicted[message]["50%"] == pytest.approx(0.53, abs=0.03)
        assert predicted[message]["all"] == pytest.approx(1.03, abs=0.04)
    assert set(predicted[PLANNED].values()) == {0.0}


def test_devices_that_dropped_come_back_over_the_window_of_the_gateways(predicted):
    """The window of 1,000 devices at 500 a second is 2.2 s."""
    assert predicted[DROPPED]["50%"] == pytest.approx(1.1 + 0.03, rel=0.1)
    assert predicted[DROPPED]["99%"] == pytest.approx(2.2, rel=0.1)


def test_a_restart_takes_its_time_and_the_backoff_of_the_devices(predicted):
    assert predicted[RESTARTED]["50%"] > FIGURES.start_s
    slower = predict(FIGURES._replace(start_s=14.0), 1_000)[RESTARTED]
    assert slower["50%"] > 14 and slower["all"] > predicted[RESTARTED]["all"] + 5


def test_rates_and_shares_of_times():
    times = np.arange(100) / 50 + 3
    assert rate_of(times) == pytest.approx(50)
    assert seconds_of(np.arange(1.0, 101.0)) == {"50%": 50, "99%": 99, "all": 100}


def test_the_comparison_counts_the_runs_that_are_near():
    def run(predicted, measured):
        of_start = {"99%": predicted, "all": 0.0}, {"99%": measured, "all": 0.02}
        return {"predicted": {"start": of_start[0]}, "seconds": {"start": of_start[1]}}

    lines = comparison([run(1.0, 1.19), run(1.0, 0.79), run(2.0, 1.7)]).splitlines()
    assert lines[2] == "| start | 99% | 1.00 | 1.19 | 1.19 | 2 of 3 |"
    assert lines[3] == "| start | all | 0.00 | 0.02 | - | - |"
