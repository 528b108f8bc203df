"""Evaluation as a user would write it in NumPy: a loop over queries, each scored by the model's forward pass.

The vectors of the titles are worked out once. Each query then goes by itself: its real history, without
padding, through the experts; its candidates as rows of [user, title, product]; a sort; the metrics.
`benchmarks.evaluate` holds its scores and metrics to ours before it times anything.
"""

from typing import Any

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import FIRST_TITLE, LISTS, TITLE_ID
from jaxrec.core.row_format import FeatureSpec, Layout

Tree = dict[str, Any]


def dense(x: np.ndarray, p: Tree) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normed(x: np.ndarray, p: Tree) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def columns(features: tuple[FeatureSpec, ...], p: Tree, ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Vectors of one row's or many rows' features, ids [..., c] and numbers [..., n], side by side."""
    parts, i, n = [np.zeros((*ids.shape[:-1], 0), np.float32)], 0, 0
    for f in features:
        if f.kind == "number":
            parts.append(relu(dense(numbers[..., n : n + f.columns], p[f.name])))
            n += f.columns
        else:
            own = ids[..., i : i + f.columns]
            given = (own > 0)[..., None]
            total = (p[f.name]["embedding"][own] * given).sum(-2)
            parts.append(total / np.maximum(given.sum(-2), 1).astype(np.float32))
            i += f.columns
    return np.concatenate(parts, -1)


class NumpyModel:
    """Scores one query at a time with our parameters, a tree of float32 arrays."""

    def __init__(self, params: Tree, layout: Layout, config: Config, table: TitleTable, task: str) -> None:
        self.p, self.layout, self.config, self.task = params, layout, config, task
        self.window = max(e.window for e in config.model.experts)
        others = tuple(f for f in layout.of("title") if f.name != TITLE_ID)
        own = params["title"]
        vectors = columns(
            others, own.get("columns", {}), np.asarray(table.categories), np.asarray(table.numbers)
        )
        if TITLE_ID in own:
            vectors = np.concatenate([own[TITLE_ID]["embedding"], vectors], 1)
        self.titles = vectors  # [V, F]

    def user(self, row: np.void) -> np.ndarray:
        """The user vector [U] of a stored query."""
        context = self._features("context", row)
        customer = self._features("user", row)
        x = self._history(row, context)
        pooled = [self._expert(e, x) for e in range(len(self.config.model.experts))]
        mixture = pooled[0]
        if len(pooled) > 1:
            gate = self._gate(np.concatenate([customer, *pooled]))
            mixture = sum(g * h for g, h in zip(gate, pooled, strict=True))
        return np.concatenate([mixture, customer, context])

    def _features(self, where: str, row: np.void) -> np.ndarray:
        names = row.dtype.names or ()
        ids = row[f"{where}_categories"] if f"{where}_categories" in names else np.zeros(0, np.int32)
        numbers = row[f"{where}_numbers"] if f"{where}_numbers" in names else np.zeros(0, np.float32)
        return columns(self.layout.of(where), self.p.get(where, {}), ids, numbers)

    def _history(self, row: np.void, context: np.ndarray) -> np.ndarray:
        """[L, D] of the titles the user did not abandon, the newest last."""
        p, ids = self.p["history"], row["history_title"]
        kept = ids > 0
        if not self.config.sampling.history_keeps_abandoned:
            kept &= row["history_abandoned"] == 0
        kept = np.nonzero(kept)[0][-self.window :]
        values = {
            "completion": 2 * row["history_completion"][kept].astype(np.float32) - 1,
            "sessions": np.log1p(row["history_sessions"][kept].astype(np.float32)) - 1,
            "age": (row["history_age"][kept].astype(np.float32) - 12) / 4,
        }
        numbers = [relu(dense(values[f.name][:, None], p[f.name])) for f in self.layout.of("interaction")]
        around = np.broadcast_to(context, (len(kept), len(context)))
        x = np.concatenate([self.titles[ids[kept]], *numbers, around], 1)
        return dense(x, p) + p["position"][: len(kept)][::-1]

    def _expert(self, number: int, x: np.ndarray) -> np.ndarray:
        fields, p = self.config.model.experts[number], self.p[f"expert_{number}"]
        if not len(x):
            return p["pool"]["empty"]
        x = x[-fields.window :]
        for i in range(fields.layers):
            x = self._block(x, p["encoder"][f"block_{i}"], fields.heads)
        x = normed(x, p["encoder"]["norm"])
        return softmax(x @ p["pool"]["attention"]) @ x

    def _block(self, x: np.ndarray, p: Tree, heads: int) -> np.ndarray:
        a = p["attention"]
        q, k, v = np.split(normed(x, p["attention_norm"]) @ a["kernel"], 3, axis=1)
        q, v = q + a["query_bias"], v + a["value_bias"]
        q, k, v = (y.reshape(len(x), heads, -1).transpose(1, 0, 2) for y in (q, k, v))
        weights = softmax(q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[-1])))
        x = x + dense((weights @ v).transpose(1, 0, 2).reshape(x.shape), a["out"])
        hidden = relu(dense(normed(x, p["feedforward_norm"]), p["hidden"]))
        return x + dense(hidden, p["out"])

    def _gate(self, x: np.ndarray) -> np.ndarray:
        p = self.p["gate"]["mlp"]
        for i in range(len(self.config.model.gate.hidden)):
            x = relu(dense(x, p[f"hidden_{i}"]))
        return softmax(dense(x, p["out"]) / np.float32(self.config.model.gate.temperature))

    def scores(self, user: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """[C] of title ids [C], by the head that ranks."""
        p, titles = self.p[f"matcher_{self.task}"], self.titles[candidates]
        parts = [np.broadcast_to(user, (len(titles), len(user))), titles]
        if self.config.model.matcher_product:
            parts.append((user @ self.p["product"]["user"]) * (titles @ self.p["product"]["title"]))
        h = relu(dense(np.concatenate(parts, 1), p))
        for i in range(1, len(self.config.model.matcher)):
            h = relu(h @ p[f"kernel_{i}"] + p[f"bias_{i}"])
        return h @ p["kernel_out"] + p.get("bias_out", np.float32(0))


def rank_by_sorting(scores: np.ndarray) -> int:
    """The place of the last candidate, the target, in descending order; ties go before it."""
    order = np.argsort(-scores, kind="stable")
    return int(np.nonzero(order == len(scores) - 1)[0][0]) + 1


def measured(rank: int) -> dict[str, float]:
    """One query's metrics."""
    gain = 1 / np.log2(1 + rank)
    return {
        "ndcg@1": gain if rank <= 1 else 0.0,
        "ndcg@5": gain if rank <= 5 else 0.0,
        "recall@5": 1.0 if rank <= 5 else 0.0,
        "mrr@5": 1 / rank if rank <= 5 else 0.0,
    }


def frozen_lists(model: NumpyModel, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean metrics (K=1) of each list."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LISTS}
    for row in rows:
        user = model.user(row)
        for name in LISTS:
            candidates = np.append(row[f"list_{name}"][0], row["target"][0])
            found[name].append(measured(rank_by_sorting(model.scores(user, candidates))))
    return {name: means(each) for name, each in found.items()}


def whole_catalogue(model: NumpyModel, rows: np.ndarray) -> dict[str, float]:
    """Mean metrics of the target among all titles."""
    every = np.arange(FIRST_TITLE, model.layout.titles)
    found = []
    for row in rows:
        target = row["target"][0]
        candidates = np.append(every[every != target], target)
        found.append(measured(rank_by_sorting(model.scores(model.user(row), candidates))))
    return means(found)


def means(each: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([m[name] for m in each])) for name in each[0]}
