"""What SIGTERM does where the main thread can do nothing about it; test_command has what a loop does."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec.runtime import preemption

ROOT = Path(__file__).resolve().parents[2]

# Minutes in C, without the interpreter's lock: no handler written in Python runs meanwhile.
STUCK = """
import hashlib, signal, sys, time
from jaxrec.interrupt import Grace, Interrupt
grace = Grace(0.3, 75)
grace.kept = lambda: {kept}
with Interrupt(grace) as interrupt:
    print("ready", file=sys.stderr, flush=True)
    {wait}
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
"""


@contextlib.contextmanager
def stuck(kept, wait="pass"):
    with subprocess.Popen(
        [sys.executable, "-c", STUCK.format(kept=kept, wait=wait)], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()  # where nothing ended it, it would go on for an hour


@pytest.mark.parametrize(
    "kept, said", [("'step 7 is'", "step 7 is\n"), ("1 / 0", ""), ("time.sleep(60)", "")]
)
def test_a_process_that_cannot_leave_is_ended_when_its_grace_is_over(kept, said):
    with stuck(kept) as process:
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75
        # Before it, the handler's own line, where the signal came before the call that no handler interrupts.
        assert err.endswith(f"SIGTERM: not done within 0.3 s, leaving with 75: {said}" if said else "")


def test_ctrl_c_has_no_limit_and_another_process_that_was_told_begins_one():
    first = "told = 'early'; signal.raise_signal(signal.SIGINT); time.sleep(1); interrupt.requested = None"
    with stuck("told", f"{first}; told = 'it is'; interrupt.tell('SIGTERM')") as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75
        assert err == (
            "ready\n\nSIGINT: saving after this step\n"
            "SIGTERM: not done within 0.3 s, leaving with 75: it is\n"
        )


def test_a_second_sigterm_is_the_first_and_none_is_heard_once_the_loop_is_left(capfd):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with preemption.PreemptionHandler() as noted:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert noted.requested == "SIGTERM" and noted.exit_status(75) == 75
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == "\nSIGTERM: saving after this step\n"


def test_what_another_process_was_told_does_not_hide_what_this_one_was():
    noted = preemption.PreemptionHandler()
    noted.notify("SIGINT")
    noted.notify("SIGTERM")
    assert noted.requested == "SIGINT"
