"""Strata of the training rows by a category of the user, and the weight of an example of each."""

from collections.abc import Sequence

import numpy as np

from jaxrec.core.errors import InputError
from jaxrec.core.row_format import FeatureSpec, Layout
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.row_blocks import row_blocks


def strata_feature(layout: Layout, name: str) -> FeatureSpec:
    """Return the feature whose values are the strata.

    Raises:
        InputError: The rows hold no such category of the user.
    """
    for feature in layout.of("user"):
        if feature.name == name and feature.kind == "category":
            return feature
    raise InputError(f"sampling.strata={name!r} must be a category of the user that the dataset's rows hold")


def count_strata(dataset: Dataset, name: str) -> tuple[int, ...]:
    """Return the number of training rows by id of a category of the user, reading a few blocks at a time.

    Args:
        dataset: The dataset.
        name: Name of the feature; empty: the result is empty, and no row is read.

    Raises:
        InputError: The rows hold no such category of the user.
    """
    if not name:
        return ()
    layout, rows = dataset.layout, dataset.rows("train")
    feature, column = strata_feature(layout, name), layout.category_column("user", name)
    count = np.zeros(feature.size, np.int64)
    for block in row_blocks(rows):
        count += np.bincount(block["user_categories"][:, column], minlength=feature.size)
    return tuple(count.tolist())


def strata_weights(count: Sequence[int], power: float) -> np.ndarray:
    """Return the weight of an example by id of its stratum, [ids] float32.

    A stratum of n training rows has the weight n^(power - 1), divided by the mean over the training rows. A
    stratum without training rows has weight 1, the mean.

    Args:
        count: Number of training rows by id.
        power: `sampling.strata_power`.
    """
    rows = np.asarray(count, np.float64)
    there = rows > 0
    log_weight = (power - 1) * np.log(rows, where=there, out=np.zeros_like(rows))
    weight = np.exp(log_weight - log_weight[there].max(initial=-np.inf), where=there, out=np.ones_like(rows))
    mean = (rows * weight).sum() / rows.sum()
    return np.where(there, weight / mean, 1.0).astype(np.float32)


def check_strata_counts(layout: Layout, strata: str, counts: Sequence[int]) -> None:
    """Raise InputError unless `counts` are the training rows of each id of a feature; "" has none.

    Args:
        layout: Layout of the rows.
        strata: Value of `sampling.strata`.
        counts: Training rows by id, from `count_strata`.
    """
    if not strata:
        return
    size = strata_feature(layout, strata).size
    if len(counts) != size or not any(counts):
        raise InputError(
            f"sampling.strata={strata!r} needs the training rows of each of its {size} ids: the counts "
            f"{list(counts)} are not those"
        )
