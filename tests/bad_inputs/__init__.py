"""Corpus of wrong and unusual inputs, with the right answer to each."""

from tests.bad_inputs import tables

DOORS = {"tables": tables.CASES}
