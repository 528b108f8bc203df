"""One broken line: a text of a file, what it is replaced by, and the tests that must fail."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Line(NamedTuple):
    """A text that occurs once in a file, the broken text, and the default suite's tests that must fail."""

    guards: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
