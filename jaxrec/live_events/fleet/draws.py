"""Random draws of the fleet: hashes of what is drawn, the device and a counter.

A draw depends on neither the time bins nor the order in which devices are simulated.
"""

from enum import IntEnum

import numpy as np

from jaxrec.core.hashing import uniform


class Drawn(IntEnum):
    """Purpose of a draw; names are appended, so that earlier draws keep their values."""

    REGION = 1
    ONLINE = 2
    SESSIONS = 3
    SESSION_TIME = 4
    TTL = 5
    SEGMENT = 6
    EDGE_TTL = 7
    CLOCK = 8
    VERSION = 9
    TRIGGER = 10
    BACKOFF = 11
    LOSS = 12
    ACKNOWLEDGEMENT = 13
    LATENCY = 14
    DUPLICATE = 15
    REORDER = 16
    FILL = 17
    POLL = 18
    COHORT = 19
    RECONNECTION = 20


def draw(seed: int, drawn: Drawn, devices: np.ndarray, *counters: int | np.ndarray) -> np.ndarray:
    """Return float64 [n] in (0, 1) for devices.

    Args:
        seed: Seed of the scenario.
        drawn: What is drawn.
        devices: [n] numbers of devices.
        counters: Whole numbers, or arrays [n] of them, by which draws of a device differ.
    """
    scalars = [c for c in counters if np.ndim(c) == 0]
    arrays = [c for c in counters if np.ndim(c)]
    return uniform(seed, int(drawn), *scalars, devices, *arrays)
