"""Stored row of a dataset: features, fields and dtypes."""

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.formats.old_layouts import upgrade_layout
from jaxrec.core.ids import DRAWN_POOLS, INTERACTION_FEATURES, LISTS, POOLS, SERVED
from jaxrec.core.json_io import check_shape
from jaxrec.core.rows.sequence_fields import play_fields, request_fields, token_fields

ROWS = ("ranking", "next_item")  # kinds of rows: examples of a query, and sequences of a user's plays

# ---------------------------------------------------------------- the stored row


@dataclass(frozen=True)
class FeatureSpec:
    """Declared feature with the statistics that preparation measured.

    Attributes:
        name: Name of the feature.
        kind: "category", "categories" (a list), "number", "text" (ids of n-grams), "title" (a title id) or
            "codes" (ids of the prefixes of a title's code, which rows do not hold).
        where: "title", "user", "context" or "interaction".
        width: Width of the feature's embedding.
        size: Number of ids of a category: 0 (padding), 1 (unknown), then the values; 0 for a number.
        columns: Number of columns in the array that holds the feature.
        mean: Mean of a number, which is standardised as (x - mean) / std.
        std: Standard deviation of a number.
        imputed: Id of a missing category (`Feature.impute`); 0: none.
    """

    name: str
    kind: str
    where: str
    width: int
    size: int = 0
    columns: int = 1
    mean: float = 0.0
    std: float = 1.0
    imputed: int = 0


def history_signals(features: tuple[FeatureSpec, ...]) -> tuple[str, ...]:
    """Return the names of the interaction features that are signals, in their order."""
    return tuple(f.name for f in features if f.where == "interaction" and f.name not in INTERACTION_FEATURES)


@dataclass(frozen=True)
class Layout:
    """Shape of a dataset's rows, stored in its manifest and in every checkpoint.

    Attributes:
        num_titles: Number of titles V, including padding and unknown.
        max_history: Number of stored history titles.
        num_targets: Number of stored next titles K.
        pools: Stored columns of the hard, trending, tailing and random pool; all 0 for exposures. A fifth
            number is that of the served pool; without it no served titles are stored.
        negatives: Number of negatives in each frozen candidate list; 0 for exposures, which have no lists.
        features: Specs of all features.
        rows: Kind of rows, one of `ROWS`.
        labels: Names of the stored labels, at most 32: label i is known where bit i of `label_known` is set.
        filled: True if `python -m jaxrec.fill` wrote the rows: label i is a prediction where bit i of
            `label_filled` is set, and unknown there.
        has_gaps: True if some ids may have no title: those without a popularity rank are never candidates.
        selects_targets: True if training rows of sequences mark the plays that are targets (`data.since`).
        session: Number of stored events of the request's session; 0: rows hold no session, and histories end
            at the request.
        session_kinds: Names of the events of sessions, "play" first: kind i + 1 of an event is the name i.
        pairs: True if `python -m jaxrec.pairs` wrote the rows: a play of a training row may have a title that
            is preferred at its position to another one.
        shown: Number of stored titles of each play of a training row of sequences that were shown with it and
            not chosen; 0: rows hold none.
        token_kinds: Kinds of the tokens of sequences, "name:value" each, "play" among them; empty: the
            sequences are of plays that are targets.
        matching: Number of stored titles whose names match the text of the request; 0: none are stored.
    """

    num_titles: int
    max_history: int
    num_targets: int
    pools: tuple[int, ...]
    negatives: int
    features: tuple[FeatureSpec, ...]
    rows: str = "ranking"
    labels: tuple[str, ...] = ()
    filled: bool = False
    has_gaps: bool = False
    selects_targets: bool = False
    session: int = 0
    session_kinds: tuple[str, ...] = ()
    pairs: bool = False
    shown: int = 0
    token_kinds: tuple[str, ...] = ()
    matching: int = 0

    @property
    def has_candidates(self) -> bool:
        """True if rows hold pools of negatives or frozen lists: those of requests do."""
        return self.negatives > 0

    @property
    def has_served(self) -> bool:
        """True if rows hold the titles that were shown at their request and not chosen."""
        return len(self.pools) == len(POOLS)

    @property
    def drawn_pools(self) -> tuple[int, int, int, int]:
        """Stored columns of the hard, trending, tailing and random pool."""
        hard, trending, tailing, random = self.pools[:4]
        return hard, trending, tailing, random

    @property
    def lists(self) -> tuple[str, ...]:
        """Names of the frozen candidate lists of a query."""
        return tuple(name for name in LISTS if self.has_candidates and (self.has_served or name != SERVED))

    def of(self, where: str) -> tuple[FeatureSpec, ...]:
        """Return the features of "title", "user", "context" or "interaction"."""
        return tuple(f for f in self.features if f.where == where)

    @property
    def history_signals(self) -> tuple[str, ...]:
        """Signals whose values rows hold for the titles of histories, in the order of the columns."""
        return history_signals(self.features)

    def columns(self, where: str, kind: str) -> int:
        """Return the number of columns of an array of features.

        Args:
            where: "title", "user", "context" or "interaction".
            kind: "category" for the integer array, "number" for the float array.
        """
        return sum(f.columns for f in self.of(where) if (f.kind == "number") == (kind == "number"))

    def category_column(self, where: str, name: str) -> int:
        """Return the first column of a category in the integer array of the features of `where`."""
        before = self.of(where)[: [f.name for f in self.of(where)].index(name)]
        return sum(f.columns for f in before if f.kind != "number")

    def _example_fields(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return the fields shared by training and evaluation rows of examples.

        Each field starts at a multiple of four bytes, because `max_history` is a multiple of 4.
        """
        length = (self.max_history,)
        start: list[tuple[str, str, tuple[int, ...]]] = [
            ("user", "<u4", ()),  # index of the user in the split, in order of hash
            ("position", "<u4", ()),  # index of the query among the user's queries
            ("target", "<i4", (self.num_targets,)),  # next titles, 0 for padding
            ("target_completion", "<f4", (self.num_targets,)),
            ("history_title", "<i4", length),  # oldest first, right-aligned
        ]
        for where in ("user", "context"):
            start.append((f"{where}_categories", "<i4", (self.columns(where, "category"),)))
            start.append((f"{where}_numbers", "<f4", (self.columns(where, "number"),)))
        # Values as of the query's time, as in `data.signals.past_values`; NaN: no event of the signal so far.
        signals = ("history_signals", "<f2", (*length, len(self.history_signals)))
        return [
            *(f for f in start if 0 not in f[2]),
            ("history_completion", "<f2", length),  # at the query's time, in [0, 1]
            ("history_age", "<f2", length),  # log1p(seconds since the last play) at the query's time
            ("history_sessions", "<u1", length),  # plays of the title so far, at most 255
            ("history_abandoned", "<u1", length),  # 1: below abandon_threshold at the query's time
            *([signals] if self.history_signals else []),
            *(self._session_fields() if self.session else []),
        ]

    def _session_fields(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Return the fields of the session of a request; `session` is a multiple of 4."""
        length = (self.session,)
        return [
            ("session_title", "<i4", length),  # oldest first, right-aligned; 0 also for an event of no title
            ("session_value", "<f2", length),  # as in `data.sessions.events`
            ("session_age", "<f2", length),  # log1p(seconds from the event to the request)
            ("session_kind", "<u1", length),  # 0: no event
            ("session_position", "<u4", ()),  # of the request among the plays of the session, from 1
        ]

    def _label_fields(self, positions: int, kind: str = "<f4") -> list[tuple[str, str, tuple[int, ...]]]:
        """Return the fields of the labels of targets; none where no label is declared."""
        fields_of_labels = [
            ("label", kind, (positions, len(self.labels))),
            ("label_known", "<u4", (positions,)),
            *([("label_filled", "<u4", (positions,))] if self.filled else []),
        ]
        return fields_of_labels if self.labels else []

    @property
    def _tokens(self) -> tuple[tuple[str, ...], int, int]:
        """Kinds of tokens, and the columns of the context that rows of tokens hold."""
        if not self.token_kinds:
            return (), 0, 0
        return self.token_kinds, self.columns("context", "category"), self.columns("context", "number")

    def row_dtype(self) -> np.dtype:
        """Return the dtype of the training row.

        The row is little-endian and a multiple of four bytes; each field starts at a multiple of four bytes.
        The row of an exposure has no pools. `pool_served` holds the titles that were shown at the request
        and not chosen, then 0; it is 0 throughout where no slate is known. `pool_matching` holds the titles
        whose names match the text of the request, the best first, then 0.
        """
        if self.rows == "next_item":
            plays = 2 * (self.max_history + 1)
            fields_of_plays = play_fields("", plays, completion=True)
            selected = [("selected", "<u2", (plays,))] if self.selects_targets else []  # 1: a target
            of_pairs = [("pair_winner", "<i4", (plays,)), ("pair_loser", "<i4", (plays,))]  # ids, 0: no pair
            shown = [("shown", "<i4", (plays, self.shown))] if self.shown else []  # ids, then 0
            fields_of_plays += [
                *selected,
                *self._label_fields(plays, "<f2"),
                *(of_pairs if self.pairs else []),
            ]
            fields_of_plays += [*shown, *token_fields("", plays, *self._tokens)]
            return np.dtype([("user", "<u4"), *fields_of_plays])
        if not self.has_candidates:
            return np.dtype([*self._example_fields(), *self._label_fields(self.num_targets)])
        pools = [(f"pool_{p}", "<i4", (w,)) for p, w in zip(POOLS, self.pools, strict=False)]
        pools += [("pool_matching", "<i4", (self.matching,))] if self.matching else []
        filled = ("pool_hard_filled", "<u1", (self.pools[0],))  # 1: not a hard negative but a filler
        return np.dtype([*self._example_fields(), *pools, filled, *self._label_fields(self.num_targets)])

    def query_dtype(self) -> np.dtype:
        """Return the dtype of the evaluation row.

        The row of an example holds the example's fields, then the frozen candidate lists. `list_enabled` and
        `list_disabled` [num_targets, negatives] hold negatives only, hard negatives first; the target is in
        `target`. The list of an absent next title is 0. `list_served` holds titles shown at the request of
        the next title, then 0; it is 0 throughout where no slate is known. `oracle_*` and `truth_*`
        [1 + negatives], target first, are p/q and p of the K=1 lists; NaN where no truth is known. The query
        of a sequence and that of an exposure have no candidate lists.
        """
        if self.rows == "next_item":
            target_fields = [
                ("target", "<i4", (1,)),
                ("target_completion", "<f4", (1,)),
                ("target_time", "<u4"),
            ]
            start = [("user", "<u4"), ("position", "<u4"), *target_fields]
            past = play_fields("history_", self.max_history, completion=False)
            past += token_fields("history_", self.max_history, *self._tokens)
            at_request = request_fields("target_", (), *self._tokens)
            return np.dtype([*start, *past, *at_request, *self._label_fields(1)])
        if not self.has_candidates:
            return self.row_dtype()
        shape, k1 = (self.num_targets, self.negatives), (1 + self.negatives,)
        list_fields: list[tuple[str, str, tuple[int, ...]]] = []
        for name in self.lists:
            list_fields += [
                (f"list_{name}", "<i4", shape),
                (f"oracle_{name}", "<f4", k1),
                (f"truth_{name}", "<f4", k1),
            ]
        list_fields += [("num_hard", "<i4", (self.num_targets,))]  # hard negatives in the enabled list
        list_fields += [("mood", "<f4", ())]  # `Truth.mood`; NaN where no truth is known
        return np.dtype([*self._example_fields(), *list_fields, *self._label_fields(self.num_targets)])

    def to_json(self) -> dict[str, Any]:
        """Return the layout as plain values for JSON."""
        left_out = [name for name in _LATER if not getattr(self, name)]
        tree = {name: value for name, value in asdict(self).items() if name not in left_out}
        specs = [{k: v for k, v in spec.items() if (k, v) != ("imputed", 0)} for spec in tree["features"]]
        return tree | {"features": tuple(specs)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Layout":
        """Restore a layout from JSON, with the names of today or of FORMAT 2.

        Raises:
            InputError: A name is unknown or missing, or no row has this kind or these numbers.
        """
        check_shape(tree, dict, "layout")
        tree = upgrade_layout(tree)
        _check_names(cls, "layout", tree)
        check_shape(tree, _LAYOUT, "layout")
        if tree.get("rows", ROWS[0]) not in ROWS:
            raise InputError(f"layout.rows={tree['rows']!r} must be one of {', '.join(ROWS)}")
        for i, feature in enumerate(tree["features"]):
            _check_names(FeatureSpec, f"layout.features[{i}]", feature)
            check_shape(feature, _FEATURE, f"layout.features[{i}]")
        if len(tree["pools"]) not in (len(DRAWN_POOLS), len(POOLS)):
            allowed = f"{len(DRAWN_POOLS)} numbers, or {len(POOLS)} with served titles"
            raise InputError(f"layout.pools={tree['pools']} must hold {allowed}")
        specs = tuple(FeatureSpec(**feature) for feature in tree["features"])
        of_lists = {name: tuple(tree.get(name, ())) for name in _LISTS}
        return cls(**{**tree, **of_lists, "features": specs})._checked()

    def _checked(self) -> "Layout":
        """Return this layout; raise InputError if a number is below 0, or if rows are too long to exist."""
        numbers = {name: value for name, value in asdict(self).items() if isinstance(value, int)}
        numbers |= {f"pools[{i}]": value for i, value in enumerate(self.pools)}
        for i, spec in enumerate(self.features):
            numbers |= {
                f"features[{i}].{n}": getattr(spec, n) for n in ("width", "size", "columns", "imputed")
            }
        for name, value in numbers.items():
            if value < 0:
                raise InputError(f"layout.{name}={value} must be at least 0")
        try:
            self.row_dtype(), self.query_dtype()
        except (ValueError, OverflowError) as error:
            raise InputError(f"layout: no row has these numbers: {error}") from error
        return self


# Left out of the JSON at their defaults.
_LATER = (
    "labels", "filled", "has_gaps", "selects_targets", "session", "session_kinds", "pairs", "shown",
    "token_kinds", "matching",
)  # fmt: skip
_LISTS = ("pools", "labels", "session_kinds", "token_kinds")
_FEATURE = {"name": str, "kind": str, "where": str, "width": int, "size?": int, "columns?": int,
            "imputed?": int}  # fmt: skip
_LAYOUT = {  # JSON of a layout
    "num_titles": int, "max_history": int, "num_targets": int, "pools": [int], "negatives": int,
    "features": [dict], "rows?": str, "labels?": [str], "filled?": bool, "has_gaps?": bool, "pairs?": bool,
    "selects_targets?": bool, "session?": int, "session_kinds?": [str], "shown?": int, "token_kinds?": [str],
    "matching?": int,
}  # fmt: skip


def _check_names(cls: type, key: str, tree: dict[str, Any]) -> None:
    """Raise InputError unless `tree` holds the fields of `cls`; those with a default may be absent."""
    known = {field.name: field for field in fields(cls)}
    for name in tree:
        if name not in known:
            raise InputError(f"{key}.{name} does not exist; there are {', '.join(known)}")
    for name, field in known.items():
        if field.default is MISSING and name not in tree:
            raise InputError(f"{key}.{name} is missing")


def label_is_known(bits: Any, label: int) -> Any:
    """Return where a label is known, [...] bool.

    Args:
        bits: `label_known` or `label_filled` [...] uint32 of rows, on the host or on a device.
        label: Index of the label in `Layout.labels`.
    """
    return bits >> np.uint32(label) & np.uint32(1) == 1
