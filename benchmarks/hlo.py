"""Parsing of the text of optimised HLO (`compiled.as_text()`)."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# `%name (parameters) -> result {`, ENTRY before the main one.
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")


class Instruction(NamedTuple):
    """One instruction of a program.

    Attributes:
        computation: Name of the computation that holds it.
        is_entry: True in the computation that a run of the program begins with.
        name: Name, unique in the program.
        result: Type of the result.
        opcode: Kind, such as "fusion".
        line: The whole line.
        operands: Position in the line after the bracket that opens the operands.
    """

    computation: str
    is_entry: bool
    name: str
    result: str
    opcode: str
    line: str
    operands: int


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of a program, in the order of its text."""
    computation, is_entry = "", False
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            computation, is_entry = header[2], bool(header[1])
            continue
        if not (named := INSTRUCTION.match(line)):
            continue
        result = balanced(line, named.end())
        if opcode := OPCODE.match(line, named.end() + len(result)):
            yield Instruction(computation, is_entry, named[1], result, opcode[1], line, opcode.end())


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
