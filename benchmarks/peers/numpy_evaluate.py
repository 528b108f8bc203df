"""Evaluation in plain NumPy: a loop over queries, each scored by a forward pass.

The vectors of the titles are computed once. Each query is then evaluated alone: its history, without
padding, through the experts; its candidates as rows of [user, title, product]; a sort; the metrics.
`benchmarks.evaluate` checks that scores and metrics equal jaxrec's before it times anything.
"""

from typing import Any

import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import DRAWN_LISTS, FIRST_TITLE, TITLE_ID
from jaxrec.core.row_format import FeatureSpec, Layout

Tree = dict[str, Any]


def dense(x: np.ndarray, p: Tree) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x: np.ndarray, p: Tree) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def columns(features: tuple[FeatureSpec, ...], p: Tree, ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the feature vectors, concatenated, of ids [..., c] and numbers [..., n]."""
    vectors, i, n = [np.zeros((*ids.shape[:-1], 0), np.float32)], 0, 0
    for f in features:
        if f.kind == "number":
            vectors.append(relu(dense(numbers[..., n : n + f.columns], p[f.name])))
            n += f.columns
        else:
            feature_ids = ids[..., i : i + f.columns]
            present = (feature_ids > 0)[..., None]
            total = (p[f.name]["embedding"][feature_ids] * present).sum(-2)
            vectors.append(total / np.maximum(present.sum(-2), 1).astype(np.float32))
            i += f.columns
    return np.concatenate(vectors, -1)


class NumpyModel:
    """Model that scores one query at a time with our parameters, a float32 tree."""

    def __init__(self, params: Tree, layout: Layout, config: Config, table: TitleTable, task: str) -> None:
        self.p, self.layout, self.config, self.task = params, layout, config, task
        self.max_len = max(e.max_len for e in config.model.experts)
        side_features = tuple(f for f in layout.of("title") if f.name != TITLE_ID)
        title_params = params["title"]
        vectors = columns(
            side_features,
            title_params.get("columns", {}),
            np.asarray(table.categories),
            np.asarray(table.numbers),
        )
        if TITLE_ID in title_params:
            vectors = np.concatenate([title_params[TITLE_ID]["embedding"], vectors], 1)
        self.titles = vectors  # [V, F]

    def user(self, row: np.void) -> np.ndarray:
        """Return the user vector [U] of a stored query."""
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
        """Return the history [L, D] without abandoned titles, the newest last."""
        p, ids = self.p["history"], row["history_title"]
        kept_positions = ids > 0
        if not self.config.sampling.history_keeps_abandoned:
            kept_positions &= row["history_abandoned"] == 0
        kept_positions = np.nonzero(kept_positions)[0][-self.max_len :]
        values = {
            "completion": 2 * row["history_completion"][kept_positions].astype(np.float32) - 1,
            "sessions": np.log1p(row["history_sessions"][kept_positions].astype(np.float32)) - 1,
            "age": (row["history_age"][kept_positions].astype(np.float32) - 12) / 4,
        }
        numbers = [relu(dense(values[f.name][:, None], p[f.name])) for f in self.layout.of("interaction")]
        context_rows = np.broadcast_to(context, (len(kept_positions), len(context)))
        x = np.concatenate([self.titles[ids[kept_positions]], *numbers, context_rows], 1)
        return dense(x, p) + p["position"][: len(kept_positions)][::-1]

    def _expert(self, number: int, x: np.ndarray) -> np.ndarray:
        fields, p = self.config.model.experts[number], self.p[f"expert_{number}"]
        if not len(x):
            return p["pool"]["empty"]
        x = x[-fields.max_len :]
        for i in range(fields.num_layers):
            x = self._block(x, p["encoder"][f"block_{i}"], fields.num_heads)
        x = layer_norm(x, p["encoder"]["norm"])
        return softmax(x @ p["pool"]["attention"]) @ x

    def _block(self, x: np.ndarray, p: Tree, heads: int) -> np.ndarray:
        a = p["attention"]
        q, k, v = np.split(layer_norm(x, p["attention_norm"]) @ a["kernel"], 3, axis=1)
        q, v = q + a["query_bias"], v + a["value_bias"]
        q, k, v = (y.reshape(len(x), heads, -1).transpose(1, 0, 2) for y in (q, k, v))
        weights = softmax(q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[-1])))
        x = x + dense((weights @ v).transpose(1, 0, 2).reshape(x.shape), a["out"])
        hidden = relu(dense(layer_norm(x, p["feedforward_norm"]), p["hidden"]))
        return x + dense(hidden, p["out"])

    def _gate(self, x: np.ndarray) -> np.ndarray:
        p = self.p["gate"]["mlp"]
        for i in range(len(self.config.model.gate.hidden)):
            x = relu(dense(x, p[f"hidden_{i}"]))
        return softmax(dense(x, p["out"]) / np.float32(self.config.model.gate.temperature))

    def scores(self, user: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Return the scores [C] of title ids [C], by the head that ranks."""
        p, titles = self.p[f"matcher_{self.task}"], self.titles[candidates]
        inputs = [np.broadcast_to(user, (len(titles), len(user))), titles]
        if self.config.model.matcher_product:
            inputs.append((user @ self.p["product"]["user"]) * (titles @ self.p["product"]["title"]))
        h = relu(dense(np.concatenate(inputs, 1), p))
        for i in range(1, len(self.config.model.head_hidden)):
            h = relu(h @ p[f"kernel_{i}"] + p[f"bias_{i}"])
        return h @ p["kernel_out"] + p.get("bias_out", np.float32(0))


def rank_by_sorting(scores: np.ndarray) -> int:
    """Return the rank of the last candidate, the target; ties rank before the target."""
    order = np.argsort(-scores, kind="stable")
    return int(np.nonzero(order == len(scores) - 1)[0][0]) + 1


def query_metrics(rank: int) -> dict[str, float]:
    """Return the metrics of one query."""
    gain = 1 / np.log2(1 + rank)
    return {
        "ndcg@1": gain if rank <= 1 else 0.0,
        "ndcg@5": gain if rank <= 5 else 0.0,
        "recall@5": 1.0 if rank <= 5 else 0.0,
        "mrr@5": 1 / rank if rank <= 5 else 0.0,
    }


def frozen_lists(model: NumpyModel, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the mean metrics (K=1) of each candidate list."""
    metrics: dict[str, list[dict[str, float]]] = {name: [] for name in DRAWN_LISTS}
    for row in rows:
        user = model.user(row)
        for name in DRAWN_LISTS:
            candidates = np.append(row[f"list_{name}"][0], row["target"][0])
            metrics[name].append(query_metrics(rank_by_sorting(model.scores(user, candidates))))
    return {name: means(values) for name, values in metrics.items()}


def whole_catalogue(model: NumpyModel, rows: np.ndarray) -> dict[str, float]:
    """Return the mean metrics of the targets among all titles."""
    titles = np.arange(FIRST_TITLE, model.layout.num_titles)
    metrics = []
    for row in rows:
        target = row["target"][0]
        candidates = np.append(titles[titles != target], target)
        metrics.append(query_metrics(rank_by_sorting(model.scores(model.user(row), candidates))))
    return means(metrics)


def means(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over queries."""
    return {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}
