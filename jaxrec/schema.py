"""What flows through the house: a source's three tables, the stored row, the batch, the axis letters.

Axis letters, used in names inside `nn`: B examples, C candidates, L history, E experts, H heads,
D width, V titles, T tasks, K next titles, N negatives.

Title ids are assigned once and only appended: 0 is padding, 1 is "unknown", the rest are titles.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

PAD, UNKNOWN, FIRST_TITLE = 0, 1, 2
MISSING = np.iinfo(np.int64).min  # in a raw column of whole-number categories
TITLE_ID = "title_id"  # the title feature that is its own id, whatever the key's column is called
SPLITS = ("train", "validation", "test")
POOLS = ("hard", "trending", "tailing", "random")
LISTS = ("enabled", "disabled")  # frozen, of 1 + negatives titles
CATALOGUE = "catalogue"  # what is judged over all titles goes by this name beside them
DEALT = "dealt"  # the last name of a parameter whose rows are dealt to the devices: `nn/dealt.py`
DEALT_PLACES = 1024  # its first axis, which as many devices at most have equal parts of
INTERACTION_FEATURES = ("completion", "sessions", "age")


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


# ---------------------------------------------------------------- the stored row


@dataclass(frozen=True)
class FeatureSpec:
    """A declared feature with what preparation found out about it."""

    name: str
    kind: str  # "category", "categories" (a list) or "number"
    where: str  # "title", "user", "context" or "interaction"
    width: int  # of its embedding
    size: int = 0  # categories: ids 0 (padding), 1 (unknown), then values; 0 for a number
    columns: int = 1  # how many columns it takes in its array
    mean: float = 0.0  # numbers: standardised as (x - mean) / std
    std: float = 1.0


def _plays(prefix: str, count: int, completion: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    """Fields of a sequence's plays, an even `count` of them, oldest first, right-aligned, 0 for padding."""
    fields = [("title", "<i4"), ("time", "<u4"), ("completion", "<f2")]  # time: seconds since 1970
    return [(f"{prefix}{name}", kind, (count,)) for name, kind in fields[: 3 if completion else 2]]


@dataclass(frozen=True)
class Layout:
    """The shape of a dataset's rows; kept in its manifest and in every checkpoint."""

    titles: int  # V, with padding and unknown
    history: int  # stored history length
    next_k: int  # stored next titles
    pools: tuple[int, int, int, int]  # stored columns of each of POOLS
    negatives: int  # in a frozen evaluation list
    features: tuple[FeatureSpec, ...]
    examples: str = "requests"  # or "sequences"

    def of(self, where: str) -> tuple[FeatureSpec, ...]:
        return tuple(f for f in self.features if f.where == where)

    def columns(self, where: str, kind: str) -> int:
        """Columns of the integer ("category") or float ("number") array of a place's features."""
        return sum(f.columns for f in self.of(where) if (f.kind == "number") == (kind == "number"))

    def _request_fields(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """What every row holds; each field starts on a word, for history is a multiple of 4."""
        fields: list[tuple[str, str, tuple[int, ...]]] = [
            ("user", "<u4", ()),  # number of the user in its split, by order of hash
            ("position", "<u4", ()),  # of the query among the user's queries
            ("target", "<i4", (self.next_k,)),  # the next titles, 0 where there are fewer
            ("target_completion", "<f4", (self.next_k,)),
            ("history_title", "<i4", (self.history,)),  # oldest first, right-aligned
        ]
        for where in ("user", "context"):
            fields.append((f"{where}_categories", "<i4", (self.columns(where, "category"),)))
            fields.append((f"{where}_numbers", "<f4", (self.columns(where, "number"),)))
        return [
            *(f for f in fields if 0 not in f[2]),
            ("history_completion", "<f2", (self.history,)),  # as of the query's time, in [0, 1]
            ("history_age", "<f2", (self.history,)),  # log1p(seconds since the last play) at the query's time
            ("history_sessions", "<u1", (self.history,)),  # plays of the title so far, at most 255
            ("history_abandoned", "<u1", (self.history,)),  # 1: below abandon_below as of the query's time
        ]

    def row_dtype(self) -> np.dtype:
        """The training row: little-endian, a multiple of four bytes, every field from a word's start."""
        if self.examples == "sequences":
            return np.dtype([("user", "<u4"), *_plays("", 2 * (self.history + 1), completion=True)])
        pools = [(f"pool_{p}", "<i4", (w,)) for p, w in zip(POOLS, self.pools, strict=True)]
        filled = ("pool_hard_filled", "<u1", (self.pools[0],))  # 1: no hard negative but a fill
        return np.dtype([*self._request_fields(), *pools, filled])

    def query_dtype(self) -> np.dtype:
        """The evaluation row: the request, then its frozen lists.

        Lists hold negatives only, [next_k, negatives] for each of LISTS, the hard ones first; the
        target stands in `target`. Where a next title is absent its list is 0. `oracle_*` and `truth_*`
        [1 + negatives], target first, are p/q and p of the K=1 lists; NaN where no truth is known.
        A sequence's query has no lists.
        """
        if self.examples == "sequences":
            of_target = [("target", "<i4", (1,)), ("target_completion", "<f4", (1,)), ("target_time", "<u4")]
            request = [("user", "<u4"), ("position", "<u4"), *of_target]
            return np.dtype([*request, *_plays("history_", self.history, completion=False)])
        shape, k1 = (self.next_k, self.negatives), (1 + self.negatives,)
        extra: list[tuple[str, str, tuple[int, ...]]] = []
        for name in LISTS:
            extra += [
                (f"list_{name}", "<i4", shape),
                (f"oracle_{name}", "<f4", k1),
                (f"truth_{name}", "<f4", k1),
            ]
        extra += [("list_hard", "<i4", (self.next_k,))]  # how many of the enabled list are hard negatives
        extra += [("mood", "<f4", ())]  # `Truth.mood`; NaN where no truth is known
        return np.dtype([*self._request_fields(), *extra])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, d: dict[str, Any]) -> "Layout":
        features = tuple(FeatureSpec(**f) for f in d["features"])
        return cls(**{**d, "pools": tuple(d["pools"]), "features": features})


# ---------------------------------------------------------------- what a step sees


class Packing(NamedTuple):
    """Where histories lie once several share a row. For each share of B examples:

    titles [R, W]: of each place (example * stored history + stored column) * W + titles newer than it,
      for the W places of the longest window; B * stored history * W where nothing lies.
    shorter: for each shorter window w, longest first, [R_w, w]: the place in `titles`, flat; R * W where
      nothing lies.
    """

    titles: Any
    shorter: tuple[Any, ...]


class HostBatch(NamedTuple):
    """What travels to the devices: packed rows, which of them are real, and how histories may share rows."""

    words: np.ndarray  # [B, words] uint32, rows viewed as words
    valid: np.ndarray  # [B] bool; False for padding at an epoch's tail
    packing: Packing | None = None  # None: a history a row
    place: np.ndarray | None = None  # [B] row of its split, -1 for padding, where not in order; of the host


class TitleTable(NamedTuple):
    """Features of every title by id, put on the device once."""

    categories: Any  # [V, columns] int32
    numbers: Any  # [V, columns] float32, standardised
    cumulative: Any = None  # [V] int32 plays by training users of the titles up to each id, together


class History(NamedTuple):
    """What the model may know of B requests. A row holds the titles of one request, or of several."""

    title: Any  # [R, L] int32, 0 for padding
    completion: Any  # [R, L] float32 in [0, 1]
    sessions: Any  # [R, L] float32 plays of the title so far
    age: Any  # [R, L] float32 log1p(seconds since its last play)
    example: Any  # [R, L] int32: whose title it is, below B; B for padding
    newer: Any  # [R, L] int32: titles of the same request that are newer than it; below L
    shorter: (
        Any  # {window: [R_w, window] int32} for each shorter window: places of the flat rows; R * L: none
    )
    user_categories: Any  # [B, columns] int32
    user_numbers: Any  # [B, columns] float32
    context_categories: Any  # [B, columns] int32
    context_numbers: Any  # [B, columns] float32


class Batch(NamedTuple):
    """A decoded training batch."""

    history: History
    positive: Any  # [B, K] int32, 0 where absent
    completion: Any  # [B, K] float32 completion of each positive
    negative: Any  # [B, N] int32
    hard: Any  # [B, N] bool: a title this user abandoned
    valid: Any  # [B] bool
