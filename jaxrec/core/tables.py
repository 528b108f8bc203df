"""The tables of a source: titles, users, interactions, and what only a simulator knows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

# ---------------------------------------------------------------- the three tables of a source


class Lists(NamedTuple):
    """A list-valued column: row i holds values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray  # [rows + 1] int64


@dataclass
class Titles:
    """The catalogue. `features` holds each title feature's raw column, one entry a row of `key`.

    Raw columns, of titles, users and context alike: numbers are float64, NaN where missing; categories
    are strings, "" where missing, or int64, MISSING where missing.
    """

    key: np.ndarray  # [V] the caller's id, whole numbers or strings, each once
    runtime: np.ndarray  # [V] float64 minutes; 0 or NaN where missing
    features: dict[str, np.ndarray | Lists] = field(default_factory=dict)


@dataclass
class Users:
    """A chunk of users. A user absent from every chunk has unknown features and is split by hash."""

    key: np.ndarray  # [U] whole numbers or strings, which may be UTF-8 bytes
    features: dict[str, np.ndarray] = field(default_factory=dict)
    split: np.ndarray | None = None  # [U] int8: index into SPLITS, -1 for "by hash"


@dataclass
class Interactions:
    """A chunk of watch events, in any order.

    `seconds` is NaN throughout where the source has no watch time (ratings).
    """

    user: np.ndarray  # [N] as Users.key
    title: np.ndarray  # [N] int64 row of Titles, -1 for a title the catalogue lacks
    time: np.ndarray  # [N] int64 milliseconds since 1970, UTC
    seconds: np.ndarray  # [N] float64 seconds viewed
    context: dict[str, np.ndarray] = field(default_factory=dict)
    file: str = ""  # where the chunk was read, for messages
    row: np.ndarray | None = None  # [N] int64 row in that file, the first data row being 1
    names: dict[str, str] = field(default_factory=dict)  # the source's columns for user, title, time, seconds
    unknown: str = ""  # the first key of the chunk that the catalogue lacks


@dataclass
class Drops:
    """Rows left out, by reason, with the first example of each for the message."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, count: int, example: str) -> None:
        """Counts `count` rows; `example` names file, row, column and value of one of them."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + int(count)
            self.examples.setdefault(reason, example)


class Truth(Protocol):
    """What only a simulator knows, for the oracle rows."""

    def densities(
        self, user: np.ndarray, time: np.ndarray, title: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """At requests (user [N], time [N] ms) for titles [N, C] (rows of Titles), given the latent state:

        p [N, C]: probability density of the title as the next one played and not abandoned; the
          normaliser may be any constant of the request.
        a [N, C]: probability that a title drawn uniformly from those the user abandoned before the
          request is this one, not knowing which were; sums to 1 over the catalogue.
        """

    def mood(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """[N] in [0, 1] of requests: how far what the user is after for the moment moves what is chosen, as
        the total variation between the densities of the next play with and without it."""


class Source(Protocol):
    """A reader of somebody's logs. Iterating twice gives the same rows. It pickles, with the titles it has
    read, for it is sent to where its parts are read."""

    has_completion: bool  # False: no watch time, so no hard negatives and no personalised loss
    drops: Drops  # rows the reader itself could not parse; filled while `interactions` is iterated

    def titles(self) -> Titles: ...

    def users(self) -> Iterator[Users]: ...

    def parts(self) -> tuple[Any, ...]:
        """Shares of the interactions that can be read apart, in their order: plain values. Finding them reads
        no interaction."""

    def interactions(self, part: Any = None) -> Iterator[Interactions]:
        """Those of one part, or of all of them one after another, in the same chunks."""

    def truth(self) -> Truth | None: ...
