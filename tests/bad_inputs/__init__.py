"""Corpus of wrong and unusual inputs, with the right answer to each."""

from tests.bad_inputs import configs, increments, lines, live_slates, sequences, tables, workdirs
from tests.bad_inputs.case import Case

DOORS = {
    "tables": tables.CASES,
    "configs and flags": [
        *configs.CASES,
        *lines.CASES,
        *increments.VALUE_CASES,
        *live_slates.CASES,
        *sequences.CASES,
    ],
    "workdirs and checkpoints": [*workdirs.CASES, *increments.CONTINUED_CASES],
}
_LOADING = (
    "evaluate",
    "fill",
    "recommend",
    "export",
    "train",
)  # commands that open a checkpoint: a second each


def is_short(door: str, case: Case) -> bool:
    """Return True for a case of the default suite: those that take milliseconds, and some of the others.

    A table takes tens of milliseconds, a preparation that succeeds a tenth of a second, a checkpoint seconds.
    """
    if case.slow:
        return False
    if door == "tables":
        return tables.CASES.index(case) % (2 if case.status else 12) == 0
    if door == "workdirs and checkpoints":
        takes_long = case.command[0] in _LOADING or case.status == 0
        return not takes_long or DOORS[door].index(case) % 60 == 0
    return True
