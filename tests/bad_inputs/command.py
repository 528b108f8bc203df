"""A command of jaxrec in this process: arguments in, exit status and output out."""

import contextlib
import io
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags, logging

import jaxrec

_PACKAGE = Path(jaxrec.__file__).parent


class Result(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """Return the lines that the command printed as its error."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def has_traceback(self) -> bool:
        """Return True if a traceback was printed."""
        return "Traceback (most recent call last)" in self.err


def run_command(name: str, *arguments: str, folder: Path) -> Result:
    """Run `python -m jaxrec.<name> ARGUMENTS` in a folder, with the flags of this command alone.

    What differs from a process of its own: absl's start-up (`app.run`) is replaced by the parsing of the
    flags and the call of main, and the state that a command changes is put back.
    """
    with _kept_state(folder), contextlib.redirect_stdout(io.StringIO()) as out, _stderr() as err:
        sys.argv[:] = [f"jaxrec.{name}", *arguments]
        out_stream, sys.__stdout__ = sys.__stdout__, sys.stdout  # `print_result` prints JSON there
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of runpy: the module was imported before
                runpy.run_module(f"jaxrec.{name}", run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
        finally:
            sys.__stdout__ = out_stream
    return Result(status, out.getvalue(), err.getvalue())


def _is_own(module: str) -> bool:
    """Return True for the module of a command, or one that declares flags for it."""
    return module.startswith(("__main__", "jaxrec", str(_PACKAGE)))


def _run_without_start(main, argv=None, flags_parser=None):
    app.define_help_flags()
    sys.exit(main(flags_parser(sys.argv)))


@contextlib.contextmanager
def _stderr() -> Iterator[io.StringIO]:
    """Capture standard error, and the records of absl's handler."""
    handler = logging.get_absl_handler().python_handler
    with contextlib.redirect_stderr(io.StringIO()) as err:
        stream, handler.stream = handler.stream, err
        root = logging._absl_logger.parent
        added = logging.get_absl_handler() not in root.handlers
        if added:  # as app.run does
            root.addHandler(logging.get_absl_handler())
        try:
            yield err
        finally:
            handler.stream = stream
            if added:
                root.removeHandler(logging.get_absl_handler())


@contextlib.contextmanager
def _kept_state(folder: Path) -> Iterator[None]:
    """Put back the working folder, arguments, environment, signals, modules' paths and flags afterwards."""
    before, argv, path, environment = Path.cwd(), [*sys.argv], [*sys.path], dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    names, values = set(flags.FLAGS), flags.FLAGS.flag_values_dict()
    # The thread of `GracePeriod` would end this process after a later test's SIGTERM.
    wakeup, unraisable = signal.set_wakeup_fd(-1), sys.unraisablehook
    run, app.run = app.run, _run_without_start
    os.chdir(folder)
    try:
        yield
    finally:
        app.run = run
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = unraisable
        os.chdir(before)
        sys.argv[:], sys.path[:] = argv, path
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # A library that was imported meanwhile keeps its flags.
        for name in set(flags.FLAGS) - names:
            if name.startswith("config") or _is_own(flags.FLAGS.find_module_defining_flag(name, "")):
                delattr(flags.FLAGS, name)
        for name, value in values.items():
            flags.FLAGS[name].value = value
