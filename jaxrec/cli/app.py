"""Common code of all commands: flags, one-line errors, exit statuses, results.

The module of a command ends with

    if __name__ == "__main__":
        run(main, config_flag, json_flag, _flags)

Each argument after `main` declares absl flags. `main(flags) -> int | None` returns the exit status: 0 for
success, 2 for wrong input (reported in one line on standard error), 1 for a run or a place that cannot be
used further (one line) and for any other error (with a traceback), 130 after Ctrl-C, 141 where nothing reads
standard output any more. This module imports neither jax nor polars, so `--help` and the error for a
misspelt key appear at once.
"""

import contextlib
import errno
import logging as python_logging
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from jaxrec.cli.flags import NO_CONFIG, json_flag
from jaxrec.config.schema import Config
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError, RunError
from jaxrec.core.json_io import dumps
from jaxrec.runtime.preemption import INTERRUPTED_EXIT, TERMINATED_EXIT

flags.disclaim_key_flags()  # so that --help lists the flags of this module under the command
INPUT_ERROR, DEFECT = 2, 1
CLOSED_PIPE_EXIT = 128 + 13  # as a shell reports a process that SIGPIPE ended
_HELP = re.compile(r"--?(help|helpshort|helpfull|helpxml|\?)(=.*)?")


# ---------------------------------------------------------------- running


def one_line(error: BaseException) -> str:
    """Format the innermost InputError of a chain, or the error itself, in one line."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, InputError):
        inner = inner.__cause__ or inner.__context__
    text = str(inner or error) or type(error).__name__
    return re.sub(r"\s*\n\s*", " ", text.strip()).removeprefix("flag ")


def _print_input_error(error: BaseException) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return INPUT_ERROR


def report_failure(error: BaseException) -> int:
    """Print the error that ended a command to standard error; return the exit status.

    Nothing is printed for SystemExit, whose message has been printed before.
    """
    if isinstance(error, InputError):
        return _print_input_error(error)
    if isinstance(error, RunError):
        print(f"error: {error}", file=sys.stderr)
        return DEFECT
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else DEFECT
    if outside := _outside_error(error):
        print(f"error: {outside}", file=sys.stderr)
        return DEFECT
    traceback.print_exception(error)
    return DEFECT


def _outside_error(error: BaseException) -> str:
    """Return an error that no change of the program can prevent in one line; "" for another error."""
    return _place_error(error) or _bucket_error(error)


# Errors of the place of a file or folder: a file in place of a folder, no permission, a full or failing disk.
_PLACE_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOSPC,
    errno.EDQUOT, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE,
)  # fmt: skip
# Texts of libraries whose errors have no errno: Polars, array_record, NumPy.
_FULL = ("No space left on device", "RESOURCE_EXHAUSTED: Error writing", r"^\d+ requested and \d+ written$")


def _place_error(error: BaseException) -> str:
    """Return an error of the place of a file in one line; "" for another error.

    Orbax and TensorStore report a full disk in the text of errors of other types.
    """
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno in _PLACE_ERRORS:
            full = "the disk is full: " if inner.errno == errno.ENOSPC else ""
            return f"{inner.filename}: {inner.strerror}" if inner.filename else f"{full}{inner.strerror}"
        if any(re.search(text, str(inner)) for text in _FULL):
            return f"the disk is full: {str(inner).splitlines()[0][:300]}"
        inner = inner.__cause__ or inner.__context__
    return ""


_OF_BUCKETS = {
    "aiobotocore",
    "aiohttp",
    "botocore",
    "gcsfs",
    "google",
    "s3fs",
}  # libraries that access buckets
_NO_CONNECTION = "CURL error"  # in errors of TensorStore, which are of built-in types


def _bucket_error(error: BaseException) -> str:
    """Return an error of access to a bucket in one line; "" for another error.

    The libraries have tried several times before they raise it. They raise OSError for a bucket that is
    missing or forbidden.
    """
    inner: BaseException | None = error
    while inner is not None:
        libraries = {type(inner).__module__.partition(".")[0]}
        if isinstance(inner, OSError):
            frames = (frame for frame, _ in traceback.walk_tb(inner.__traceback__))
            libraries |= {frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames}
        if libraries & _OF_BUCKETS or _NO_CONNECTION in str(inner):
            text = " ".join(str(inner).split())[:300]
            return (
                f"a bucket cannot be accessed: {type(inner).__name__}: {text}; start the command again once "
                "it can: a training then resumes from its last checkpoint"
            )
        inner = inner.__cause__ or inner.__context__
    return ""


def report_unraisable(unraisable: Any) -> None:
    """Print an error that cannot be raised, as `sys.unraisablehook` does.

    Threads of TensorStore report to the event loop of a save that has failed: such reports are not printed.
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def _underscored(argument: str) -> str:
    """Convert the name of a flag to the form of absl: --next-k=1,3 -> --next_k=1,3."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def require_value(flag: str, value: str, allowed: str) -> None:
    """Raise InputError where a flag or a positional argument is empty, as of a variable that is not set."""
    if not value.strip():
        raise InputError(f"{flag} is empty; allowed: {allowed}")


def _parse(argv: list[str], positional: tuple[str, ...]) -> list[str]:
    """Parse the command line; exit after --help (status 0) or an error (status 2).

    Args:
        argv: The command line, including the name of the program.
        positional: Names of the positional arguments; a last name in brackets, such as "[W2 ...]", stands
            for any number of them.

    Returns:
        The name of the program and the positional arguments.
    """
    argv = [_underscored(a) for a in argv]
    try:
        help_flags = [a for a in argv[1:] if _HELP.fullmatch(a)]
        if help_flags:
            with contextlib.suppress(SystemExit):  # absl would exit with 1
                flags.FLAGS([argv[0], help_flags[0]])
            sys.exit(0)
        values = flags.FLAGS(argv)[1:]
        required = [name for name in positional if not name.startswith("[")]
        if len(values) > len(required) == len(positional):
            raise InputError(f"{values[len(positional)]!r} is no flag; --help lists the flags")
        for name, value in zip(required, values, strict=False):
            require_value(name, value, "the workdir of a run")
        if len(values) < len(required):
            raise InputError(f"{positional[len(values)]} is missing; give {' '.join(positional)}")
        for name, allowed in (
            ("checkpoint", "the workdir of a training run"),
            ("export", "a folder of an export"),
        ):
            if name in flags.FLAGS and flags.FLAGS[name].value is not None:
                require_value(f"--{name}", str(flags.FLAGS[name].value), allowed)
        if "config" in flags.FLAGS and isinstance(flags.FLAGS["config"].value, Config):  # from `config_flag`
            if not flags.FLAGS["config"].present:
                raise InputError(NO_CONFIG)
            check(flags.FLAGS.config)
    except (flags.Error, ValueError, TypeError, LookupError) as error:  # raised by absl and config_flags
        sys.exit(_print_input_error(error))
    return [argv[0], *values]


def _is_shown(record: python_logging.LogRecord) -> bool:
    """Return True for records of jaxrec and for warnings of any library.

    At lower levels the libraries report every phase of every save.
    """
    if record.exc_info and record.name.partition(".")[0] in _OF_BUCKETS:  # of an error that is raised too
        return False
    return record.levelno >= python_logging.WARNING or Path(record.pathname).is_relative_to(_PACKAGE)


_PACKAGE = Path(__file__).resolve().parents[1]


def run(
    main: Callable[..., int | None], *declare: Callable[[], None], positional: tuple[str, ...] = ()
) -> None:
    """Declare and parse flags, run `main`, and exit with its status.

    Args:
        main: Called with the flag values and then the positional arguments; returns the exit status or None.
        *declare: Functions that declare flags. Declaration at import time would prevent one command from
            importing another.
        positional: Names of the positional arguments, as in `_parse`.
    """

    def guarded(argv: list[str]) -> int:
        logging.get_absl_handler().addFilter(_is_shown)  # the log lines of all libraries pass this handler
        # An exception on SIGTERM cleans up incomplete directories. A training loop polls the signal instead.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT))
        sys.unraisablehook = report_unraisable
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # set by the package, for the imports
            signal.signal(signal.SIGINT, signal.default_int_handler)
        json_only = json_flag in declare and flags.FLAGS.json
        try:
            with contextlib.redirect_stdout(sys.stderr) if json_only else contextlib.nullcontext():
                status = main(flags.FLAGS, *argv[1:]) or 0
            sys.stdout.flush()  # a reader that is gone is noticed here, not while Python ends
            return status
        except BrokenPipeError as error:
            if not _reader_is_gone():
                return report_failure(error)
            # Python would write what is left in the buffer as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED_PIPE_EXIT
        except (InputError, RunError, KeyboardInterrupt) as error:
            return report_failure(error)
        except Exception as error:
            if not _outside_error(error):
                raise
            return report_failure(error)

    try:
        for declare_flags in declare:  # called here, because absl attributes the flags to the calling module
            declare_flags()
    except InputError as error:
        sys.exit(_print_input_error(error))
    app.run(guarded, flags_parser=lambda argv: _parse(argv, positional))


def _reader_is_gone() -> bool:
    """Return True if nothing reads standard output, as after `command | head`."""
    try:
        poll = select.poll()
        poll.register(sys.__stdout__.fileno(), 0)  # type: ignore[union-attr]
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, ValueError, OSError):  # no standard output, or none with a file
        return False


def print_result(result: dict[str, Any], table: str) -> None:
    """Print the result to standard output: the JSON object under --json, else `table`."""
    if flags.FLAGS.json:
        print(dumps(result), file=sys.__stdout__, flush=True)
    else:
        print(table, flush=True)


# Optional imports of tensorboardX (2 seconds), for torch tensors and buckets that jaxrec never passes.
UNUSED_LIBRARIES = ("torch", "google.cloud.storage")


@contextlib.contextmanager
def hide_libraries(*libraries: str) -> Iterator[None]:
    """Hide libraries from imports in a block, as if they were not installed.

    A library that is already loaded stays visible. The block avoids slow optional imports of dependencies.
    """
    hidden = [library for library in libraries if library not in sys.modules]
    for library in hidden:
        sys.modules[library] = None  # type: ignore[assignment]  # makes the import raise ModuleNotFoundError
    try:
        yield
    finally:
        for library in hidden:
            del sys.modules[library]
