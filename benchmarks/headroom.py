"""Headroom of a mixture of experts: what a better gate over the trained experts could gain.

    python -m benchmarks.headroom --checkpoints W,W2 [--split test] [--json F]

Each expert of a trained model scores alone: the gate's weights are 1 for it and 0 for the others. A gate in
probability space, p = sum over experts e of w_e(z) p_e, is fitted on half of the users and weighs the experts
for the other half, and the other way round. The gate reads the categories and numbers of the user and of the
request, and the length of the history. The better expert by the label would always gain, and is no rival.
Differences to the model as it is (`blend`) are in NDCG@1, means of users over the checkpoints, seeds of one
config, with 95% bootstrap intervals over users.

Axis letters: Q queries, L lists, E experts, C candidates, Z inputs of the gate.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.analysis.derived.gates import SCALES, choose_penalty, learned, target_log_p
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics
from jaxrec.evaluation.baselines import candidates, listed
from jaxrec.evaluation.scorers import ListScorer
from jaxrec.evaluation.slices.results import summaries, user_means
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import LoadedCheckpoint, default_checkpoint, load_checkpoint, open_dataset
from jaxrec.tasks.mixture.inputs import HISTORY, gate_inputs, known_features
from jaxrec.tasks.mixture.task import log_weights

BLEND, GATE, BETTER, EQUAL = "blend", "cross-fitted gate", "better expert", "equal weights"
_ALONE = 1e4  # logit of the expert that scores alone; the weights of the others are 0 in float32
_METRIC = metrics.METRICS["ndcg@1"]


def _flags() -> None:
    flags.DEFINE_list("checkpoints", None, "workdirs of trainings of one config", required=True)
    flags.DEFINE_string("split", SPLITS[-1], f"split: one of {', '.join(SPLITS[1:])}")


def alone(params: Any, expert: int) -> Any:
    """Return parameters whose gate gives one expert all the weight."""
    out = params["gate"]["mlp"]["out"]
    bias = jnp.zeros_like(out["bias"]).at[expert].set(_ALONE)
    layer = {"kernel": jnp.zeros_like(out["kernel"]), "bias": bias}
    return params | {"gate": {"mlp": params["gate"]["mlp"] | {"out": layer}}}


def fitted_gate(z_QxZ: np.ndarray, log_p_QxLxE: np.ndarray, user: np.ndarray, fits_Q: np.ndarray) -> Any:
    """Return the gate that is fitted on the queries of `fits_Q`, with a penalty by folds of their users."""
    weight_Q = fits_Q.astype(np.float64)
    penalty = choose_penalty(z_QxZ, log_p_QxLxE, user, weight_Q)
    return learned(z_QxZ, log_p_QxLxE, weight_Q, penalty)


def cross_fitted(
    z_QxZ: np.ndarray, scores_QxLxExC: np.ndarray, present_QxLxC: np.ndarray, user: np.ndarray
) -> dict[str, np.ndarray]:
    """Return log p [Q, L, C] of mixtures of experts whose weights come from the other half of the users.

    Args:
        z_QxZ: Inputs of the gate.
        scores_QxLxExC: Scores of the candidates by each expert alone, the target first.
        present_QxLxC: True for candidates; False throughout where a query has no such list.
        user: [Q] users, from 0.

    Returns:
        GATE: weights by the gate; BETTER: the expert with the higher mean log p of the other half's targets;
        EQUAL: equal weights.
    """
    Q, L, E, _ = scores_QxLxExC.shape
    half = np.random.default_rng(0).permutation(int(user.max()) + 1)[user] % 2
    has_QxL = present_QxLxC[..., 0]
    out = {name: np.full(present_QxLxC.shape, -np.inf) for name in (GATE, BETTER, EQUAL)}
    for fitted in (0, 1):
        log_p_QxLxE, log_all_QxLxExC = np.full((Q, L, E), np.nan), np.empty(scores_QxLxExC.shape)
        for l, e in np.ndindex(L, E):
            scores, present = scores_QxLxExC[:, l, e], present_QxLxC[:, l]
            has = has_QxL[:, l]
            fits = (half == fitted) & has
            means = [target_log_p(scores[fits], present[fits], scale).mean() for scale in SCALES]
            scale = SCALES[int(np.argmax(means))]
            log_p_QxLxE[has, l, e] = target_log_p(scores[has], present[has], scale)
            scaled = np.where(present, scale * scores.astype(np.float64), -np.inf)
            total = np.logaddexp.reduce(scaled, axis=1, keepdims=True)
            log_all_QxLxExC[:, l, e] = scaled - np.where(np.isfinite(total), total, 0.0)
        gate = fitted_gate(z_QxZ, log_p_QxLxE, user, half == fitted)
        log_w_QxE = np.asarray(log_weights(gate, jnp.asarray(z_QxZ)), np.float64)
        better = int(np.argmax(np.nanmean(log_p_QxLxE[half == fitted], axis=(0, 1))))
        for name, log_w in (
            (GATE, log_w_QxE), (BETTER, np.log(np.eye(E)[better] + 1e-300)), (EQUAL, np.full(E, -np.log(E))),
        ):  # fmt: skip
            mixed = np.logaddexp.reduce(
                log_all_QxLxExC + np.broadcast_to(log_w, (Q, E))[:, None, :, None], axis=2
            )
            out[name][half != fitted] = mixed[half != fitted]
    return out


def values_of(loaded: LoadedCheckpoint, dataset: Dataset, split: str) -> dict[str, np.ndarray]:
    """Return NDCG@1 [Q] of a checkpoint by "list/form"; NaN where a query has no such list.

    Raises:
        InputError: The model has no gate.
    """
    if "gate" not in loaded.params or len(loaded.config.model.experts) < 2:
        raise InputError(
            f"--checkpoints: {loaded.config.name} has no gate; allowed: models of several experts"
        )
    task, rows = loaded.task, dataset.rows(split).all()
    lists = [name for name in task.protocols().lists if listed(rows, name).any()]
    at = [task.protocols().lists.index(name) for name in lists]
    scorer = ListScorer(task, replicate(task.title_table(loaded.arrays)), False, 1)
    forms = {BLEND: loaded.params}
    forms |= {f"expert {e + 1}": alone(loaded.params, e) for e in range(len(loaded.config.model.experts))}
    scores = {
        name: scorer(replicate(jax.device_get(params)), dataset.rows(split)).scores[:, at, 0]
        for name, params in forms.items()
    }
    present_QxLxC = np.stack(
        [(candidates(rows, name)[:, 0] > 0) & listed(rows, name)[:, :1] for name in lists], axis=1
    )
    by = (*known_features(task.layout), HISTORY)
    fields = {name: jnp.asarray(rows[name]) for name in rows.dtype.names or ()}
    z_QxZ = np.asarray(gate_inputs(fields, task.layout, by, loaded.config.sampling.history_keeps_abandoned))
    of_experts = np.stack([scores[name] for name in list(forms)[1:]], axis=2)
    mixed = cross_fitted(z_QxZ, of_experts, present_QxLxC, rows["user"].astype(np.int64))
    values: dict[str, np.ndarray] = {}
    for form, scored in (scores | mixed).items():
        for l, name in enumerate(lists):
            present = present_QxLxC[:, l]
            ndcg = _METRIC(metrics.rank(scored[:, l], present[:, 1:]))
            values[f"{name}/{form}"] = np.where(present[:, 0], ndcg, np.nan)
    return values


def main(args: flags.FlagValues) -> Report:
    if args.split not in SPLITS[1:]:
        raise InputError(f"--split={args.split}; allowed: {', '.join(SPLITS[1:])}")
    of_seeds, user = [], np.empty(0, np.int64)
    for workdir in args.checkpoints:
        loaded = load_checkpoint(workdir, default_checkpoint(workdir))
        dataset = open_dataset(loaded, None)
        user = dataset.rows(args.split).all()["user"]
        of_seeds.append(values_of(loaded, dataset, args.split))
    values = {name: np.mean([seed[name] for seed in of_seeds], axis=0) for name in of_seeds[0]}
    blends = {name: values[f"{name.split('/', 1)[0]}/{BLEND}"] for name in values}
    differences = summaries(user_means(user, {name: x - blends[name] for name, x in values.items()}))
    levels = summaries(user_means(user, values))
    rows = [
        (
            name.replace("/", ", "), f"{levels[name]['mean']:.4f}",
            "" if name.endswith(BLEND) else
            f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] to the blend; visible {d['visible']:.4f}",
        )
        for name, d in differences.items()
    ]  # fmt: skip
    figures = {
        "checkpoints": args.checkpoints,
        "split": args.split,
        "ndcg@1": levels,
        "difference": differences,
    }
    title = f"headroom of the gate: NDCG@1, {len(np.unique(user)):,} users, {len(of_seeds)} seeds"
    return Report(title, figures, rows)


if __name__ == "__main__":
    run(main, _flags)
