"""Measurements of an evaluation for the report: report-<split>-<checkpoint>.json in the workdir."""

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from jaxrec.core.ids import CATALOGUE, SERVED
from jaxrec.core.json_io import merged, plain, write_json
from jaxrec.core.paths import AnyPath
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics
from jaxrec.evaluation.baselines import listed
from jaxrec.evaluation.details.grouped_means import GroupedMeans, overall
from jaxrec.evaluation.details.groups import Grouping, group_queries
from jaxrec.tasks.loading import LoadedCheckpoint

Ranks = Mapping[str, Mapping[str, np.ndarray]]  # list or CATALOGUE -> order, such as "model" -> ranks [Q]

_BY_GROUP = {"lists": "ndcg@1", CATALOGUE: "ndcg@10"}  # the metric of breakdowns
_COMPARED = ("model", "popularity")  # the orders of breakdowns
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_MANIFEST = ("rows", "splits", "titles", "plays", "hard_fill_rate", "has_completion", "fingerprint")


def measure(loaded: LoadedCheckpoint, dataset: Dataset, rows: np.ndarray, ranks: Ranks) -> dict[str, Any]:
    """Return the measurements of ranks: intervals, breakdowns, dataset and environment, as JSON values.

    Args:
        loaded: The checkpoint.
        dataset: Dataset of the queries.
        rows: The Q held-out rows.
        ranks: Ranks of the targets (K=1) by list and order. Those of a served list are of the queries that
            have one; they are not broken down.
    """
    out: dict[str, Any] = {"dataset": dataset.fingerprint, "step": loaded.step}
    keeps_abandoned = loaded.config.sampling.history_keeps_abandoned
    if len(rows) and ranks:
        groupings = group_queries(rows, loaded.arrays, loaded.task.layout, loaded.categories, keeps_abandoned)
        of_all = {name: by_order for name, by_order in ranks.items() if name != SERVED}
        out["intervals"] = intervals(rows["user"], of_all)
        if SERVED in ranks:
            users = rows["user"][listed(rows, SERVED)[:, 0]]
            out["intervals"] |= intervals(users, {SERVED: ranks[SERVED]})
        out["breakdowns"] = {g.key: breakdown(g, rows["user"], of_all) for g in groupings}
    out["data"] = {name: dataset.manifest[name] for name in _MANIFEST if name in dataset.manifest}
    return out | {"environment": environment()}


def intervals(user: np.ndarray, ranks: Ranks) -> dict[str, Any]:
    """Return list -> order -> metric -> half of the 95% interval, clustered by user.

    Args:
        user: [Q] user of each query.
        ranks: Ranks by list and order.
    """
    means = overall(user)
    return {
        name: {
            order: {
                metric: float(means.of(f(rank)).half[0])
                for metric, f in (metrics.FULL if name == CATALOGUE else metrics.METRICS).items()
            }
            for order, rank in by_order.items()
        }
        for name, by_order in ranks.items()
    }


def breakdown(grouping: Grouping, user: np.ndarray, ranks: Ranks) -> dict[str, Any]:
    """Return the quality of the model and of popularity by group, without the empty groups.

    Args:
        grouping: Groups of the queries.
        user: [Q] user of each query.
        ranks: Ranks by list and order.

    Returns:
        A dictionary of JSON values: `title`; `groups`, `queries` and `users`, one entry per group; and
        `values`: "<list>/<metric>" -> order -> `mean` and `half`, one entry per group.
    """
    means = GroupedMeans(user, grouping.group, len(grouping.names))
    kept = np.flatnonzero(means.queries)
    values: dict[str, Any] = {}
    for name, by_order in ranks.items():
        metric = _BY_GROUP[CATALOGUE if name == CATALOGUE else "lists"]
        f = (metrics.FULL | metrics.METRICS)[metric]
        for order in _COMPARED:
            if order in by_order:
                mean, half = means.of(f(by_order[order]))
                by_group = {"mean": mean[kept].tolist(), "half": half[kept].tolist()}
                values.setdefault(f"{name}/{metric}", {})[order] = by_group
    return {
        "title": grouping.title,
        "groups": [grouping.names[i] for i in kept],
        "queries": means.queries[kept].tolist(),
        "users": means.users[kept].tolist(),
        "values": values,
    }


def environment() -> dict[str, str]:
    """Return versions of the libraries, and the kind and the number of devices."""
    device = jax.devices()[0]
    out = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for library in ("jaxrec", *_LIBRARIES):
        try:
            out[library] = metadata.version(library)
        except metadata.PackageNotFoundError:  # a clone on sys.path
            continue
    processes = jax.process_count()
    kind = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    return out | {"devices": kind + (f" of {processes} processes" if processes > 1 else "")}


def measurements_file(split: str, which: str) -> str:
    """Return the name of the file of measurements in a workdir."""
    return f"report-{split}-{which}.json"


def write_measurements(workdir: AnyPath, result: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Write measurements, and the result beside them, to a workdir.

    Those of the same checkpoint on the same dataset are kept where this evaluation has none, such as
    those of the candidate lists when only the whole catalogue was ranked.

    Args:
        workdir: Folder of the run.
        result: JSON values of the evaluation.
        measured: The measurements.
    """
    path = workdir / measurements_file(result["split"], result["which"])
    new = plain({**measured, "result": result})
    stored = json.loads(path.read_bytes()) if path.exists() else {}
    same = all(stored.get(key) == new.get(key) for key in ("dataset", "step"))
    write_json(path, merged(stored, new) if same else new)
