"""Mixture of trained models in probability space: p(title) = sum over members of w_m(z) p_m(title).

The probabilities p_m are softmaxes of a member's scores over the titles of a list, or over all titles. The
weights are a softmax of an MLP of z, the user's and the request's facts. A score is log p. The mixture of
ranking models has a scale of each member's scores for each list, and the correction of each member for
rankings of all titles. `analysis.derived.mixtures` fits and writes mixtures; none is trained.

Axis letters: B queries, M members, V titles, N some titles, Z inputs of the gate.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.base import Task
from jaxrec.tasks.mixture.inputs import gate_inputs, gate_width
from jaxrec.tasks.outputs import Protocols, QueryScores, TitleScores

HEAD = "mixture"
MIXTURE = "mixture"  # key of a checkpoint's metadata
_ABSENT = -1e9  # score of what is no title; finite, so that no difference is NaN


class EncodedMixture(NamedTuple):
    """Encoded queries of all members.

    Attributes:
        log_weight_BxM: Log weights of the members.
        members: Encodings, one per member.
        log_total_BxM: Logsumexp of a member's scores over all titles.
    """

    log_weight_BxM: jax.Array
    members: tuple[Any, ...]
    log_total_BxM: jax.Array


@dataclass(frozen=True, eq=False)
class MixtureTask(Task):
    """Mixture of the tasks of several checkpoints on the same titles.

    Args:
        members: Tasks of the members.
        heads: Head of each member that ranks all titles.
        by: Inputs of the gate, as for `gate_features`.
        hidden: Widths of the hidden layers of the gate.
    """

    members: tuple[Task, ...] = ()
    heads: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    hidden: tuple[int, ...] = ()

    def protocols(self) -> Protocols:
        """Return the protocols of the first member."""
        return self.members[0].protocols()

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        """Return parameters of the shapes of a mixture: those of the members, scales and the gate."""
        M, sizes = len(self.members), (gate_width(self.layout, self.by), *self.hidden, len(self.members))
        lists = max(len(self.protocols().lists), 1)
        return {
            "members": {str(m): task.init_params(key, table) for m, task in enumerate(self.members)},
            "list_scale": jnp.ones((M, lists)),
            "scale": jnp.ones(M),
            "log_q": jnp.zeros((M, self.layout.num_titles)),
            "gate": {
                str(i): {"kernel": jnp.zeros((sizes[i], sizes[i + 1])), "bias": jnp.zeros(sizes[i + 1])}
                for i in range(len(sizes) - 1)
            },
        }

    # ------------------------------------------------ scoring

    @property
    def ranking_heads(self) -> tuple[str, ...]:
        return (HEAD,)

    @property
    def catalogue_heads(self) -> tuple[str, ...]:
        return (HEAD,) if all(task.catalogue_heads for task in self.members) else ()

    def log_weights(self, params: Any, host: HostBatch) -> jax.Array:
        """Return the log weights [B, M] of the members."""
        rows = ranking_inputs.decode(host.words, self.layout.query_dtype())
        keeps = self.config.sampling.history_keeps_abandoned
        return log_weights(params["gate"], gate_inputs(rows, self.layout, self.by, keeps))

    def score_lists(
        self, params: Any, projections: Any, host: HostBatch, table: TitleTable, next_k: int,
        heads: tuple[str, ...], with_loss: bool,
    ) -> QueryScores:  # fmt: skip
        """Return log p over the candidates of each list; the gate is the weights of the members."""
        log_weight_BxM, parts = self.log_weights(params, host), []
        for m, task in enumerate(self.members):
            member, head = params["members"][str(m)], task.ranking_heads[0]
            scored = task.score_lists(member, None, host, table, next_k, (head,), False)
            scale_L = params["list_scale"][m]
            log_p = self._over_candidates(scored.by_head[head] * scale_L[:, None, None], host, next_k)
            parts.append(log_weight_BxM[:, m, None, None, None] + log_p)
        log_p = jax.nn.logsumexp(jnp.stack(parts), axis=0)
        return QueryScores({HEAD: log_p}, jnp.exp(log_weight_BxM), {}, {})

    def _over_candidates(self, scores: jax.Array, host: HostBatch, next_k: int) -> jax.Array:
        """Return log softmax of scores [B, lists, K, 1 + negatives] over the candidates that are there."""
        rows = ranking_inputs.decode(host.words, self.layout.query_dtype())
        target = rows["target"][:, :next_k, None]
        ids = [jnp.concatenate([target, rows[f"list_{n}"][:, :next_k]], axis=2) for n in self.layout.lists]
        return jax.nn.log_softmax(jnp.where(jnp.stack(ids, axis=1) > 0, scores, _ABSENT), axis=-1)

    def _corrected(
        self, params: Any, m: int, scores_BxN: jax.Array, id_N: jax.Array, table: TitleTable
    ) -> jax.Array:
        """Return the corrected scores of a member for titles `id_N`, in float32."""
        corrected = params["scale"][m] * scores_BxN + params["log_q"][m][id_N]
        is_title_V = self.candidates(table)
        is_title_N = id_N >= FIRST_TITLE if is_title_V is None else is_title_V[id_N]
        return jnp.where(is_title_N, corrected, _ABSENT).astype(jnp.float32)

    def encode_queries(self, params: Any, host: HostBatch, table: TitleTable) -> EncodedMixture:
        every_V, encodings, totals = jnp.arange(self.layout.num_titles), [], []
        for m, task in enumerate(self.members):
            member = params["members"][str(m)]
            encodings.append(task.encode_queries(member, host, table))
            scores = task.score_titles(member, encodings[-1], table, self.heads[m], every_V)
            totals.append(jax.nn.logsumexp(self._corrected(params, m, scores, every_V, table), axis=1))
        return EncodedMixture(self.log_weights(params, host), tuple(encodings), jnp.stack(totals, axis=1))

    def score_titles(
        self, params: Any, encoded: EncodedMixture, table: TitleTable, head: str, id_N: jax.Array
    ) -> jax.Array:
        weighed = []
        for m, task in enumerate(self.members):
            member = params["members"][str(m)]
            scores = task.score_titles(member, encoded.members[m], table, self.heads[m], id_N)
            log_p = self._corrected(params, m, scores, id_N, table) - encoded.log_total_BxM[:, m, None]
            weighed.append(encoded.log_weight_BxM[:, m, None] + log_p)
        return jax.nn.logsumexp(jnp.stack(weighed), axis=0)

    def score_all_titles(
        self, params: Any, host: HostBatch, table: TitleTable, heads: tuple[str, ...] = (HEAD,)
    ) -> TitleScores:
        encoded = self.encode_queries(params, host, table)
        log_p = self.score_titles(params, encoded, table, HEAD, jnp.arange(self.layout.num_titles))
        rows = ranking_inputs.decode(host.words, self.layout.query_dtype())
        return TitleScores({HEAD: log_p}, rows["target"][:, 0], rows["history_title"])

    def policy_logits(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        return self.score_all_titles(params, host, table).by_head[HEAD]

    def embed_users(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        raise InputError(_NO_VECTORS)

    def embed_titles(self, params: Any, table: TitleTable) -> jax.Array:
        raise InputError(_NO_VECTORS)


_NO_VECTORS = "a mixture of models has no vectors of users or titles; allowed: one of its members"


def log_weights(gate: Any, z_BxZ: jax.Array) -> jax.Array:
    """Return the log weights [B, M]: the log softmax of an MLP with ReLU.

    Args:
        gate: Layer, from "0" -> "kernel" and "bias".
        z_BxZ: From `gate_inputs`.
    """
    h = z_BxZ
    for i in range(len(gate)):
        h = (h if i == 0 else jax.nn.relu(h)) @ gate[str(i)]["kernel"] + gate[str(i)]["bias"]
    return jax.nn.log_softmax(h, axis=1)
