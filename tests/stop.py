"""Interrupt of a training, set after a number of reads, in place of a signal."""


class Stop:
    """Interrupt that is set after `polls` reads of it; never without `polls`."""

    def __init__(self, polls=None):
        self._left = polls

    @property
    def requested(self):
        if self._left is None:
            return None
        self._left -= 1
        return "SIGTERM" if self._left < 0 else None
