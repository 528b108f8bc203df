"""Corpus of wrong and unusual inputs, with the right answer to each."""

from tests.bad_inputs import configs, lines, tables, workdirs

DOORS = {
    "tables": tables.CASES,
    "configs and flags": [*configs.CASES, *lines.CASES],
    "workdirs and checkpoints": workdirs.CASES,
}
