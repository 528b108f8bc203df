"""Description of what a config learns from: signals, labels, rewards, tasks and features."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrec.analysis.explained_variance import explained_variance
from jaxrec.analysis.feature_auc import LEAK, category_auc, fitting_half, number_auc
from jaxrec.analysis.targets import Targets, read_targets
from jaxrec.config.rules.declared.labels import AT_REQUEST
from jaxrec.config.schema import Config, Feature, Label
from jaxrec.core import registry, rewards
from jaxrec.core.ids import SPLITS, TITLE_ID
from jaxrec.data.labels.counts import counts_of
from jaxrec.data.labels.counts import describe as describe_labels
from jaxrec.data.storage.arrays import split_columns
from jaxrec.data.storage.dataset import Dataset
from jaxrec.data.storage.row_blocks import row_blocks

SAMPLE_TARGETS = 500_000  # training targets in memory, which bound it


def describe(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Return what a config learns from, as JSON values; NaN is None.

    The memory does not depend on the number of rows: held-out rows are read block by block, the labels of
    training rows are those of the manifest, and rewards and features are measured on the training targets
    of the first users, about `SAMPLE_TARGETS` in all. Users are in the order of a hash, so that these are a
    random sample.

    Args:
        config: Config of the dataset.
        dataset: Its prepared dataset.
    """
    targets = read_targets(dataset, SAMPLE_TARGETS)
    binary = {name: counts for name in targets.y if (counts := _positive(targets, name)) is not None}
    return {
        "dataset": str(dataset.directory),
        "fingerprint": dataset.fingerprint,
        "targets": len(targets.user),
        "users": len(np.unique(targets.user)),
        "signals": _signals(config, dataset.manifest),
        "labels": _labels(config, dataset),
        "rewards": _rewards(config, targets),
        "tasks": _tasks(config, dataset, targets),
        "binary_labels": {
            name: {"known": int(targets.known[name].sum()), "positive": int(positive.sum())}
            for name, positive in binary.items()
        },
        "features": _features(config, dataset, targets, binary),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _signals(config: Config, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = manifest["rows"]["read"]
    return [
        {
            "name": signal.name,
            "value": signal.value,
            "about": signal.about,
            "read": counts["read"],
            "kept": counts["kept"],
            "rate": counts["read"] / max(rows, 1),
        }
        for signal in config.signals
        for counts in (manifest["signals"][signal.name],)
    ]


# ---------------------------------------------------------------- labels and rewards


def _labels(config: Config, dataset: Dataset) -> list[dict[str, Any]]:
    if not config.labels:
        return []
    by_split = {"train": dataset.manifest["labels"]} | {
        split: _counts_of_labels(dataset, split) for split in SPLITS[1:]
    }
    return [
        {
            "name": label.name,
            "rule": label.rule,
            "signal": label.signal,
            "hours": label.hours,
            "available_after_hours": _available_after(label),
            "splits": {split: {"mean": None} | entries[label.name] for split, entries in by_split.items()},
        }
        for label in config.labels
    ]


def _available_after(label: Label) -> float | None:
    """Return the hours from the request until a label is final; None for an own rule, which decides."""
    if label.rule in AT_REQUEST:
        return 0.0
    return label.hours if label.rule in registry.LABEL_RULES else None


def _counts_of_labels(dataset: Dataset, split: str) -> dict[str, dict[str, Any]]:
    counts: Counter[str] = Counter()
    for rows in row_blocks(dataset.rows(split)):
        counts.update(counts_of(rows, dataset.layout))
    return describe_labels(dataset.layout.labels, counts)[0]["labels"]


def _rewards(config: Config, targets: Targets) -> list[dict[str, Any]]:
    out = []
    for reward in config.rewards:
        counted = targets.known
        if reward.unknown == "filled":
            counted = {name: known | targets.filled[name] for name, known in targets.known.items()}
        values, known = (np.broadcast_to(x, targets.user.shape) for x in rewards.value(
            reward, targets.y, counted, np
        ))  # fmt: skip
        values = values[known].astype(np.float64)
        explained = explained_variance(targets.user[known], targets.title[known], values)
        out.append(
            {
                "name": reward.name,
                "version": rewards.version(reward),
                "known": float(known.mean()),
                "mean": float(values.mean()) if len(values) else None,
                "std": float(values.std()) if len(values) else None,
                "r2": {name: _number(value) for name, value in explained._asdict().items()},
            }
        )
    return out


# ---------------------------------------------------------------- tasks and features


def _tasks(config: Config, dataset: Dataset, targets: Targets) -> list[dict[str, Any]]:
    """Return the terms of the objective; the loss of a task is its weight / `known` times the known sum."""
    if config.rows == "next_item":
        return [
            {"name": f"next title, {config.next_item.loss}", "weight": 1.0, "known": 1.0, "normaliser": 1.0}
        ]
    known = {"completion": float((~np.isnan(targets.completion)).mean())}
    weights = {name: getattr(config.objective, head.weight) for name, head in registry.HEADS.items()}
    weights["retrieval"] = config.objective.retrieval
    if config.objective.heads:
        from jaxrec.tasks.heads import specs_of  # imports jax

        declared = [h for h in specs_of(config, dataset.layout, dataset.label_shares) if h.loss]
        weights |= {head.name: head.weight for head in declared}
        known |= {head.name: head.share for head in declared}
    return [
        {
            "name": name,
            "weight": weight,
            "known": known.get(name, 1.0),
            "normaliser": weight / known.get(name, 1.0) if known.get(name, 1.0) else None,
        }
        for name, weight in weights.items()
        if weight
    ]


def _positive(targets: Targets, name: str) -> np.ndarray | None:
    """Return a mask [N] of the larger value of a label; None unless its known values are two."""
    values = targets.y[name][targets.known[name]]
    if not len(values) or values.min() == values.max():
        return None
    is_binary = np.isin(values, (values.min(), values.max())).all()
    return targets.known[name] & (targets.y[name] == values.max()) if is_binary else None


def _available(feature: Feature) -> str:
    """Return when a feature is known: "request", "after", or "history" for outcomes of earlier plays."""
    return "history" if feature.where == "interaction" else feature.available


def _features(
    config: Config, dataset: Dataset, targets: Targets, binary: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    arrays, layout = dataset.arrays, dataset.layout
    of_titles = split_columns(layout.of("title"), arrays.title_categories, arrays.title_numbers)
    of_titles |= {TITLE_ID: np.arange(layout.num_titles)[:, None]}  # its stored column is 0
    fit = fitting_half(targets.user)
    out = []
    for feature in config.features:
        entry: dict[str, Any] = {
            "name": feature.name,
            "kind": feature.kind,
            "where": feature.where,
            "available": _available(feature),
        }
        if feature.where == "title" and feature.name in of_titles:
            columns = of_titles[feature.name][targets.title]
        else:
            columns = targets.features.get(feature.name)
        is_early = feature.where == "label"  # an outcome that offline models read: no leak
        if is_early:
            columns = targets.y[feature.name][:, None]
        if columns is not None and (is_early or entry["available"] != "after"):
            areas = {name: _auc(feature, columns, targets.known[name], binary[name], fit) for name in binary}
            entry["auc"] = {name: _number(area) for name, area in areas.items()}
            entry["leaks"] = [name for name, area in areas.items() if area >= LEAK and not is_early]
        out.append(entry)
    return out


def _auc(
    feature: Feature, columns: np.ndarray, known: np.ndarray, positive: np.ndarray, fit: np.ndarray
) -> float:
    if feature.kind == "number":
        return number_auc(columns[known, 0], positive[known])
    return category_auc(columns[known], positive[known], fit[known])
