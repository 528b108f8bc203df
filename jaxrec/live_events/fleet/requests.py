"""Service with a capacity and a bounded queue, and devices that try again: in time bins of 100 ms.

Playback is served first. Requests of home pages wait in the queue, in their order of arrival. A request that
finds the queue full is shed, and its device waits by exponential backoff. Prefetching gets what is left.
"""

import dataclasses
import heapq
import itertools
import sys
from collections.abc import Callable

import numpy as np

from jaxrec.live_events.fleet.draws import Drawn, draw
from jaxrec.live_events.scenario import Retries

BIN_S = 0.1
# Attempts of the n-th request of a device are counted from n ROUND, so that their draws differ. With equal
# draws a device that was lucky once would be so each time: a median of 8,000 devices was 6% off.
ROUND = 1 << 20
_ROUNDING = 1e-6  # of times that are multiples of a bin
_NONE = (np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]  # times, devices, attempts


class Calendar:
    """Requests of the future by time bin, each bin in the order of time.

    New requests wait in a list until the first of them is due, so that few large batches are cut into bins.
    """

    def __init__(self) -> None:
        self._bins: dict[int, list[Batch]] = {}
        self._order: list[int] = []
        self._new: list[Batch] = []
        self._new_bin = sys.maxsize  # the first bin of the new requests

    def push(self, times: np.ndarray, devices: np.ndarray, attempts: np.ndarray) -> None:
        """Add requests at times, seconds, each by a device in an attempt."""
        if len(times):
            self._new.append((times, devices, attempts))
            self._new_bin = min(self._new_bin, int(times.min() / BIN_S + _ROUNDING))

    def _cut(self) -> None:
        """Cut the new requests into bins."""
        times, devices, attempts = (np.concatenate(parts) for parts in zip(*self._new, strict=True))
        self._new, self._new_bin = [], sys.maxsize
        order = np.argsort(times, kind="stable")
        times, devices, attempts = times[order], devices[order], attempts[order]
        bins = np.floor(times / BIN_S + _ROUNDING).astype(np.int64)
        cuts = [0, *(np.flatnonzero(np.diff(bins)) + 1).tolist(), len(bins)]
        for low, high in itertools.pairwise(cuts):
            one = int(bins[low])
            if one not in self._bins:
                self._bins[one] = []
                heapq.heappush(self._order, one)
            self._bins[one].append((times[low:high], devices[low:high], attempts[low:high]))

    def first(self) -> int | None:
        """Return the first bin with requests; None for none."""
        one = min(self._order[0] if self._order else sys.maxsize, self._new_bin)
        return None if one == sys.maxsize else one

    def pop(self, one: int) -> Batch:
        """Return the requests up to a bin in their order of time, and remove them."""
        if self._new_bin <= one:
            self._cut()
        batches: list[Batch] = []
        while self._order and self._order[0] <= one:
            batches += self._bins.pop(heapq.heappop(self._order))
        if len(batches) < 2:
            return batches[0] if batches else _NONE
        times, devices, attempts = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        order = np.argsort(times, kind="stable")
        return times[order], devices[order], attempts[order]


@dataclasses.dataclass
class ServiceLog:
    """Requests of a service over time.

    Attributes:
        first_s: Second of the first entry of `offered` and `served`.
        offered: Requests that arrived in each second, retries included.
        served: Requests that were served in each second.
        shed: Requests that were shed.
        longest_queue: Largest number of requests that waited.
    """

    first_s: int
    offered: np.ndarray
    served: np.ndarray
    shed: int = 0
    longest_queue: int = 0


def backoff_bounds(retries: Retries, attempts: np.ndarray) -> np.ndarray:
    """Return the longest waits [N] after attempts [N], seconds; see ROUND."""
    return np.minimum(retries.longest_s, retries.first_s * 2.0 ** np.minimum(attempts % ROUND, 30))


def backoff(retries: Retries, seed: int, devices: np.ndarray, attempts: np.ndarray) -> np.ndarray:
    """Return the seconds [N] that devices wait after attempts that were shed."""
    bounds = backoff_bounds(retries, attempts)
    return bounds * draw(seed, Drawn.BACKOFF, devices, attempts) if retries.jitter else bounds


Again = Callable[[np.ndarray, np.ndarray], Batch | None]  # times, devices -> their next requests


def run_service(
    calendar: Calendar, rate: float, queue_s: float, retries: Retries, seed: int, until_s: float, again: Again
) -> ServiceLog:
    """Serve requests until none is left, or until a time.

    Args:
        calendar: Requests; emptied.
        rate: Requests a second that the service bears beside playback.
        queue_s: Longest queue, in seconds of the rate.
        retries: Waits after a request that was shed.
        seed: Seed of the draws.
        until_s: End of the simulation.
        again: Called with times and devices of the requests that were served in a bin; returns further ones.
    """
    first = calendar.first() or 0
    begin, end = int(np.floor(first * BIN_S)), int(until_s)
    seconds = max(end - begin, 0) + 1
    log = ServiceLog(begin, np.zeros(seconds, np.int64), np.zeros(seconds, np.int64))
    limit, credit, one = max(int(rate * queue_s), 1), 0.0, first
    devices, attempts = _NONE[1:]
    while one * BIN_S < until_s and (len(devices) or calendar.first() is not None):
        if not len(devices):  # nothing waits: go on at the next bin with requests
            one, credit = max(one, calendar.first() or one), 0.0
            if one * BIN_S >= until_s:
                break
        _, new, tries = calendar.pop(one)
        devices, attempts = np.concatenate([devices, new]), np.concatenate([attempts, tries])
        credit = min(credit, rate * BIN_S) + rate * BIN_S
        count = min(len(devices), int(credit))
        credit -= count
        second, now = int(one * BIN_S + 1e-9) - begin, (one + 1) * BIN_S
        log.offered[second] += len(new)
        log.served[second] += count
        if count:
            more = again(np.full(count, now), devices[:count])
            if more is not None:
                calendar.push(*more)
        devices, attempts = devices[count:], attempts[count:]
        if len(devices) > limit:
            late, tries = devices[limit:], attempts[limit:]
            calendar.push(now + backoff(retries, seed, late, tries), late, tries + 1)
            devices, attempts, log.shed = devices[:limit], attempts[:limit], log.shed + len(late)
        log.longest_queue = max(log.longest_queue, len(devices))
        one += 1
    return log
