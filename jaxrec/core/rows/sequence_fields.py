"""Fields of stored sequences: plays, and tokens of several kinds of events.

A token is an event of a user, or several that follow one another: `data.tokens.merging`. A field is a name, a
dtype and a shape.
"""

from collections.abc import Sequence
from typing import NamedTuple

Fields = list[tuple[str, str, tuple[int, ...]]]

TEXT = "text"  # value of a signal whose events carry text, such as a search
_VALUES = ("sign", "number")  # values of signals whose last value a token holds


class TokenKind(NamedTuple):
    """Kind of event among those of tokens.

    Attributes:
        name: "play", or the name of a signal.
        value: Value of the signal: "event", "seconds", "number", "sign" or "text"; "play" for plays.
    """

    name: str
    value: str


def parse_kinds(kinds: Sequence[str]) -> tuple[TokenKind, ...]:
    """Return the kinds of tokens of `Layout.token_kinds`, each written as "name:value"."""
    return tuple(TokenKind(*text.partition(":")[::2]) for text in kinds)


def valued_kinds(kinds: Sequence[TokenKind]) -> tuple[TokenKind, ...]:
    """Return the kinds whose last value a token holds, in the order of their columns."""
    return tuple(kind for kind in kinds if kind.value in _VALUES)


def has_text(kinds: Sequence[TokenKind]) -> bool:
    """Return True if an event of some kind carries text."""
    return any(kind.value == TEXT for kind in kinds)


def play_fields(prefix: str, count: int, completion: bool) -> Fields:
    """Return the fields of a sequence of plays.

    Args:
        prefix: Prefix of each field name.
        count: Number of plays, even; plays are oldest first, right-aligned, 0 for padding.
        completion: Whether completions are stored.
    """
    columns = [("title", "<i4"), ("time", "<u4"), ("completion", "<f2")]  # time: seconds since 1970
    return [(f"{prefix}{name}", kind, (count,)) for name, kind in columns[: 3 if completion else 2]]


def token_fields(prefix: str, count: int, kinds: Sequence[str], categories: int, numbers: int) -> Fields:
    """Return the fields of a sequence of tokens beside those of plays.

    Args:
        prefix: Prefix of each field name.
        count: Number of tokens, even.
        kinds: `Layout.token_kinds`; without any there are no fields.
        categories: Columns of categories of the context.
        numbers: Columns of numbers of the context.
    """
    if not kinds:
        return []
    values = len(valued_kinds(parse_kinds(kinds)))
    outcomes: Fields = [
        (f"{prefix}kinds", "<u4", (count,)),  # bit i is set where an event of kind i is in the token
        (f"{prefix}end", "<u4", (count,)),  # seconds since 1970 at which its last event ends
        (f"{prefix}progress", "<f2", (count,)),  # completion of the title by then, in [0, 1]
        (f"{prefix}seconds", "<f2", (count,)),  # log1p of the seconds watched in the token
        (f"{prefix}values", "<f2", (count, values)),  # last value of each kind that has values; NaN: none
    ]
    requests = request_fields(prefix, (count,), kinds, categories, numbers)
    return [field for field in (*outcomes, *requests) if 0 not in field[2]]


def request_fields(
    prefix: str, shape: tuple[int, ...], kinds: Sequence[str], categories: int, numbers: int
) -> Fields:
    """Return the fields that are known when a token begins, of an array of tokens [*shape].

    Args:
        prefix: Prefix of each field name.
        shape: () for a single token.
        kinds: `Layout.token_kinds`.
        categories: Columns of categories of the context.
        numbers: Columns of numbers of the context.
    """
    fields: Fields = [
        (f"{prefix}categories", "<i4", (*shape, categories)),
        (f"{prefix}numbers", "<f4", (*shape, numbers)),
    ]
    if has_text(parse_kinds(kinds)):
        fields.append((f"{prefix}query", "<u4", shape))  # bucket of the text, from 1; 0: no text
    return [field for field in fields if 0 not in field[2]]
