"""The earlier dataset that a dataset continues: its ids, categories, means and deviations."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import Layout
from jaxrec.data.columns.category_codes import KnownColumn
from jaxrec.data.storage.dataset import Dataset


class EarlierDataset(NamedTuple):
    """Contents of an earlier dataset that another one takes over. T titles.

    Attributes:
        name: Its directory, for messages.
        fingerprint: Its fingerprint.
        key: [T] keys of its titles by id.
        runtime: [T] minutes.
        categories: [T, columns] int32 ids of the titles' categories.
        numbers: [T, columns] float32 standardised numbers.
        columns: Feature -> values, or mean and deviation.
        threshold: Mean completion of its training targets; None without watch times.
    """

    name: str
    fingerprint: str
    key: np.ndarray
    runtime: np.ndarray
    categories: np.ndarray
    numbers: np.ndarray
    columns: Mapping[str, KnownColumn]
    threshold: float | None


def read_earlier(config: Config) -> EarlierDataset | None:
    """Return the dataset `data.continues`; None where a dataset continues none.

    Raises:
        InputError: There is no such dataset, or its rows or its features are of another kind.
    """
    directory = config.data.continues
    if not directory:
        return None
    what = f"data.continues={directory!r}"
    try:
        dataset = Dataset(directory, config.data.verify)
        arrays = dataset.arrays
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    layout, manifest = dataset.layout, dataset.manifest
    _check_layout(what, config, layout)
    columns = {
        spec.name: KnownColumn(what, tuple(manifest["categories"].get(spec.name, ())), (spec.mean, spec.std))
        for spec in layout.features
    }
    titles = slice(FIRST_TITLE, FIRST_TITLE + len(arrays.title_key))
    return EarlierDataset(
        directory, dataset.fingerprint, arrays.title_key, arrays.title_runtime,
        arrays.title_categories[titles], arrays.title_numbers[titles], columns,
        manifest["completion_threshold"],
    )  # fmt: skip


def _check_layout(what: str, config: Config, layout: Layout) -> None:
    kind = "next_item" if config.rows == "next_item" else config.data.examples
    earlier = layout.rows
    if earlier == "ranking":
        earlier = "requests" if layout.has_candidates else "impressions"
    if kind != earlier:
        raise InputError(f"{what}: holds rows of {earlier}, not of {kind}; allowed: rows of the same kind")
    features = [(f.name, f.kind, f.where, f.most) for f in config.stored_features]
    stored = [(s.name, s.kind, s.where, s.columns if s.kind == "categories" else 0) for s in layout.features]
    for i in range(max(len(features), len(stored))):
        now, then = (x[i] if i < len(x) else None for x in (features, stored))
        if now != then:
            raise InputError(
                f"{what}: feature {i + 1} is {_named(then)} there and {_named(now)} here; allowed: the same "
                "features in the same order"
            )


def _named(feature: tuple | None) -> str:
    return "absent" if feature is None else "{} ({} of {}, most={})".format(*feature)


def known_columns(earlier: EarlierDataset | None) -> Mapping[str, KnownColumn] | None:
    """Return the columns of an earlier dataset."""
    return None if earlier is None else earlier.columns


def check_keys(earlier: EarlierDataset | None, key: np.ndarray) -> None:
    """Raise InputError unless the keys [V] of the titles are of the type of those of the earlier dataset."""
    if earlier is None or (key.dtype.kind in "iu") == (earlier.key.dtype.kind in "iu"):
        return
    kinds = ["whole numbers" if keys.dtype.kind in "iu" else "text" for keys in (earlier.key, key)]
    raise InputError(
        f"data.continues={earlier.name!r}: keys of titles are {kinds[0]} there and {kinds[1]} here; allowed: "
        "keys of the same type"
    )
