"""what every command shares: flags, loading a config, the one-line error, the JSON result.

A command's module ends with

    if __name__ == "__main__":
        command.run(main, command.config_flag, command.json_flag, _flags)

where each further argument declares absl flags, and `main(flags) -> int | None` returns the exit status.
Exit 0: done. 2: the user's input is wrong, one line on standard error. 1: anything else, with a traceback.
130 after Ctrl-C. Neither jax nor polars is imported here: `--help` and a misspelt key answer at once.
"""

import contextlib
import copy
import dataclasses
import inspect
import logging as python_logging
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from jaxrec.config import Config
from jaxrec.config_check import check
from jaxrec.config_tree import fields_of, join, known_key
from jaxrec.errors import InputError
from jaxrec.interrupt import INTERRUPTED, TERMINATED
from jaxrec.plain import dumps

flags.disclaim_key_flags()  # --help lists the flags declared here under the command that was started

Kind = TypeVar("Kind")
INPUT_ERROR, DEFECT = 2, 1
_NO_CONFIG = "--config is missing; give a config file, as --config configs/smoe.py"
_HELP = re.compile(r"--?(help|helpshort|helpfull|helpxml|\?)(=.*)?")


# ---------------------------------------------------------------- the config file


@contextlib.contextmanager
def _imports_beside(path: Path) -> Iterator[None]:
    """`from configs import smoe` works in configs/bst.py from wherever the command is started."""
    root = str(path.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)


def load_config(spec: str) -> Config:
    """The config of "configs/smoe.py" or "configs/smoe.py:small", not yet checked."""
    return load(spec, Config)


def load(spec: str, kind: type[Kind]) -> Kind:
    """What a file's get_config gives, which must be a `kind`.

    The text after the colon is get_config's argument. Raises InputError where the file, its
    get_config or its argument is wrong.
    """
    name, colon, argument = spec.partition(":")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"--config={spec}: no file {path}; it must be a Python file with get_config()")
    with _imports_beside(path):
        try:
            found = runpy.run_path(name).get("get_config")
            if not callable(found):
                raise InputError(f"--config={spec}: {path} must define get_config()")
            if colon and not inspect.signature(found).parameters:
                raise InputError(f"--config={spec}: get_config() of {path} takes no argument")
            config = found(argument) if colon else found()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"--config={spec}: {_where(error, name)}{type(error).__name__}: {error}"
            ) from error
    if not isinstance(config, kind):
        wanted = f"{kind.__module__}.{kind.__name__}"
        raise InputError(f"--config={spec}: get_config() gave a {type(config).__name__}, not a {wanted}")
    return copy.deepcopy(config)  # TRAIN_MIXES and the like are shared; an override must not reach them


def _where(error: Exception, name: str) -> str:
    """The last line of the config file that an error came through."""
    if isinstance(error, SyntaxError):
        return ""  # names file and line itself
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return f"line {lines[-1]}: " if lines else ""


def _overrides(argv: list[str]) -> list[str]:
    """Dotted keys of the --config.key[=value] arguments."""
    found = (re.fullmatch(r"--?(?:no)?config\.([^=]*)(=.*)?", a, re.DOTALL) for a in argv)
    return [f[1] for f in found if f]


def _check_override(config: Config, path: str) -> None:
    """Raises InputError unless `path` leads to a value that a flag can set."""
    try:
        parts = config_path.split(path)
    except ValueError:
        raise InputError(f"--config.{path} is no key; write --config.train.batch_size=512") from None
    value: Any = config
    key = ""
    for part in parts:
        if isinstance(value, tuple) and isinstance(part, int):
            if not 0 <= part < len(value):
                raise InputError(f"{key}[{part}] does not exist; {key} holds {len(value)}")
            value, key = value[part], f"{key}[{part}]"
        elif dataclasses.is_dataclass(value) and isinstance(part, str):
            known_key(key, part, fields_of(type(value)))
            value, key = getattr(value, part), join(key, part)
        else:
            raise InputError(f"{join(key, str(part))} does not exist; {key} is {value!r}")
    if isinstance(parts[-1], int) and not dataclasses.is_dataclass(value):
        raise InputError(f"{key} cannot be set alone; set the whole of {key[: key.rindex('[')]}")
    inside = [value, *value] if isinstance(value, tuple) else [value]
    if any(dataclasses.is_dataclass(v) for v in inside):
        first = key if len(inside) == 1 else f"{key}[0]"
        inner = next(v for v in inside if dataclasses.is_dataclass(v))
        names = ", ".join(fields_of(type(inner)))
        raise InputError(
            f"{key} cannot be set as a whole; set --config.{first}.<one of {names}>, or write a file"
        )


class _Number(flags.ArgumentParser):
    """A number or None; `check` says later where None may stand."""

    def __init__(self, kind: type[int] | type[float], words: str):
        self.kind, self.words = kind, words

    def parse(self, argument: str | float | None) -> float | None:
        if argument in (None, "None", "none"):
            return None
        try:
            return self.kind(argument)  # type: ignore[arg-type]
        except ValueError:
            raise ValueError(f"must be {self.words}") from None

    def flag_type(self) -> str:
        return self.kind.__name__


class _Boolean(flags.BooleanParser):
    def parse(self, argument: str | int | bool) -> bool:
        try:
            return super().parse(argument)
        except (TypeError, ValueError):
            raise ValueError("must be true or false") from None


def config_flag(read: Callable[[str], Config] = load_config) -> None:
    """Declares --config, read by `read`, and, for those on the command line, --config.key overrides."""
    if _overrides(sys.argv) and not any(re.fullmatch(r"--?config(=.*)?", a) for a in sys.argv):
        raise InputError(_NO_CONFIG)
    config_flags.register_flag_parser_for_type(int, _Number(int, "a whole number"))
    config_flags.register_flag_parser_for_type(float, _Number(float, "a number"))
    config_flags.register_flag_parser_for_type(bool, _Boolean())

    def overridden(spec: str) -> Config:
        config = read(spec)
        for path in _overrides(sys.argv):
            _check_override(config, path)
        return config

    text = "a config file, as configs/smoe.py:small; --config.train.batch_size=512 changes a value of it"
    # config_flags' own file flag runs on with a broken object where the file is missing.
    config_flags.DEFINE_config_dataclass("config", Config(), text, parse_fn=overridden)
    flags.FLAGS["config"].default_as_str = None  # the repr of a whole config says nothing in --help


def json_flag() -> None:
    """Declares --json."""
    flags.DEFINE_boolean(
        "json", False, "print the result as one JSON object on standard output, and nothing else"
    )


def hosts_flags() -> None:
    """Declares the flags of `hosts.find`: how this process finds the others it works with."""
    flags.DEFINE_string("coordinator", "", "host:port at which process 0 is found by all")
    flags.DEFINE_integer("processes", None, "how many processes there are, one a host")
    flags.DEFINE_integer("process", None, "which of them this is, from 0")
    flags.DEFINE_enum(
        "hosts", "", ["", "auto", "alone"], "auto: jax asks the cluster, as on Cloud TPU VMs; alone: "
        "whatever the cluster says; empty: by JAXREC_COORDINATOR, JAXREC_PROCESSES and JAXREC_PROCESS, "
        "or what Slurm or GKE has set, else alone",
    )  # fmt: skip


# ---------------------------------------------------------------- running


def one_line(error: BaseException) -> str:
    """The innermost InputError of a chain, else the error itself, on one line."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, InputError):
        inner = inner.__cause__ or inner.__context__
    text = str(inner or error) or type(error).__name__
    return re.sub(r"\s*\n\s*", " ", text.strip()).removeprefix("flag ")


def _complain(error: BaseException) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return INPUT_ERROR


def failed(error: BaseException) -> int:
    """Says on standard error what ended a command; its exit status. SystemExit has said it already."""
    if isinstance(error, InputError):
        return _complain(error)
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
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
                raise InputError(_NO_CONFIG)
            check(flags.FLAGS.config)
    except (flags.Error, ValueError, TypeError, LookupError) as error:  # what absl and config_flags raise
        sys.exit(_complain(error))
    return [argv[0], *given]


def _ours(record: python_logging.LogRecord) -> bool:
    """Keeps jaxrec's own lines, and warnings of the libraries, which report every step of every save."""
    return record.levelno >= python_logging.WARNING or Path(record.pathname).is_relative_to(_HERE)


_HERE = Path(__file__).resolve().parent


def run(
    main: Callable[..., int | None], *declare: Callable[[], None], positional: tuple[str, ...] = ()
) -> None:
    """Declares flags, parses, runs `main(flags)`, and exits. Flags a command needs are declared by
    `declare`, not at import, so that one command may import another. Arguments without a flag, named in
    `positional`, are given to `main` behind the flags."""

    def guarded(argv: list[str]) -> int:
        logging.get_absl_handler().addFilter(_ours)  # every library's lines end in it
        # As an exception, so that half-written directories are cleaned away; a training loop polls instead.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        quiet = json_flag in declare and flags.FLAGS.json
        try:
            with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
                return main(flags.FLAGS, *argv[1:]) or 0
        except (InputError, KeyboardInterrupt) as error:
            return failed(error)

    try:
        for each in declare:  # here, where the caller's module is the one absl sees declaring them
            each()
    except InputError as error:
        sys.exit(_complain(error))
    app.run(guarded, flags_parser=lambda argv: _parse(argv, positional))


def print_result(result: dict[str, Any], table: str) -> None:
    """The result on standard output: the JSON object alone under --json, else the table."""
    if flags.FLAGS.json:
        print(dumps(result), file=sys.__stdout__, flush=True)
    else:
        print(table, flush=True)


# What tensorboardX imports where it is there, two seconds of it, for tensors and buckets it is not given.
UNUSED = ("torch", "google.cloud.storage")


@contextlib.contextmanager
def without(*libraries: str) -> Iterator[None]:
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
