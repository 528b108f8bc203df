"""Stabilisation of a checkpoint: the same scores, with vectors like those of an earlier training."""

import copy
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrec.analysis.derived.alignment import Maps, Probe, balanced_maps, mean_cosine, procrustes
from jaxrec.analysis.derived.workdirs import check_new, write_workdir
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.core.row_format import Layout
from jaxrec.data.storage.arrays import split_columns
from jaxrec.data.storage.dataset import Dataset, Rows, SelectedRows
from jaxrec.data.tokens.merging import REQUEST
from jaxrec.evaluation.correction import read_correction, write_correction
from jaxrec.evaluation.scorers import QueryRunner
from jaxrec.runtime.mesh import AXIS, as_global_arrays, replicate
from jaxrec.tasks.base import Task
from jaxrec.tasks.loading import (
    LoadedCheckpoint,
    default_checkpoint,
    load_checkpoint,
    open_dataset,
    restore_task,
)

USERS = 20_000  # training users whose outputs determine the maps
STABILISED = "stabilised"  # key of a checkpoint's metadata
OUTPUT_MAPS = "output_maps"  # parameters of `models.heads.OutputMaps`
_QUERIES = 1024  # users per device and step
_CHECKED = 256  # users whose scores are compared


class _Vectors(NamedTuple):
    """Vectors of one head.

    Attributes:
        titles: [V, D] by id.
        users: [N, D] of training users.
    """

    titles: np.ndarray
    users: np.ndarray


def stabilise(
    workdir: str | AnyPath, like: str | AnyPath, out: str | AnyPath, which: str | None = None
) -> dict[str, Any]:
    """Write a workdir with the scores of `workdir` and vectors like those of `like`.

    The reference of a run that this function wrote is its vectors; that of any other run is its own balanced
    form, which `stabilise(like, like, out)` writes.

    Args:
        workdir: Workdir of a run whose score is a dot product.
        like: Workdir of an earlier run with the same width of vectors.
        out: Workdir to write.
        which: "best" or "last" checkpoint. None: the values of the configs.

    Returns:
        A dictionary of JSON values by head: `rank`, `common` titles, `cosine`, `probe` and `score_error`.

    Raises:
        InputError: A model has no dot product, another head or another width than the other, no title is
            common, or `out` is not empty.
    """
    target = check_new("out", out)
    loaded, earlier = _load("", workdir, which), _load("--like=", like, which)
    heads = loaded.task.dot_heads
    if missing := [head for head in heads if head not in earlier.task.dot_heads]:
        raise InputError(
            f"--like={like}: has no dot product named {missing[0]!r}; allowed: a run with the dot products "
            f"of {workdir}: {', '.join(heads)}"
        )
    common = _common_titles(loaded, earlier, like)
    params, result = loaded.params, {}
    facts = _facts(loaded)[common[0]]
    for head in heads:
        maps, result[head] = _map_of_head(loaded, earlier, head, common, facts)
        params = _mapped(params, head, maps)
    config = copy.deepcopy(loaded.config)
    config.model.output_maps = OUTPUT_MAPS in params
    meta = loaded.meta | {
        "config": _with_maps(loaded.meta["config"], config),
        STABILISED: {"like": str(like)},
    }
    task = restore_task(config, meta)
    for head in heads:
        result[head]["score_error"] = _score_error(loaded, task, params, head)
    write_workdir(target, loaded.step, params, meta, loaded.arrays)
    correction = read_correction(as_path(workdir), loaded.step, loaded.task)
    if correction is not None:
        write_correction(target, loaded.step, correction, task)
    return {
        "checkpoint": str(workdir), "like": str(like), "out": str(out), "step": loaded.step, "heads": result,
    }  # fmt: skip


def _map_of_head(
    loaded: LoadedCheckpoint, earlier: LoadedCheckpoint, head: str, common: tuple[np.ndarray, np.ndarray],
    facts: np.ndarray,
) -> tuple[Maps, dict[str, Any]]:  # fmt: skip
    """Return the maps of a head, and how near its vectors come to those of the earlier run.

    Raises:
        InputError: The widths of the vectors differ.
    """
    reference, vectors = _reference(earlier, head), _vectors(loaded, head)
    if reference.shape[1] != vectors.titles.shape[1]:
        raise InputError(
            f"--like: vectors of head {head!r} have width {reference.shape[1]}, those to stabilise "
            f"{vectors.titles.shape[1]}; allowed: equal widths"
        )
    balanced = balanced_maps(_of_titles(loaded, vectors), vectors.users)
    maps, result = _aligned(vectors, balanced, reference, common, facts)
    raw = reference if _is_stabilised(earlier) else _vectors(earlier, head, users=0).titles
    result["cosine"]["raw"] = mean_cosine(vectors.titles[common[0]], raw[common[1]])
    return maps, result


def _load(prefix: str, workdir: str | AnyPath, which: str | None) -> LoadedCheckpoint:
    loaded = load_checkpoint(workdir, which or default_checkpoint(workdir))
    if not loaded.task.dot_heads or loaded.config.model.cosine:
        reason = "is a cosine" if loaded.config.model.cosine else "is no dot product"
        raise InputError(
            f"{prefix}{workdir}: the score of {loaded.config.name!r} {reason}; allowed: a next-item model "
            "without model.cosine, model.head='dot', or a retrieval head"
        )
    return loaded


def _is_stabilised(loaded: LoadedCheckpoint) -> bool:
    return STABILISED in loaded.meta


def _reference(earlier: LoadedCheckpoint, head: str) -> np.ndarray:
    """Return the vectors [V, D] that other runs are aligned with."""
    if _is_stabilised(earlier):
        return _vectors(earlier, head, users=0).titles
    vectors = _vectors(earlier, head)
    return vectors.titles @ balanced_maps(_of_titles(earlier, vectors), vectors.users).of_title_DxD


def _of_titles(loaded: LoadedCheckpoint, vectors: _Vectors) -> np.ndarray:
    """Return the vectors of the ids that have a title, by popularity."""
    return vectors.titles[loaded.arrays.id_of_rank]


def _common_titles(
    loaded: LoadedCheckpoint, earlier: LoadedCheckpoint, like: str | AnyPath
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the titles that both runs have, by the ids of each."""
    _, ours, theirs = np.intersect1d(
        loaded.arrays.title_key, earlier.arrays.title_key, assume_unique=True, return_indices=True
    )
    if not len(ours):
        raise InputError(
            f"--like={like}: no title is the same in both runs; allowed: runs with common titles"
        )
    return ours + FIRST_TITLE, theirs + FIRST_TITLE


def _aligned(
    vectors: _Vectors, balanced: Maps, reference: np.ndarray, common: tuple[np.ndarray, np.ndarray],
    facts: np.ndarray,
) -> tuple[Maps, dict[str, Any]]:  # fmt: skip
    """Return the maps of a head, and how near the vectors come to the reference.

    Args:
        vectors: Vectors of the run.
        balanced: Maps of the run to its balanced form.
        reference: [V, D] vectors of the earlier run.
        common: Ids of the common titles.
        facts: [C, F] facts of the common titles, for the probe.
    """
    earlier = reference[common[1]]
    own = vectors.titles[common[0]]
    maps = balanced.rotated(procrustes(own @ balanced.of_title_DxD, earlier))
    forms = {
        "raw": own, "procrustes": own @ procrustes(own, earlier), "stabilised": own @ maps.of_title_DxD,
    }  # fmt: skip
    probe = Probe(earlier, facts)
    cosine = {name: mean_cosine(x, earlier) for name, x in forms.items()}
    r2 = {"reference": probe.r2(earlier)} | {name: probe.r2(x) for name, x in forms.items()}
    of_probe = {name: {"plays": x[0], "features": float(np.mean(x[1:])) if x[1:] else None}
                for name, x in r2.items()}  # fmt: skip
    return maps, {"rank": maps.rank, "common": len(own), "cosine": cosine, "probe": of_probe}


def _facts(loaded: LoadedCheckpoint) -> np.ndarray:
    """Return facts of titles [V, F]: log1p of plays, then each frequent category of their features."""
    arrays, columns = loaded.arrays, [np.log1p(loaded.arrays.title_plays.astype(np.float64))]
    of_title = split_columns(loaded.task.layout.of("title"), arrays.title_categories, arrays.title_numbers)
    for spec in loaded.task.layout.of("title"):
        if spec.kind != "categories" or spec.name not in of_title:
            continue
        for value in range(FIRST_TITLE, spec.size):
            has = (of_title[spec.name] == value).any(1)
            if 0.02 <= has[FIRST_TITLE:].mean() <= 0.98:  # a rarer one has no R^2 worth the name
                columns.append(has.astype(np.float64))
    return np.stack(columns, axis=1)


# ---------------------------------------------------------------- vectors


class _UserVectors(QueryRunner):
    """Runner that gives the vectors of users for a head."""

    def __init__(self, task: Task, table: TitleTable, head: str) -> None:
        def step(params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
            local = task.dot_users(params, task.encode_queries(params, host, table), head)
            return jax.lax.all_gather(local.astype(np.float32), AXIS, tiled=True)

        super().__init__(task, table, step, _QUERIES, lambda params: params)

    def __call__(self, params: Any, rows: Rows) -> np.ndarray:
        """Return the vectors [N, D] of the users of rows; the order is that of packing."""
        parts = []
        for vectors, row_index in self._run(as_global_arrays(params), rows):
            host = np.asarray(jax.device_get(vectors))
            parts.append(host if row_index is None else host[row_index >= 0])
        return np.concatenate(parts)[: rows.rows]


def _vectors(loaded: LoadedCheckpoint, head: str, users: int = USERS) -> _Vectors:
    """Return the vectors of all titles, and of the first training rows, whose order is that of a hash."""
    table = replicate(loaded.task.title_table(loaded.arrays))
    titles = jax.jit(lambda params: loaded.task.dot_titles(params, table, head))(loaded.params)
    of_titles = np.asarray(jax.device_get(titles), np.float32)[: loaded.task.layout.num_titles]
    if not users:
        return _Vectors(of_titles, np.empty((0, of_titles.shape[1]), np.float32))
    rows = training_queries(open_dataset(loaded, None), users)
    return _Vectors(of_titles, _UserVectors(loaded.task, table, head)(loaded.params, SelectedRows(rows)))


def training_queries(dataset: Dataset, most: int) -> np.ndarray:
    """Return the first training rows as query rows [N], for their histories alone; lists and labels are 0.

    Of a sequence the last play is the target.

    Args:
        dataset: Dataset of the training.
        most: Number of rows.
    """
    layout: Layout = dataset.layout
    rows = dataset.rows("train").head(most).all()[:most]
    out = np.zeros(len(rows), layout.query_dtype())
    if layout.rows == "next_item":
        length, prefix = layout.max_history, "history_"
        for name in (n for n in out.dtype.names or () if n.startswith(prefix)):
            out[name] = rows[name.removeprefix(prefix)][:, -length - 1 : -1]
        out["target"][:, 0], out["target_time"] = rows["title"][:, -1], rows["time"][:, -1]
        for name in (n for n in REQUEST if f"target_{n}" in (out.dtype.names or ())):
            out[f"target_{name}"] = rows[name][:, -1]
        return out
    for name in set(rows.dtype.names or ()) & set(out.dtype.names or ()):
        out[name] = rows[name]
    return out


# ---------------------------------------------------------------- parameters


def _mapped(params: Any, head: str, maps: Maps) -> Any:
    """Return parameters whose vectors of a head are mapped.

    The projections of a retrieval head take the maps in; any other dot product has matrices of its own.
    """
    of_title, of_user = (x.astype(np.float32) for x in (maps.of_title_DxD, maps.of_user_DxD))
    if head == RETRIEVAL_HEAD:
        kernels = params["retrieval"]
        folded = {
            "title": np.asarray(kernels["title"], np.float64) @ maps.of_title_DxD,
            "user": np.asarray(kernels["user"], np.float64) @ maps.of_user_DxD,
        }
        new = {name: x.astype(np.asarray(kernels[name]).dtype) for name, x in folded.items()}
        return params | {"retrieval": new}
    if OUTPUT_MAPS in params:  # of an earlier stabilisation
        before = params[OUTPUT_MAPS]
        of_title = (np.asarray(before["title"], np.float64) @ maps.of_title_DxD).astype(np.float32)
        of_user = (np.asarray(before["user"], np.float64) @ maps.of_user_DxD).astype(np.float32)
    return params | {OUTPUT_MAPS: {"title": of_title, "user": of_user}}


def _with_maps(stored: dict[str, Any], config: Any) -> dict[str, Any]:
    """Return the JSON of the run's config with `model.output_maps`; all else stays as it was stored."""
    return stored | {"model": stored["model"] | {"output_maps": config.model.output_maps}}


def _score_error(loaded: LoadedCheckpoint, task: Task, params: Any, head: str) -> float:
    """Return the largest absolute difference of scores of some training users and all titles."""
    table = replicate(loaded.task.title_table(loaded.arrays))
    rows = SelectedRows(training_queries(open_dataset(loaded, None), _CHECKED))
    placed = replicate(jax.tree.map(np.asarray, params))
    scores = []
    for of, values in ((loaded.task, loaded.params), (task, placed)):
        titles = np.asarray(jax.device_get(of.dot_titles(values, table, head)), np.float32)
        users = _UserVectors(of, table, head)(values, rows)
        scores.append(users @ titles[FIRST_TITLE:].T)
    return float(np.abs(scores[0] - scores[1]).max())
