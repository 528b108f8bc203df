"""Collectives in the optimised HLO of a program (`compiled.as_text()`).

Bytes are those of the result on one device, in the program's dtype: XLA's CPU backend first widens bfloat16
sums to float32, so the sums count as float32 there. `benchmarks/links.py` computes the link traffic from the
kind and the group of a collective.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from benchmarks import hlo

KINDS = (
    "all-reduce", "all-gather", "all-to-all", "ragged-all-to-all", "reduce-scatter", "collective-permute",
    "collective-broadcast",
)  # fmt: skip

_CALLED = re.compile(r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})?\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]<=")  # [groups, devices of one]
# mesh['data'=2,'model'=4] {'model'}, from jax 0.11 on: the mesh, then the axes that a group spans, of which
# 'model':(1)2 is a part, of 2 devices. An order of the devices, where it is not the usual one, is between.
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(.*?\))? \{([^}]*)\}")
_AXIS = re.compile(r"(\w+)'?(?:=|:\(\d+\))(\d+)|(\w+)")  # jax 0.11 has no quotes
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_DEVICES = re.compile(r"\b(?:replica_count|num_partitions)=(\d+)")


@dataclass(frozen=True)
class Collective:
    """One collective instruction; of an asynchronous pair, the start."""

    kind: str  # one of KINDS
    bytes: int  # of its result on one device; of several results together
    shape: str  # of its result, as HLO writes it, without layouts
    group: int  # how many devices exchange with one another
    computation: str  # where it stands
    name: str
    times: int | None  # how often a run of the program meets it; None in a loop whose length is not known


def collectives(hlo_text: str) -> list[Collective]:
    """Return all collectives of a program, in the order of its text.

    A branch that may be taken counts as taken.

    Raises:
        ValueError: The shape or the groups of a collective have an unknown form.
    """
    rows: list[tuple[str, str, str, str, int]] = []
    devices = math.prod(int(n) for n in _DEVICES.findall(hlo_text.partition("\n")[0]))
    for one in hlo.instructions(hlo_text):
        kind = one.opcode.removesuffix("-start")
        if kind in KINDS:
            shape = _shape(_result(kind, one.result) if kind != one.opcode else one.result)
            rows.append((kind, shape, one.computation, one.name, _group(one.line, kind, devices)))
    runs = run_counts(hlo_text)
    return [
        Collective(kind, hlo.bytes_of(shape), shape, group, where, name, runs.get(where))
        for kind, shape, where, name, group in rows
    ]


def run_counts(hlo_text: str, callers: Collection[str] = ()) -> dict[str, int | None]:
    """Return computation -> how often a run of the program meets it; None in a loop of unknown length.

    Computations that nothing calls are left out.

    Args:
        hlo_text: Text of the program.
        callers: Opcodes of the instructions that count as calls; empty: all.
    """
    entry, calls = "", defaultdict[str, list[tuple[str, int | None]]](list)
    for one in hlo.instructions(hlo_text):
        entry = one.computation if one.is_entry else entry
        if not callers or one.opcode in callers:
            for callee, times in _calls(one.line, one.opcode):
                calls[callee].append((one.computation, times))
    count = _times(entry, calls)
    return {name: count(name) for name in [entry, *calls]}


def _elements(shape: str) -> list[str]:
    """Return the types of a tuple's elements."""
    inner = re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", shape)[1:-1]  # without comments and layouts
    parts, depth, first = [], 0, 0
    for at, letter in enumerate(inner):
        depth += {"(": 1, ")": -1, "[": 1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append(inner[first:at].strip())
            first = at + 1
    return [*parts, inner[first:].strip()]


def _result(kind: str, shape: str) -> str:
    """Return the result's type from the type of an asynchronous start.

    Except for a plain all-reduce, the type of a start is a tuple of the operands, the results and the
    internal state of the pair.

    Raises:
        ValueError: The type is not such a tuple.
    """
    parts = _elements(shape) if shape.startswith("(") else []
    if kind == "all-reduce" and not (parts and parts[0].startswith("(")):
        return shape
    if len(parts) < 2:
        raise ValueError(f"{kind}-start of the type {shape}: not operands and results")
    return parts[1]


def _shape(shape: str) -> str:
    return re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", shape).strip()


def _group(line: str, kind: str, devices: int) -> int:
    if kind == "collective-permute" and (pairs := _PAIRS.search(line)):
        return len(set(re.findall(r"\d+", pairs[1])))
    if counted := _COUNTED.search(line):
        return int(counted[1])
    if meshed := _MESH.search(line):
        return _spanned(meshed[1], meshed[2])
    listed = _LISTED.search(line)
    if not listed:
        raise ValueError(f"a collective whose replica groups are not to be read: {line.strip()}")
    groups = re.findall(r"\{([\d, ]+)\}", listed[1] or "")
    return max((group.count(",") + 1 for group in groups), default=devices)


def _spanned(mesh: str, axes: str) -> int:
    """Return how many devices the axes of a mesh span, both as HLO writes them; no axes: one device."""
    sizes = {name: int(size) for name, size, _ in _AXIS.findall(mesh)}
    return math.prod(int(size) if size else sizes[whole] for _, size, whole in _AXIS.findall(axes))


def _calls(line: str, opcode: str) -> list[tuple[str, int | None]]:
    """Return the computations that an instruction runs, with their counts.

    Of an asynchronous pair, the start runs them.
    """
    if opcode.endswith(("-update", "-done")):
        return []
    once = [name.strip().removeprefix("%") for names in _BRANCHES.findall(line) for name in names.split(",")]
    stack: list[tuple[str, int | None]] = [(name, 1) for name in once if name]
    trips = _TRIPS.search(line)
    for role, name in _CALLED.findall(line):
        times: int | None = 1
        if opcode == "while":
            times = int(trips[1]) + (role == "condition") if trips else None
        stack.append((name, times))
    return stack


def _times(entry: str, callers: dict[str, list[tuple[str, int | None]]]) -> Callable[[str], int | None]:
    """Return a function from a computation's name to its count in a program run."""
    known: dict[str, int | None] = {entry: 1}

    def times(name: str) -> int | None:
        if name not in known:
            total: int | None = 0 if callers[name] else None  # nobody's that is known
            for who, n in callers[name]:
                above = times(who)
                total = None if total is None or n is None or above is None else total + n * above
            known[name] = total
        return known[name]

    return times
