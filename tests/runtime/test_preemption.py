"""Grace period of a blocked process; tests/cli/test_app.py covers loops."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrec.runtime import preemption

ROOT = Path(__file__).resolve().parents[2]

# Minutes in C without the GIL, during which no signal handler written in Python runs.
STUCK = """
import hashlib, signal, sys, time
from jaxrec.runtime.preemption import GracePeriod, PreemptionHandler
grace = GracePeriod(0.3, 75)
grace.describe_saved = lambda: {describe_saved}
with PreemptionHandler(grace) as interrupt:
    print("ready", file=sys.stderr, flush=True)
    {wait}
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
"""


@contextlib.contextmanager
def stuck(describe_saved, wait="pass"):
    """Yield a process that runs STUCK with two code fragments; kill it at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", STUCK.format(describe_saved=describe_saved, wait=wait)],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()  # otherwise the process would run for an hour


@pytest.mark.parametrize(
    "describe_saved, text", [("'step 7 is'", "step 7 is\n"), ("1 / 0", ""), ("time.sleep(60)", "")]
)
def test_blocked_process_is_ended_after_its_grace_period(describe_saved, text):
    with stuck(describe_saved) as process:
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75
        # The line of the handler comes first if the signal arrives before the uninterruptible call.
        assert err.endswith(f"SIGTERM: not done within 0.3 s, exiting with status 75: {text}" if text else "")


def test_ctrl_c_has_no_limit_and_notify_starts_one():
    first = "saved = 'early'; signal.raise_signal(signal.SIGINT); time.sleep(1); interrupt.requested = None"
    with stuck("saved", f"{first}; saved = 'it is'; interrupt.notify('SIGTERM')") as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75
        assert err == (
            "ready\n\nSIGINT: saving after this step\n"
            "SIGTERM: not done within 0.3 s, exiting with status 75: it is\n"
        )


def test_second_sigterm_has_no_effect_and_sigterm_is_ignored_after_the_block(capfd):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with preemption.PreemptionHandler() as handler:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert handler.requested == "SIGTERM" and handler.exit_status(75) == 75
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == "\nSIGTERM: saving after this step\n"


def test_notify_does_not_replace_an_earlier_request():
    handler = preemption.PreemptionHandler()
    handler.notify("SIGINT")
    handler.notify("SIGTERM")
    assert handler.requested == "SIGINT"


def test_signals_during_imports_are_handled_at_the_end_of_the_block():
    """Each once, in their order, by the handlers from before; an ignored signal stays ignored."""
    handled = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: handled.append(number)) for number in numbers}
    try:
        with preemption.deferred_signals():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                signal.raise_signal(number)
            assert handled == []
        assert handled == [signal.SIGTERM, signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with preemption.deferred_signals():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), preemption.deferred_signals():
            signal.raise_signal(signal.SIGINT)
            handled.append("the rest of the block")
        assert handled[-1] == "the rest of the block"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
