"""Slices of queries: by a feature of the user or of the context, or by several together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.arrays import split_columns

TIMES = "*"  # joins the features of a slicing
_BINS = 4  # of a number


class Slicing(NamedTuple):
    """A partition of Q queries.

    Attributes:
        name: Features, joined by TIMES.
        group: [Q] slice of each query, from 0; -1 for none.
        names: Name of each slice.
    """

    name: str
    group: np.ndarray
    names: list[str]


def slice_queries(
    names: Sequence[str], rows: np.ndarray, layout: Layout, categories: Mapping[str, Sequence]
) -> list[Slicing]:
    """Return the slicings of held-out rows by features; slices without a query are left out.

    A number is divided into four bins of about equal size.

    Args:
        names: Names of features, such as "country"; "country*tenure" is a slice for each pair of values.
        rows: The Q held-out rows.
        layout: Layout of the rows.
        categories: Feature -> its values, in the order of their ids.

    Raises:
        InputError: A name is no category or number of the user or of the context in the rows, or is there
            twice.
    """
    features = {f.name: f for f in sliceable(layout, rows.dtype)}
    out = []
    for i, name in enumerate(names):
        parts = name.split(TIMES)
        for part in parts:
            if part not in features:
                allowed = (
                    ", ".join(features) or "none, for the rows hold no feature of users or of the context"
                )
                raise InputError(f"slices={name}: {part!r} is no slice; allowed: {allowed}")
        if len(set(parts)) < len(parts) or name in names[:i]:
            raise InputError(f"slices={name}: is there twice; allowed: each once")
        out.append(_crossed(name, [_of_feature(features[part], rows, layout, categories) for part in parts]))
    return out


def sliceable(layout: Layout, dtype: np.dtype) -> list[FeatureSpec]:
    """Return the features of users and of the context by whose values rows of a dtype can be divided."""
    stored = set(dtype.names or ())
    return [
        f
        for where in ("user", "context")
        for f in layout.of(where)
        if f.kind not in ("categories", "text", "title")
        and f"{where}_{'numbers' if f.kind == 'number' else 'categories'}" in stored
    ]


def values_of(feature: FeatureSpec, rows: np.ndarray, layout: Layout) -> np.ndarray:
    """Return the ids or the standardised values [Q] of a feature of `sliceable`."""
    where, stored = feature.where, set(rows.dtype.names or ())
    arrays = [rows[n] if n in stored else None for n in (f"{where}_categories", f"{where}_numbers")]
    return split_columns(layout.of(where), *arrays)[feature.name][:, 0]


def _of_feature(
    feature: FeatureSpec, rows: np.ndarray, layout: Layout, categories: Mapping[str, Sequence]
) -> Slicing:
    values = values_of(feature, rows, layout)
    if feature.kind == "number":
        numbers = values.astype(np.float64) * feature.std + feature.mean
        edges = np.unique(np.quantile(numbers, np.arange(1, _BINS) / _BINS)) if len(numbers) else np.empty(0)
        names = [f"{feature.name} below {edge:.4g}" for edge in edges]
        names.append(f"{feature.name} from {edges[-1]:.4g}" if len(edges) else feature.name)
        return Slicing(feature.name, np.searchsorted(edges, numbers, side="right"), names)
    names = [str(value) for value in categories.get(feature.name, ())]
    known = (values >= FIRST_TITLE) & (values < FIRST_TITLE + len(names))
    return Slicing(feature.name, np.where(known, values.astype(np.int64) - FIRST_TITLE, -1), names)


def _crossed(name: str, parts: list[Slicing]) -> Slicing:
    """Return the slices of all combinations that a query has."""
    group, names = parts[0].group.astype(np.int64), parts[0].names
    for part in parts[1:]:
        none = (group < 0) | (part.group < 0)
        group = np.where(none, -1, group * len(part.names) + part.group)
        names = [f"{a} {b}" for a in names for b in part.names]
    present = np.unique(group[group >= 0])
    renumbered = np.where(group < 0, -1, np.searchsorted(present, group))
    return Slicing(name, renumbered, [names[i] for i in present])
