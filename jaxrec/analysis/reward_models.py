"""Values of a policy under the reward models of another run, for any dataset with rewards.

Without a truth, a policy is measured by reward models: their mean prediction for the titles that it chooses.
The models must not be those that the policy was trained by. What they explain of the rewards of test users,
beside the means of users and titles, is printed with the value.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.analysis.explained_variance import explained_variance
from jaxrec.config.heads import REWARD, head_values
from jaxrec.core.batch import HostBatch
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, REWARDS
from jaxrec.core.paths import AnyPath
from jaxrec.core.registry import METRICS, resolve
from jaxrec.core.rewards import version
from jaxrec.data.loading.left_out import LeftOutTitles, left_out_titles
from jaxrec.data.storage.dataset import Dataset, SelectedRows
from jaxrec.evaluation.details.grouped_means import overall
from jaxrec.evaluation.results import EvaluationResult
from jaxrec.evaluation.scorers import QueryRunner
from jaxrec.evaluation.truth.policy_value import normalise
from jaxrec.runtime.mesh import AXIS, as_global_arrays, replicate
from jaxrec.tasks.base import Task
from jaxrec.tasks.loading import (
    LoadedCheckpoint,
    check_same_catalogue,
    default_checkpoint,
    load_checkpoint,
    open_dataset,
)
from jaxrec.tasks.preference.task import PreferenceTask

_PAIRS = 2**22  # (query, title) pairs that an accelerator scores per step
_HIGH = 0.8  # quantile of the rewards from which a target is one of high reward
_CUTOFF = 10


def with_reward_models(
    evaluation: EvaluationResult, workdir: AnyPath, models: AnyPath, data: AnyPath | None = None
) -> EvaluationResult:
    """Return an evaluation with the values of the policy under the reward models of a run.

    Args:
        evaluation: Evaluation of the policy.
        workdir: Workdir of the policy.
        models: Workdir of a run of the task "preference" with reward models.
        data: Dataset of the evaluation. None: that of the training.

    Raises:
        InputError: The run has no reward models, or other titles, or the evaluated model is no policy.
    """
    loaded = load_checkpoint(workdir, evaluation.result["which"])
    dataset = open_dataset(loaded, data)
    models_run = _load_models(models, loaded, dataset)
    queries, split = evaluation.rows, evaluation.result["split"]
    left_out = left_out_titles(dataset, split, queries, "all", evaluation.row_index)
    codes = loaded.arrays.title_codes
    of_policy = RewardValues(loaded.task, models_run, dataset, queries, left_out, codes)
    value, predicted = of_policy(loaded.params)
    half = float(overall(queries["user"]).of(value).half[0])
    result = {
        "workdir": str(models), "models": models_run.config.post.reward_models,
        "reward": models_run.config.post.reward, "version": version(_reward(models_run)),
        "value": float(value.mean()),
        "interval": [float(value.mean()) - half, float(value.mean()) + half] if np.isfinite(half) else None,
        **_of_targets(evaluation, models_run, predicted),
    }  # fmt: skip
    return evaluation._replace(
        result=evaluation.result | {REWARDS: result},
        policy=evaluation.policy | {f"{REWARDS}/value": value},
    )


def _load_models(models: AnyPath, loaded: LoadedCheckpoint, dataset: Dataset) -> LoadedCheckpoint:
    if not loaded.task.protocols().is_policy:
        raise InputError(f"reward_models={models}: a ranking model is no policy; allowed: a next-item model")
    models_run = load_checkpoint(models, default_checkpoint(models))
    count = models_run.config.post.reward_models
    if not count:
        raise InputError(
            f"reward_models={models}: post.reward_models={count}; allowed: a run of the task 'preference' "
            "with reward models"
        )
    check_same_catalogue(dataset, models_run)
    return models_run


def _reward(models_run: LoadedCheckpoint) -> Any:
    """Return the declaration of the reward that the models predict."""
    config = models_run.config
    return next(reward for reward in config.rewards if reward.name == config.post.reward)


def _rewards(models_run: LoadedCheckpoint, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards [Q] of the targets of held-out rows, and where they are known."""
    config = models_run.config
    of, stored = REWARD + config.post.reward, models_run.task.layout.labels
    reward, known = head_values(of, rows["label"], rows["label_known"], config, stored, np)
    return np.asarray(reward)[:, 0].astype(np.float64), np.asarray(known)[:, 0]


def _mean_reward(models_run: LoadedCheckpoint, dataset: Dataset) -> float:
    """Return the mean reward of the validation targets, around which the models predict."""
    reward, known = _rewards(models_run, dataset.rows("validation").all())
    return float(reward[known].mean()) if known.any() else 0.0


def _of_targets(
    evaluation: EvaluationResult, models_run: LoadedCheckpoint, predicted: np.ndarray
) -> dict[str, Any]:
    """Return R^2 of the predicted rewards of targets, and metrics of ranks on targets of high reward."""
    rows = evaluation.rows
    reward, known = _rewards(models_run, rows)
    if known.sum() < 2:
        return {"r2": None, "high": None}
    reward_K, residual = reward[known], reward[known] - predicted[known]
    spread = float(np.square(reward_K - reward_K.mean()).sum())
    explained = explained_variance(rows["user"][known], rows["target"][known, 0], reward_K)
    r2 = {"models": 1 - float(np.square(residual).sum()) / spread if spread else float("nan")}
    r2 |= {f"{name}_mean" if name != "both" else "both_means": x for name, x in explained._asdict().items()}
    high = known & (reward >= np.quantile(reward_K, _HIGH))
    of_high: dict[str, Any] = {"targets": int(high.sum())}
    if evaluation.ranked is not None:
        ranks = evaluation.ranked.by_order["model"].ranks[high]
        for name, metric in METRICS.items():
            of_high[f"{name}@{_CUTOFF}"] = float(resolve(metric)(ranks, _CUTOFF).mean())
    return {"r2": {name: x if np.isfinite(x) else None for name, x in r2.items()}, "high": of_high}


class RewardValues(QueryRunner):
    """Values at queries of policies under reward models.

    Args:
        policy: Task of the policies.
        models: Run of the task "preference" with reward models.
        dataset: Dataset of the queries.
        queries: [Q] held-out rows.
        left_out: Titles that may not be chosen at the queries.
        codes: Codes of the titles of a policy that generates or reads them; None without codes.
    """

    def __init__(
        self, policy: Task, models: LoadedCheckpoint, dataset: Dataset, queries: np.ndarray,
        left_out: LeftOutTitles, codes: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        of_models: Any = models.task
        size = max(_PAIRS // policy.layout.num_titles, 1)
        arrays = (replace(dataset.arrays, title_codes=x) for x in (codes, models.arrays.title_codes))
        tables: Any = replicate(
            tuple(task.title_table(x) for task, x in zip((policy, of_models), arrays, strict=True))
        )
        super().__init__(policy, tables, _step(policy, of_models), size, lambda params: params)
        self._models, self._offset = models.params, _mean_reward(models, dataset)
        self._queries, self._left_out = queries, left_out
        rank_of_id = dataset.arrays.rank_of_id[FIRST_TITLE:]
        self._has_title = rank_of_id < len(dataset.arrays.rank_of_id)

    def __call__(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the value [Q] of the policy of parameters, and the predicted reward [Q] of the targets."""
        queries, done = self._queries, 0
        value, predicted = np.empty(len(queries)), np.empty(len(queries))
        for outputs, _ in self._run(as_global_arrays((params, self._models)), SelectedRows(queries)):
            logits, rewards = (np.asarray(x) for x in jax.device_get(outputs))
            at = np.arange(done, min(done + len(logits), len(queries)))
            played = np.zeros((len(at), logits.shape[1]), bool)
            played[self._left_out.pairs(at)] = True
            logits, rewards = logits[: len(at), FIRST_TITLE:], self._offset + rewards[: len(at)]
            pi = np.exp(normalise(logits, np.where(played[:, FIRST_TITLE:] | ~self._has_title, 0.0, 1.0)))
            value[at] = (pi * rewards[:, FIRST_TITLE:]).sum(axis=1)
            predicted[at] = np.take_along_axis(rewards, queries["target"][at], axis=1)[:, 0]
            done += len(at)
        return value, predicted


def _step(policy: Any, models: PreferenceTask) -> Callable:
    """Return a step `((params, params), batch, tables) -> (logits, rewards)` [B, V] over all devices."""

    def step(params: Any, host: HostBatch, tables: Any) -> tuple[jax.Array, jax.Array]:
        logits = policy.policy_logits(params[0], host, tables[0]).astype(jnp.float32)
        rewards = models.reward_scores(params[1], host, tables[1])
        return jax.lax.all_gather((logits, rewards), AXIS, tiled=True)

    return step
