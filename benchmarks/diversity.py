"""Diverse lists by MMR and by determinantal point processes, at equal diversity.

    python -m benchmarks.diversity --runs W0,W1,W2 [--queries 20000] [--json F]

Both choose 10 of a query's 50 best titles, by the corrected scores and the cosines of the model's title
vectors, without the titles that the user played before. MMR is `models.diversity.choose`. The process (k-DPP)
is greedy MAP inference (Chen, Zhang & Zhou, NeurIPS 2018) of the kernel L = Diag(q) S Diag(q): S holds the
cosines, and q = exp(strength * relevance) with the relevance of MMR, scaled to [0, 1] over the candidates.

A list's diversity is ILD@10, its mean cosine distance of two titles. Each setting of the process is compared
with MMR at its own ILD@10, between its two neighbouring settings; settings outside the range of MMR are left
out.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.command import Report, run
from jaxrec.core.batch import HostBatch
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.paths import as_path
from jaxrec.data.loading.left_out import left_out_titles
from jaxrec.data.storage.arrays import as_words
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import statistics
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.models.diversity import CANDIDATES, choose, intra_list_distance, unit_vectors
from jaxrec.tasks.loading import load_checkpoint

LENGTH = 10  # titles of a list
MMR = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # weights of dissimilarity
PROCESS = (16.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.0)  # strengths of the relevance
_CHUNK = 512  # queries at a time


class Queries(NamedTuple):
    """The best titles of Q queries by one run."""

    id: np.ndarray  # [Q, N] title ids, the best first
    score: np.ndarray  # [Q, N] corrected scores
    target: np.ndarray  # [Q] title ids
    user: np.ndarray  # [Q]
    unit: np.ndarray  # [V, F] title vectors of length 1


class Lists(NamedTuple):
    """Figures of the lists by one setting."""

    ndcg: np.ndarray  # [Q] NDCG@10 of the target
    distance: float  # mean ILD@10


def _flags() -> None:
    flags.DEFINE_list("runs", None, "workdirs of a ranker's runs, one per seed", required=True)
    flags.DEFINE_integer("queries", 20_000, "test queries, the first ones", lower_bound=1)


def best_titles(workdir: str, queries: int) -> Queries:
    """Return the candidates of the first test queries of a run's dataset."""
    loaded = load_checkpoint(workdir, "best")
    dataset = Dataset(loaded.meta["dataset_directory"])
    rows = dataset.rows("test").all()[:queries]
    left_out = left_out_titles(dataset, "test", rows, "all")
    table = loaded.arrays.title_table()
    correction = load_or_fit_correction(as_path(workdir), loaded, table)
    score = jax.jit(
        lambda words: correction(
            loaded.task.score_all_titles(
                loaded.params, HostBatch(words, np.ones(len(words), bool)), table, (correction.head,)
            ).by_head[correction.head]
        )
    )
    number = LENGTH * CANDIDATES
    ids, scores = [], []
    for first in range(0, len(rows), _CHUNK):
        query = np.arange(first, min(first + _CHUNK, len(rows)))
        words = np.pad(as_words(rows[query]), ((0, _CHUNK - len(query)), (0, 0)))
        score_QxV = np.array(score(words))[: len(query)]
        row, title = left_out.pairs(query)
        score_QxV[:, :FIRST_TITLE] = score_QxV[row, title] = -np.inf
        id_QxN = np.argsort(-score_QxV, axis=1, kind="stable")[:, :number]
        ids.append(id_QxN)
        scores.append(np.take_along_axis(score_QxV, id_QxN, axis=1))
    unit = unit_vectors(np.asarray(loaded.task.embed_titles(loaded.params, table), np.float32))
    return Queries(np.concatenate(ids), np.concatenate(scores), rows["target"][:, 0], rows["user"], unit)


def choose_by_process(
    id_QxN: np.ndarray, score_QxN: np.ndarray, unit_VxF: np.ndarray, k: int, strength: float
) -> np.ndarray:
    """Choose k of N candidates by greedy MAP inference of a determinantal point process.

    Each choice has the largest determinant of the kernel with the titles chosen before. Its growth is kept by
    an incremental Cholesky factor, so that a choice costs N * k products.

    Args:
        id_QxN: Title ids.
        score_QxN: Finite scores.
        unit_VxF: Vectors of length 1.
        k: Number of titles, at most N and at most F.
        strength: Weight of the relevance in the logarithm of the quality.

    Returns:
        Indices [Q, k] of the chosen candidates, in the order of choice.
    """
    low, high = score_QxN.min(axis=1, keepdims=True), score_QxN.max(axis=1, keepdims=True)
    relevance_QxN = (score_QxN - low) / np.maximum(high - low, 1e-12)
    vector_QxNxF = np.exp(strength * (relevance_QxN - 1))[..., None] * unit_VxF[id_QxN].astype(np.float64)
    gain_QxN = np.square(vector_QxNxF).sum(axis=2)  # squared diagonal of the Cholesky factor
    factor_QxNxk = np.zeros((*id_QxN.shape, k))
    chosen_Qxk, query = np.empty((len(id_QxN), k), np.int64), np.arange(len(id_QxN))
    for i in range(k):
        best = chosen_Qxk[:, i] = gain_QxN.argmax(axis=1)
        products_QxN = np.einsum("qnf,qf->qn", vector_QxNxF, vector_QxNxF[query, best])
        products_QxN -= np.einsum("qnk,qk->qn", factor_QxNxk, factor_QxNxk[query, best])
        factor_QxNxk[:, :, i] = products_QxN / np.sqrt(np.maximum(gain_QxN[query, best], 1e-300))[:, None]
        gain_QxN = gain_QxN - np.square(factor_QxNxk[:, :, i])
        gain_QxN[query, best] = -np.inf
    return chosen_Qxk


def lists(queries: Queries, index_Qxk: np.ndarray) -> Lists:
    """Return the figures of chosen candidates [Q, k]."""
    id_Qxk = np.take_along_axis(queries.id, index_Qxk, axis=1)
    hit_Qxk = id_Qxk == queries.target[:, None]
    distance_Q = intra_list_distance(jnp.asarray(id_Qxk), jnp.asarray(queries.unit))
    return Lists((hit_Qxk / np.log2(np.arange(2, LENGTH + 2))).sum(axis=1), float(distance_Q.mean()))


def chosen_by(method: str, strength: float, queries: Queries) -> Lists:
    """Return the figures of all lists by a method, "mmr" or "dpp", in chunks."""
    parts = []
    for first in range(0, len(queries.id), _CHUNK):
        part = slice(first, first + _CHUNK)
        call = choose if method == "mmr" else choose_by_process
        parts.append(call(queries.id[part], queries.score[part], queries.unit, LENGTH, strength))
    return lists(queries, np.concatenate(parts))


def at_distance(curve: list[Lists], distance: float) -> np.ndarray | None:
    """Return NDCG@10 [Q] at a diversity, linear between neighbouring settings; None outside the curve."""
    ordered = sorted(curve, key=lambda setting: setting.distance)
    for low, high in itertools.pairwise(ordered):
        if low.distance <= distance <= high.distance:
            share = (distance - low.distance) / max(high.distance - low.distance, 1e-12)
            return (1 - share) * low.ndcg + share * high.ndcg
    return None


def compare(by_seed: list[dict[str, Any]], users: np.ndarray) -> dict[float, dict[str, Any]]:
    """Return strength -> difference of NDCG@10 at equal diversity, the process less MMR.

    Args:
        by_seed: Method -> figures by setting, of each seed.
        users: [Q] user of each query.
    """
    _, index, count = np.unique(users, return_inverse=True, return_counts=True)
    result = {}
    for i, strength in enumerate(PROCESS):
        pairs = [(seed["dpp"][i], at_distance(seed["mmr"], seed["dpp"][i].distance)) for seed in by_seed]
        differences = [process.ndcg - mmr for process, mmr in pairs if mmr is not None]
        if len(differences) < len(by_seed):
            continue
        by_query = np.stack(differences)
        over_users = statistics.paired(np.bincount(index, by_query.mean(axis=0)) / count)
        over_seeds = statistics.over_seeds(by_query.mean(axis=1))
        result[strength] = {
            "distance": float(np.mean([process.distance for process, _ in pairs])),
            "mean": float(by_query.mean()),
            "users": list(over_users.interval),
            "verdict": statistics.verdict(over_users.tests, over_seeds),
        }
    return result


def main(args: flags.FlagValues) -> Report:
    """Compare both methods over all runs."""
    by_seed, users = [], np.empty(0)
    for workdir in args.runs:
        queries = best_titles(workdir, args.queries)
        users = queries.user
        by_seed.append(
            {
                "mmr": [chosen_by("mmr", strength, queries) for strength in MMR],
                "dpp": [chosen_by("dpp", strength, queries) for strength in PROCESS],
            }
        )
    figures: dict[str, Any] = {"queries": len(users), "compared": compare(by_seed, users)}
    rows = []
    for method, strengths in (("mmr", MMR), ("dpp", PROCESS)):
        for i, strength in enumerate(strengths):
            settings = [seed[method][i] for seed in by_seed]
            ndcg = float(np.mean([setting.ndcg.mean() for setting in settings]))
            distance = float(np.mean([setting.distance for setting in settings]))
            figures.setdefault(method, {})[strength] = {"ndcg@10": ndcg, "ild@10": distance}
            difference = figures["compared"].get(strength) if method == "dpp" else None
            text = ""
            if difference:
                low, high = difference["users"]
                text = f"less MMR at this ILD {difference['mean']:+.4f} [{low:+.4f}, {high:+.4f}], "
                text += difference["verdict"]
            rows.append((f"{method} {strength:g}", f"NDCG@10 {ndcg:.4f}, ILD@10 {distance:.4f}", text))
    return Report(f"Diverse lists, {len(users):,} queries, {len(args.runs)} seeds", figures, rows)


if __name__ == "__main__":
    run(main, _flags)
