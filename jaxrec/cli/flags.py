"""Flags of several commands: --config with overrides, --json, --hosts and others."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable
from typing import Any, Literal

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from jaxrec.config.loading import load_config
from jaxrec.config.migrations import upgrade_arguments
from jaxrec.config.schema import Config
from jaxrec.config.tree import fields_of, join, known_key
from jaxrec.core.errors import InputError

flags.disclaim_key_flags()  # so that --help lists these flags under the command that declares them

NO_CONFIG = "--config is missing; give a config file, as --config configs/smoe.py"


def _override_keys(argv: list[str]) -> list[str]:
    """Return the dotted keys of the --config.key[=value] arguments."""
    matches = (re.fullmatch(r"--?(?:no)?config\.([^=]*)(=.*)?", a, re.DOTALL) for a in argv)
    return [match[1] for match in matches if match]


def _check_override(config: Any, path: str) -> None:
    """Raise InputError unless `path` is the key of a value that a flag can set."""
    try:
        segments = config_path.split(path)
        if not all(isinstance(segment, str | int) for segment in segments):
            raise ValueError(path)
    except ValueError:
        raise InputError(
            f"--config.{path} is not a key; write a key such as --config.train.batch_size=512"
        ) from None
    value: Any = config
    key = ""
    for segment in segments:
        if isinstance(value, tuple) and isinstance(segment, int):
            if not 0 <= segment < len(value):
                raise InputError(f"{key}[{segment}] does not exist; the length of {key} is {len(value)}")
            value, key = value[segment], f"{key}[{segment}]"
        elif dataclasses.is_dataclass(value) and isinstance(segment, str):
            known_key(key, segment, fields_of(type(value)))
            value, key = getattr(value, segment), join(key, segment)
        else:
            raise InputError(f"{join(key, str(segment))} does not exist; {key} is {value!r}")
    if isinstance(segments[-1], int) and not dataclasses.is_dataclass(value):
        raise InputError(f"{key} cannot be set alone; set all of {key[: key.rindex('[')]}")
    values = [value, *value] if isinstance(value, tuple) else [value]
    if any(dataclasses.is_dataclass(v) for v in values):
        first = key if len(values) == 1 else f"{key}[0]"
        inner = next(v for v in values if dataclasses.is_dataclass(v))
        names = ", ".join(fields_of(type(inner)))
        raise InputError(
            f"{key} cannot be set as a whole; set --config.{first}.<one of {names}>, or write a config file"
        )


class _Number(flags.ArgumentParser):
    """Parser of a number or None; `check` rejects None where a number is needed."""

    def __init__(self, number_type: type[int] | type[float], description: str):
        self.number_type, self.description = number_type, description

    def parse(self, argument: str | float | None) -> float | None:
        if argument in (None, "None", "none"):
            return None
        try:
            return self.number_type(argument)  # type: ignore[arg-type]
        except ValueError:
            raise ValueError(f"must be {self.description}") from None

    def flag_type(self) -> str:
        return self.number_type.__name__


class _Boolean(flags.BooleanParser):
    def parse(self, argument: str | int | bool) -> bool:
        try:
            return super().parse(argument)
        except (TypeError, ValueError):
            raise ValueError("must be true or false") from None


def _is_given(flag: str) -> bool:
    """Return True if the command line has a flag."""
    return any(re.fullmatch(rf"--?{flag}(=.*)?", a, re.DOTALL) for a in sys.argv[1:])


def config_flag(read: Callable[[str], Any] = load_config, replaced_by: str = "", default: Any = None) -> None:
    """Declare --config and the --config.key overrides of the command line.

    Args:
        read: Function that reads a config from the value of --config.
        replaced_by: Flag that replaces --config, which is then not declared; "" for none.
        default: Config of the type that `read` returns, for the types of the overrides; None for a `Config`.
    """
    sys.argv[:] = upgrade_arguments(sys.argv)
    if _override_keys(sys.argv) and not _is_given("config"):
        raise InputError(NO_CONFIG)
    if replaced_by and _is_given(replaced_by) and not _is_given("config"):
        return
    config_flags.register_flag_parser_for_type(int, _Number(int, "a whole number"))
    config_flags.register_flag_parser_for_type(float, _Number(float, "a number"))
    config_flags.register_flag_parser_for_type(bool, _Boolean())
    config_flags.register_flag_parser_for_type(Literal, flags.ArgumentParser())

    def overridden(spec: str) -> Any:
        config = read(spec)
        for path in _override_keys(sys.argv):
            _check_override(config, path)
        return config

    text = "config file, such as configs/smoe.py:small; --config.train.batch_size=512 overrides one value"
    # The file flag of config_flags continues with a broken object if the file is missing.
    config_flags.DEFINE_config_dataclass(
        "config", Config() if default is None else default, text, parse_fn=overridden
    )
    flags.FLAGS["config"].default_as_str = None  # --help omits the repr of the whole config


def config_arguments() -> str:
    """Return --config and its overrides as on the command line, for a message that names the next command."""
    words, argv = [], sys.argv[1:]
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if re.match(r"--?(no)?config\b", argument):
            words += [argument, following] if argument in ("--config", "-config") else [argument]
    return shlex.join(words)


def json_flag() -> None:
    """Declare --json."""
    flags.DEFINE_boolean("json", False, "print only the result, as one JSON object, to standard output")


def blend_flag() -> None:
    """Declare --blend."""
    flags.DEFINE_string(
        "blend", "", "what orders the titles: a head on pairs or a blend of the config by its name, or a sum "
        "of heads such as ctr=1,like=0.3; empty: evaluate.ranking_head of the config",
    )  # fmt: skip


def verify_flag() -> None:
    """Declare --verify."""
    flags.DEFINE_boolean(
        "verify", False, "first read all files and compare them with their checksums, and check every row of "
        "the dataset",
    )  # fmt: skip


def hosts_flags() -> None:
    """Declare the flags of `multihost.find_cluster`."""
    flags.DEFINE_string("coordinator", "", "host:port of process 0, reachable from all processes")
    flags.DEFINE_integer("processes", None, "number of processes, one per host")
    flags.DEFINE_integer("process", None, "index of this process, from 0")
    flags.DEFINE_enum(
        "hosts", "", ["", "auto", "alone"], "auto: jax detects the cluster, as on Cloud TPU VMs; alone: a "
        "single process, even on a cluster; empty: JAXREC_COORDINATOR, JAXREC_PROCESSES and JAXREC_PROCESS "
        "if set, otherwise the variables of Slurm or GKE, otherwise a single process",
    )  # fmt: skip
