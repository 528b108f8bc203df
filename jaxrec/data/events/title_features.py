"""Encoding of the titles table: ids, padded lists and standardised numbers, one row per title."""

from collections.abc import Mapping

import numpy as np

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import TITLE_ID, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.core.tables import Lists
from jaxrec.data.columns.category_codes import FIRST_VALUE, CategoryCodes, KnownColumn
from jaxrec.data.events.vocabulary import Moments, standardise, text_ids
from jaxrec.data.text.ngrams import text_spec


def title_columns(
    raw: dict[str, np.ndarray | Lists], features: tuple[Feature, ...], titles: int,
    known: Mapping[str, KnownColumn] | None = None,
) -> tuple[np.ndarray, np.ndarray, tuple[FeatureSpec, ...], dict[str, list]]:  # fmt: skip
    """Encode the title features of the catalogue, one row per title.

    Rows are in the caller's order.

    Args:
        raw: Raw columns by feature name.
        features: Declared features; only title features are used.
        titles: Number of titles.
        known: Columns of an earlier dataset, whose values and moments stay; None: there is none.

    Returns:
        Ids [titles, columns] int32, numbers [titles, columns] float32, the specs in declared order (title_id
        included, without a column), and the values of each categorical feature.

    Raises:
        InputError: A declared feature is missing, or its kind does not match the column.
    """
    known = known or {}
    categories, numbers, specs, values = [], [], [], {}
    for f in (f for f in features if f.where == "title"):
        if f.name == TITLE_ID:
            specs.append(FeatureSpec(f.name, f.kind, f.where, f.width, size=titles + FIRST_VALUE, columns=0))
            continue
        if f.name not in raw:
            raise InputError(
                f"feature {f.name}: no such title column; the source gives: {', '.join(raw) or 'none'}"
            )
        column = raw[f.name]
        if isinstance(column, Lists) != (f.kind == "categories"):
            content = "lists" if isinstance(column, Lists) else "single values"
            raise InputError(f"feature {f.name}: kind={f.kind} but the title column holds {content}")
        if f.kind == "number":
            moments = Moments()
            x = moments.add(np.asarray(column), f.name)
            mean, std = known[f.name].moments if known else moments.finish()
            spec = FeatureSpec(f.name, f.kind, f.where, f.width, mean=mean, std=std)
            numbers.append(standardise(x, spec)[:, None])
        elif f.kind == "text":
            spec = text_spec(f)
            categories.append(text_ids(np.asarray(column)))
        else:
            codes = CategoryCodes()
            lists = column if isinstance(column, Lists) else Lists(column, np.arange(titles + 1))
            provisional = codes.encode(lists.values)
            values[f.name], remap = codes.finish(f.name, known[f.name] if known else None)
            most = f.most if f.kind == "categories" else 1
            categories.append(pad_lists(remap[provisional + 1], lists.offsets, most))
            size = FIRST_VALUE + len(values[f.name])
            spec = FeatureSpec(f.name, f.kind, f.where, f.width, size=size, columns=most)
        specs.append(spec)
    wide = np.concatenate(categories, axis=1) if categories else np.empty((titles, 0), np.int32)
    tall = np.concatenate(numbers, axis=1) if numbers else np.empty((titles, 0), np.float32)
    return wide, tall, tuple(specs), values


def pad_lists(ids: np.ndarray, offsets: np.ndarray, most: int) -> np.ndarray:
    """Return the first `most` ids of each list, padded with 0: [rows, most].

    An empty list becomes UNKNOWN.
    """
    at = offsets[:-1, None] + np.arange(most)
    inside = at < offsets[1:, None]
    padded = np.where(inside, ids[np.minimum(at, max(len(ids) - 1, 0))] if len(ids) else 0, 0).astype(
        np.int32
    )
    padded[np.diff(offsets) == 0, 0] = UNKNOWN
    return padded
