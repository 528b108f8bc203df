"""The stored row of a dataset: its features, its fields and their dtypes."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxrec.core.ids import LISTS, POOLS

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


def _play_fields(prefix: str, count: int, completion: bool) -> list[tuple[str, str, tuple[int, ...]]]:
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
            return np.dtype([("user", "<u4"), *_play_fields("", 2 * (self.history + 1), completion=True)])
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
            return np.dtype([*request, *_play_fields("history_", self.history, completion=False)])
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
