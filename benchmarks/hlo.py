"""The text of optimised HLO (`compiled.as_text()`), as far as two readers of it share it."""

import math
import re

# `%name (parameters) -> result {`, ENTRY before the main one.
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")


def balanced(line: str, first: int) -> str:
    """The result's type, which begins at `first`: up to a space, or of a tuple to its closing bracket."""
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
    """Of a type, of a tuple's arrays together."""
    total = 0
    for kind, extents in _ARRAY.findall(shape):
        size = math.prod(int(n.removeprefix("<=")) for n in extents.split(",") if n)
        total += -(-size * _bits(kind) // 8)
    return total


def _bits(kind: str) -> int:
    """Of an element: of f8e4m3fn 8, of bf16 16, of c64 64."""
    if kind in ("pred", "token", "opaque"):
        return 8 if kind == "pred" else 0
    width = re.match(r"[a-z]+(\d+)", kind)
    if not width:
        raise ValueError(f"an element type of unknown width: {kind}")
    return int(width[1])
