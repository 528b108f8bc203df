"""Flags that several commands share: --config with overrides, --json, hosts."""

import dataclasses
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config
from jaxrec.config.tree import fields_of, join, known_key
from jaxrec.core.errors import InputError

NO_CONFIG = "--config is missing; give a config file, as --config configs/smoe.py"


def _override_keys(argv: list[str]) -> list[str]:
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
    if _override_keys(sys.argv) and not any(re.fullmatch(r"--?config(=.*)?", a) for a in sys.argv):
        raise InputError(NO_CONFIG)
    config_flags.register_flag_parser_for_type(int, _Number(int, "a whole number"))
    config_flags.register_flag_parser_for_type(float, _Number(float, "a number"))
    config_flags.register_flag_parser_for_type(bool, _Boolean())

    def overridden(spec: str) -> Config:
        config = read(spec)
        for path in _override_keys(sys.argv):
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
