"""Parsing of the text of optimised HLO (`compiled.as_text()`)."""

import math
import re

# `%name (parameters) -> result {`, ENTRY before the main one.
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")


def balanced(line: str, first: int) -> str:
    """Return the result's type, which begins at `first`.

    The type ends at a space, or for a tuple at its closing bracket.

    Raises:
        ValueError: The closing bracket is missing.
    """
    if line[first] != "(":
        end = line.find(" ", first)
        return line[first:] if end < 0 else line[first:end]
    depth = 0
    for at in range(first, len(line)):
        depth += {"(": 1, ")": -1}.get(line[at], 0)
        if not depth:
            return line[first : at + 1]
    raise ValueError(f"a type without its end: {line}")


def bytes_of(shape: str) -> int:
    """Return the bytes of a type; of a tuple, the sum over its arrays."""
    total = 0
    for kind, extents in _ARRAY.findall(shape):
        size = math.prod(int(n.removeprefix("<=")) for n in extents.split(",") if n)
        total += -(-size * _bits(kind) // 8)
    return total


def _bits(kind: str) -> int:
    """Return the bits of an element: 8 for f8e4m3fn, 16 for bf16, 64 for c64.

    Raises:
        ValueError: The width of the element type is unknown.
    """
    if kind in ("pred", "token", "opaque"):
        return 8 if kind == "pred" else 0
    width = re.match(r"[a-z]+(\d+)", kind)
    if not width:
        raise ValueError(f"an element type of unknown width: {kind}")
    return int(width[1])
