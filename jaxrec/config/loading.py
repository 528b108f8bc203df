"""Loading of config files: `configs/smoe.py:small` to a config object."""

import contextlib
import copy
import inspect
import os
import re
import runpy
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from jaxrec.config.migrations import adopt_task
from jaxrec.config.schema import Config
from jaxrec.config.tree import near
from jaxrec.core.errors import InputError

Kind = TypeVar("Kind")
_ALLOWED = (
    "a Python file with get_config(), such as configs/smoe.py, or the name of a shipped config, such as smoe"
)


# ---------------------------------------------------------------- the config file


@contextlib.contextmanager
def _importable_beside(path: Path) -> Iterator[None]:
    """Make `from configs import smoe` work in configs/bst.py, whatever the working folder."""
    root = str(path.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)


def load_config(spec: str) -> Config:
    """Return the config of "configs/smoe.py:small", or "smoe:small", not checked yet.

    Raises:
        InputError: As for `load_file`.
    """
    return load_file(spec, Config)


def load_file(spec: str, kind: type[Kind]) -> Kind:
    """Return what a file's get_config returns, which must be a `kind`.

    Args:
        spec: A path, or the name of a config that ships with jaxrec: "configs/smoe.py:small", "smoe:small".
            The text after a colon is the argument of get_config.

    Raises:
        InputError: The file, its get_config or its argument is wrong.
    """
    if not spec:
        raise InputError(f"--config is empty; allowed: {_ALLOWED}")
    name, colon, argument = spec.partition(":")
    if argument.startswith("//"):
        raise InputError(f"--config={spec}: no file of this machine; allowed: {_ALLOWED}")
    path = Path(name)
    if re.fullmatch(r"[A-Za-z_]\w*", name):
        path = _shipped(name)
        name = str(path)
    if not os.path.isfile(path):  # False for a name that no file may have
        names = [p.stem if path.stem == spec.partition(":")[0] else p.name for p in _beside(path)]
        text = f"--config={spec[:300]}: no file {str(path)[:300]}; it must be a Python file with get_config()"
        raise InputError(text + near(path.stem if path.stem == spec.partition(":")[0] else path.name, names))
    with _importable_beside(path):
        try:
            get_config = runpy.run_path(name).get("get_config")
            if not callable(get_config):
                raise InputError(f"--config={spec}: {path} must define get_config()")
            if colon and not inspect.signature(get_config).parameters:
                raise InputError(f"--config={spec}: get_config() of {path} takes no argument")
            config = get_config(argument) if colon else get_config()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            ended = "the config ended the program: " if isinstance(error, SystemExit) else ""
            raise InputError(
                f"--config={spec}: {_where(error, name)}{ended}{type(error).__name__}: {error}"
            ) from error
    if not isinstance(config, kind):
        wanted = f"{kind.__module__.removesuffix('.schema')}.{kind.__name__}"
        raise InputError(f"--config={spec}: get_config() gave a {type(config).__name__}, not a {wanted}")
    if isinstance(config, Config):
        adopt_task(config)
    return copy.deepcopy(config)  # TRAIN_MIXES and the like are shared; an override must not reach them


def _beside(path: Path) -> list[Path]:
    """Return the Python files of the folder in which a config was looked for."""
    return sorted(path.parent.glob("*.py")) if os.path.isdir(path.parent) else []


def _shipped(name: str) -> Path:
    """Return the path of a config that ships with jaxrec: in a clone, or where the wheel was installed."""
    clone = Path(__file__).resolve().parents[2] / "configs"
    installed = Path(sysconfig.get_path("data"), "share/jaxrec/configs")
    paths = [folder / f"{name}.py" for folder in (clone, installed)]
    present = [path for path in paths if path.is_file()] + [path for path in paths if path.parent.is_dir()]
    return present[0] if present else paths[-1]


def _where(error: BaseException, name: str) -> str:
    """Return the last line of the config file that an error came through."""
    if isinstance(error, SyntaxError):
        return ""  # names file and line itself
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    return f"line {lines[-1]}: " if lines else ""
