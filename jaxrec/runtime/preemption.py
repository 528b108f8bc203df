"""What SIGTERM and Ctrl-C do: noted for a loop that saves first, and a limit to how long that may take.

A cluster that takes a machine back sends SIGTERM and, a while later, SIGKILL. A handler written in Python
runs once the main thread is back in the interpreter, so a process that waits for a lost peer never notes the
signal; `Grace` does not need the main thread.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

INTERRUPTED_EXIT, TERMINATED_EXIT = 130, 143  # exit statuses, as shells have them
_LAST_WORDS = 2.0  # seconds for saying which checkpoint is the last, which asks the storage


class GracePeriod:
    """From the first SIGTERM on, `seconds` to save and leave; then the process ends with `status`, whatever
    its main thread is doing. `kept` is asked then, and says what was saved.

    For the whole rest of a process, from its main thread. It watches through a pipe that Python's own part
    of the handler writes to at once, so the signal needs a handler in Python as well.
    """

    def __init__(self, seconds: float, status: int) -> None:
        self.seconds, self.status = seconds, status
        self.kept: Callable[[], str] = lambda: "nothing was saved"
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), name="grace", daemon=True).start()

    def begin(self) -> None:
        """As if SIGTERM had come to this process: another one was told."""
        os.write(self._write, bytes([signal.SIGTERM]))

    def _watch(self, read: int) -> None:
        while os.read(read, 1)[0] != signal.SIGTERM:
            pass  # Ctrl-C has no limit
        time.sleep(self.seconds)
        sure = threading.Timer(_LAST_WORDS, os._exit, (self.status,))
        sure.daemon = True
        sure.start()
        try:
            said = f"SIGTERM: not done within {self.seconds:g} s, leaving with {self.status}: {self.kept()}\n"
            os.write(2, said.encode())
        finally:
            os._exit(self.status)


class PreemptionHandler:
    """Notes SIGTERM and Ctrl-C for a loop that polls `requested` between steps, saves and returns.

    A context manager, for the main thread. A second Ctrl-C does not wait: it raises KeyboardInterrupt. A
    second SIGTERM is the first one again, and none is heard once the loop that a first one ended is left.
    """

    def __init__(self, grace: GracePeriod | None = None) -> None:
        self.requested: str | None = None  # "SIGTERM" or "SIGINT"
        self.grace = grace
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "PreemptionHandler":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            ignored = number == signal.SIGTERM and self.requested == "SIGTERM"
            signal.signal(number, signal.SIG_IGN if ignored else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == self.requested == "SIGINT":
            raise KeyboardInterrupt
        if name != self.requested:
            # print is not safe in a handler: it may be inside a print already
            os.write(2, f"\n{name}: saving after this step\n".encode())
        self.requested = name

    def notify(self, name: str) -> None:
        """Of another process that was told: "SIGTERM" or "SIGINT"."""
        if self.requested is None:
            self.requested = name
            if name == "SIGTERM" and self.grace is not None:
                self.grace.begin()

    def exit_status(self, preempted_exit: int) -> int:
        """0 where nothing was requested, `preempted_exit` after SIGTERM, 130 after Ctrl-C."""
        return {None: 0, "SIGTERM": preempted_exit, "SIGINT": INTERRUPTED_EXIT}[self.requested]
