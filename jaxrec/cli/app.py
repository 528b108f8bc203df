"""what every command shares: flags, loading a config, the one-line error, the JSON result.

A command's module ends with

    if __name__ == "__main__":
        command.run(main, command.config_flag, command.json_flag, _flags)

where each further argument declares absl flags, and `main(flags) -> int | None` returns the exit status.
Exit 0: done. 2: the user's input is wrong, one line on standard error. 1: anything else, with a traceback.
130 after Ctrl-C. Neither jax nor polars is imported here: `--help` and a misspelt key answer at once.
"""

import contextlib
import logging as python_logging
import re
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
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import dumps
from jaxrec.runtime.preemption import INTERRUPTED_EXIT, TERMINATED_EXIT

flags.disclaim_key_flags()  # --help lists the flags declared here under the command that was started
INPUT_ERROR, DEFECT = 2, 1
_HELP = re.compile(r"--?(help|helpshort|helpfull|helpxml|\?)(=.*)?")


# ---------------------------------------------------------------- running


def one_line(error: BaseException) -> str:
    """The innermost InputError of a chain, else the error itself, on one line."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, InputError):
        inner = inner.__cause__ or inner.__context__
    text = str(inner or error) or type(error).__name__
    return re.sub(r"\s*\n\s*", " ", text.strip()).removeprefix("flag ")


def _print_error(error: BaseException) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return INPUT_ERROR


def report_failure(error: BaseException) -> int:
    """Says on standard error what ended a command; its exit status. SystemExit has said it already."""
    if isinstance(error, InputError):
        return _print_error(error)
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else DEFECT
    traceback.print_exception(error)
    return DEFECT


def _underscored(argument: str) -> str:
    """--next-k=1,3 as absl wants it, --next_k=1,3."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _parse(argv: list[str], positional: tuple[str, ...]) -> list[str]:
    """Reads the command line; a complaint, or --help, exits here. Returns the name and the positional
    arguments, as many as there are names of them."""
    argv = [_underscored(a) for a in argv]
    try:
        wanted = [a for a in argv[1:] if _HELP.fullmatch(a)]
        if wanted:
            with contextlib.suppress(SystemExit):  # absl would exit with 1
                flags.FLAGS([argv[0], wanted[0]])
            sys.exit(0)
        given = flags.FLAGS(argv)[1:]
        if len(given) > len(positional):
            raise InputError(f"{given[len(positional)]!r} is no flag; --help lists those that exist")
        if len(given) < len(positional):
            raise InputError(f"{positional[len(given)]} is missing; give {' '.join(positional)}")
        if "config" in flags.FLAGS and isinstance(flags.FLAGS["config"].value, Config):  # of `config_flag`
            if not flags.FLAGS["config"].present:
                raise InputError(NO_CONFIG)
            check(flags.FLAGS.config)
    except (flags.Error, ValueError, TypeError, LookupError) as error:  # what absl and config_flags raise
        sys.exit(_print_error(error))
    return [argv[0], *given]


def _is_own_record(record: python_logging.LogRecord) -> bool:
    """Keeps jaxrec's own lines, and warnings of the libraries, which report every step of every save."""
    return record.levelno >= python_logging.WARNING or Path(record.pathname).is_relative_to(_HERE)


_HERE = Path(__file__).resolve().parents[1]


def run(
    main: Callable[..., int | None], *declare: Callable[[], None], positional: tuple[str, ...] = ()
) -> None:
    """Declares flags, parses, runs `main(flags)`, and exits. Flags a command needs are declared by
    `declare`, not at import, so that one command may import another. Arguments without a flag, named in
    `positional`, are given to `main` behind the flags."""

    def guarded(argv: list[str]) -> int:
        logging.get_absl_handler().addFilter(_is_own_record)  # every library's lines end in it
        # As an exception, so that half-written directories are cleaned away; a training loop polls instead.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT))
        quiet = json_flag in declare and flags.FLAGS.json
        try:
            with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
                return main(flags.FLAGS, *argv[1:]) or 0
        except (InputError, KeyboardInterrupt) as error:
            return report_failure(error)

    try:
        for each in declare:  # here, where the caller's module is the one absl sees declaring them
            each()
    except InputError as error:
        sys.exit(_print_error(error))
    app.run(guarded, flags_parser=lambda argv: _parse(argv, positional))


def print_result(result: dict[str, Any], table: str) -> None:
    """The result on standard output: the JSON object alone under --json, else the table."""
    if flags.FLAGS.json:
        print(dumps(result), file=sys.__stdout__, flush=True)
    else:
        print(table, flush=True)


# What tensorboardX imports where it is there, two seconds of it, for tensors and buckets it is not given.
UNUSED_LIBRARIES = ("torch", "google.cloud.storage")


@contextlib.contextmanager
def hide_libraries(*libraries: str) -> Iterator[None]:
    """Within, `libraries` are as if they were not installed, unless loaded already: for imports of ours that
    would import them, though nothing here uses them."""
    hidden = [library for library in libraries if library not in sys.modules]
    for library in hidden:
        sys.modules[library] = None  # type: ignore[assignment]  # Python's own way to make an import fail
    try:
        yield
    finally:
        for library in hidden:
            del sys.modules[library]
