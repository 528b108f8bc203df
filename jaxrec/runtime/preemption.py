"""SIGTERM and Ctrl-C: a request to save and stop, and a time limit for both.

A cluster that preempts a machine sends SIGTERM and, some time later, SIGKILL. A signal handler written in
Python runs only when the main thread returns to the interpreter. A process that waits for a lost peer
therefore never handles the signal. `GracePeriod` works without the main thread.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

INTERRUPTED_EXIT, TERMINATED_EXIT = 130, 143  # exit statuses of shells after SIGINT and SIGTERM
_DESCRIBE_SECONDS = 2.0  # limit for describing the last checkpoint, which requires access to its storage


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Handle SIGINT and SIGTERM at the end of a block of imports instead of within it; for the main thread.

    A handler that raises within the initialisation of an extension module, such as jaxlib's, ends the process
    by a segmentation fault.
    """
    received: list[int] = []
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            previous[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(received):
            signal.raise_signal(late)


class GracePeriod:
    """Time limit for saving and exiting after the first SIGTERM.

    `seconds` after the signal, a thread prints the result of `describe_saved` to standard error and ends the
    process with `status`, even if the main thread is blocked. If `describe_saved` takes too long or fails,
    the process ends without the message.

    Create the object in the main thread, once per process. The thread reads a pipe to which Python's C-level
    signal handler writes at once; that handler requires a Python handler for the signal as well.

    Args:
        seconds: Time limit from the first SIGTERM, in seconds.
        status: Exit status of the process at the limit.
    """

    def __init__(self, seconds: float, status: int) -> None:
        self.seconds, self.status = seconds, status
        self.describe_saved: Callable[[], str] = lambda: "nothing was saved"
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), name="grace", daemon=True).start()

    def begin(self) -> None:
        """Start the time limit as if this process had received SIGTERM."""
        os.write(self._write, bytes([signal.SIGTERM]))

    def _watch(self, read: int) -> None:
        while os.read(read, 1)[0] != signal.SIGTERM:
            pass  # Ctrl-C has no time limit
        time.sleep(self.seconds)
        exit_timer = threading.Timer(_DESCRIBE_SECONDS, os._exit, (self.status,))
        exit_timer.daemon = True
        exit_timer.start()
        try:
            message = (
                f"SIGTERM: not done within {self.seconds:g} s, exiting with status {self.status}: "
                f"{self.describe_saved()}\n"
            )
            os.write(2, message.encode())
        finally:
            os._exit(self.status)


class PreemptionHandler:
    """Recorder of SIGTERM and Ctrl-C for a loop that polls `requested` between steps.

    The loop saves and returns when `requested` is set. The handler is a context manager for the main thread.
    A second Ctrl-C raises KeyboardInterrupt at once. A second SIGTERM has no further effect. After the block
    that a SIGTERM ended, SIGTERM is ignored.
    """

    def __init__(self, grace: GracePeriod | None = None) -> None:
        self.requested: str | None = None  # "SIGTERM" or "SIGINT"
        self.grace = grace
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "PreemptionHandler":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            ignored = number == signal.SIGTERM and self.requested == "SIGTERM"
            signal.signal(number, signal.SIG_IGN if ignored else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == self.requested == "SIGINT":
            raise KeyboardInterrupt
        if name != self.requested:
            # os.write, because print is not reentrant and the signal may interrupt a print.
            os.write(2, f"\n{name}: saving after this step\n".encode())
        self.requested = name

    def notify(self, name: str) -> None:
        """Record that another process has received `name`, "SIGTERM" or "SIGINT".

        A request that this process has already recorded has priority.
        """
        if self.requested is None:
            self.requested = name
            if name == "SIGTERM" and self.grace is not None:
                self.grace.begin()

    def exit_status(self, preempted_exit: int) -> int:
        """Return 0 without a request, `preempted_exit` after SIGTERM, 130 after Ctrl-C.

        Args:
            preempted_exit: Exit status from 0 to 255, `train.preemption_exit_code`.
        """
        return {None: 0, "SIGTERM": preempted_exit, "SIGINT": INTERRUPTED_EXIT}[self.requested]
