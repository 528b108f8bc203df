"""The loop's own parts: what it says of waiting for its input."""

import itertools

import pytest

from jaxrec import loop


def test_the_stall_is_the_share_of_time_spent_waiting(monkeypatch):
    clock = itertools.count()  # a second passes at each look
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    waited = loop._Waited(iter((["a"], ["b"])))  # since 0
    taken = list(zip(waited, "xy", strict=False))
    assert [batch for batch, _ in taken] == ["a", "b"]
    # a waited from 1 to 2, b from 3 to 4, the end from 5 to 6; asked at 7
    assert waited.stall() == pytest.approx(3 / 7)
    assert waited.stall() == 0.0
