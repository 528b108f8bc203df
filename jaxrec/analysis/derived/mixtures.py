"""Fit of mixtures of trained models on validation users, and their workdirs.

Of each query the log probability of the target by each member is computed once. The gate then minimises the
mean of -log sum over members of w_m p_m. No member was trained on validation users, so that a member that
remembers its users gains no weight.

Axis letters: Q queries, L lists, M members, Z inputs of the gate, C candidates.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.analysis.derived.gates import SCALES, Form, fit, target_log_p
from jaxrec.analysis.derived.workdirs import check_new, write_workdir
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.paths import AnyPath
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.baselines import candidates, listed
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.evaluation.scorers import ListScorer, QueryRunner
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import AXIS, as_global_arrays, replicate
from jaxrec.tasks.base import Task
from jaxrec.tasks.loading import (
    OF_MEMBER,
    LoadedCheckpoint,
    check_same_catalogue,
    default_checkpoint,
    load_checkpoint,
    open_dataset,
)
from jaxrec.tasks.mixture.inputs import gate_features, gate_inputs
from jaxrec.tasks.mixture.task import MIXTURE
from jaxrec.tasks.ranking_inputs import decode

_PAIRS = 2**20  # (query, title) pairs of a step


def mix(
    members: tuple[AnyPath, ...], by: tuple[str, ...], workdir: AnyPath, form: Form = "learned"
) -> dict[str, Any]:
    """Fit a mixture of runs on validation users, and write its workdir.

    Args:
        members: Workdirs of the runs; the first one's dataset has the validation users.
        by: Inputs of the gate, as for `gate_features`.
        workdir: Workdir to write.
        form: "learned": the gate is an MLP; "uniform": equal weights; "best": the best single member for each
            value of the first of `by`; "average": a single model with the mean of the members' parameters.

    Returns:
        A dictionary of JSON values.

    Raises:
        InputError: There are fewer than two members, their titles, tasks or (for "average") parameters
            differ, or `by` or `workdir` is wrong.
    """
    target = check_new("workdir", workdir)
    if len(members) < 2 or len({str(m) for m in members}) < len(members):
        raise InputError(f"members={','.join(map(str, members))}; allowed: two workdirs or more, each once")
    loaded = [load_checkpoint(member, default_checkpoint(member)) for member in members]
    dataset = open_dataset(loaded[0], None)
    _check_members(members, loaded, dataset)
    if form == "average":
        return _write_average(members, loaded, target)
    gate_features(loaded[0].task.layout, by)
    corrections = [
        load_or_fit_correction(member, one, replicate(one.task.title_table(one.arrays)), dataset)
        for member, one in zip(members, loaded, strict=True)
    ]
    rows = dataset.rows("validation").all()
    if not len(rows):
        raise InputError(f"dataset {dataset.directory}: has no validation users to fit a mixture on")
    scale_MxL, log_p_QxLxM = _log_probabilities(loaded, dataset, rows)
    keeps = loaded[0].config.sampling.history_keeps_abandoned
    z_QxZ = np.asarray(_gate_inputs(loaded[0], rows, by, keeps))
    fitted = fit(form, z_QxZ, log_p_QxLxM, rows["user"])
    params = {
        "members": {str(m): jax.tree.map(np.asarray, one.params) for m, one in enumerate(loaded)},
        "list_scale": scale_MxL.astype(np.float32),
        "scale": np.array([c.scale for c in corrections], np.float32),
        "log_q": np.stack([_log_q(c, loaded[0].task.layout.num_titles) for c in corrections]),
        "gate": fitted.gate,
    }
    mixture = {
        "members": [{key: one.meta[key] for key in OF_MEMBER if key in one.meta} for one in loaded],
        "heads": [c.head for c in corrections], "by": list(by), "hidden": list(fitted.hidden), "form": form,
        "workdirs": [str(m) for m in members],
    }  # fmt: skip
    write_workdir(target, loaded[0].step, params, loaded[0].meta | {MIXTURE: mixture}, loaded[0].arrays)
    return {"workdir": str(target), "members": [str(m) for m in members], "form": form} | fitted.report


def _check_members(members: tuple[AnyPath, ...], loaded: list[LoadedCheckpoint], dataset: Dataset) -> None:
    first = loaded[0]
    for member, one in zip(members, loaded, strict=True):
        if MIXTURE in one.meta:
            raise InputError(f"members: {member} is a mixture itself; allowed: trained models")
        if not one.task.ranking_heads and not one.task.protocols().is_policy:
            raise InputError(f"members: {member} ranks no titles; allowed: ranking and next-item models")
        if (
            one.task.layout.rows != first.task.layout.rows
            or one.task.protocols().lists != first.task.protocols().lists
        ):
            raise InputError(
                f"members: {member} has the task {one.config.task.name!r}, {members[0]} has "
                f"{first.config.task.name!r}; allowed: models of the same rows"
            )
        if one.task.shards_titles:
            raise InputError(
                f"members: {member} has a sharded table; allowed: model.item_table_sharding=replicated"
            )
        try:
            check_same_catalogue(dataset, one)
        except InputError as error:
            raise InputError(f"members: {member}: {error}") from None


def _write_average(
    members: tuple[AnyPath, ...], loaded: list[LoadedCheckpoint], target: AnyPath
) -> dict[str, Any]:
    """Write a run with the mean of the members' parameters (Wortsman et al. 2022)."""
    shapes = [jax.tree.map(lambda x: x.shape, one.params) for one in loaded]
    for member, shape in zip(members, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"members: the parameters of {member} have other names or shapes than those of {members[0]}; "
                "allowed: equal models for form=average"
            )
    params = jax.tree.map(
        lambda *x: np.mean([np.asarray(y, np.float64) for y in x], axis=0).astype(np.asarray(x[0]).dtype),
        *(one.params for one in loaded),
    )
    meta = loaded[0].meta | {"averaged": [str(m) for m in members]}
    write_workdir(target, loaded[0].step, params, meta, loaded[0].arrays)
    return {"workdir": str(target), "members": [str(m) for m in members], "form": "average"}


def _log_q(correction: Correction, titles: int) -> np.ndarray:
    log_q = correction.log_q_V
    return np.zeros(titles, np.float32) if log_q is None else np.asarray(log_q, np.float32)


# ---------------------------------------------------------------- probabilities of targets


def _log_probabilities(
    loaded: list[LoadedCheckpoint], dataset: Dataset, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales [M, L] of scores, and log p [Q, L, M] of the targets; NaN without a list."""
    lists = loaded[0].task.protocols().lists
    if not lists:
        log_p = [_TargetRunner(one)(one.params, dataset.rows("validation")) for one in loaded]
        return np.ones((len(loaded), 1)), np.stack(log_p, axis=1)[:, None]
    scale_MxL, log_p_QxLxM = (
        np.ones((len(loaded), len(lists))),
        np.empty((len(rows), len(lists), len(loaded))),
    )
    for m, one in enumerate(loaded):
        scorer = ListScorer(one.task, replicate(one.task.title_table(one.arrays)), False, 1)
        scores = scorer(one.params, dataset.rows("validation")).scores
        for l, name in enumerate(lists):
            present = candidates(rows, name)[:, 0] > 0
            has_list = listed(rows, name)[:, 0]
            scaled = [target_log_p(scores[:, l, 0], present, scale) for scale in SCALES]
            best = (
                int(np.argmax([x[has_list].mean() for x in scaled])) if has_list.any() else len(SCALES) // 2
            )
            scale_MxL[m, l] = SCALES[best]
            log_p_QxLxM[:, l, m] = np.where(has_list, scaled[best], np.nan)
    return scale_MxL, log_p_QxLxM


class _TargetRunner(QueryRunner):
    """Runner that gives log p of the targets by a next-item model, over all titles."""

    def __init__(self, loaded: LoadedCheckpoint) -> None:
        task = loaded.task
        queries = max(_PAIRS // task.layout.num_titles, 1)
        table = replicate(loaded.task.title_table(loaded.arrays))
        super().__init__(task, table, _target_step(task), queries, lambda params: params)

    def __call__(self, params: Any, rows: Any) -> np.ndarray:
        """Return log p [Q] in the order of the rows."""
        parts = [np.asarray(jax.device_get(x)) for x, _ in self._run(as_global_arrays(params), rows)]
        return np.concatenate(parts)[: rows.rows].astype(np.float64)


def _target_step(task: Task) -> Callable:
    def step(params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        logits = task.policy_logits(params, host, table).astype(jnp.float32)
        logits = jnp.where(jnp.arange(logits.shape[1]) >= 2, logits, -1e9)
        target = decode(host.words, task.layout.query_dtype())["target"][:, :1]
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), target, axis=1)[:, 0]
        return jax.lax.all_gather(log_p, AXIS, tiled=True)

    return step


def _gate_inputs(loaded: LoadedCheckpoint, rows: np.ndarray, by: tuple[str, ...], keeps: bool) -> jax.Array:
    fields = {name: jnp.asarray(rows[name]) for name in rows.dtype.names or ()}
    return gate_inputs(fields, loaded.task.layout, by, keeps)
