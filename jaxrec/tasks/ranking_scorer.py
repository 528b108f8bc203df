"""Scoring of the ranking task: model, heads, and scores of lists, of all titles and of requests."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config.heads import TITLE, HeadSpec, Page, head_values
from jaxrec.config.validation import mix_counts
from jaxrec.core.batch import History, HostBatch, Outcome, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import LABELS, POOLS, RETRIEVAL_HEAD, SERVED
from jaxrec.core.registry import HEADS
from jaxrec.core.row_format import FeatureSpec
from jaxrec.data.loading.packing import Packer
from jaxrec.data.loading.strata import check_strata_counts
from jaxrec.models.cached_scoring import score_in_groups
from jaxrec.models.encoders.session import history_windows
from jaxrec.models.layers.dense import applied
from jaxrec.models.outputs import Correction
from jaxrec.models.ranker import RankingModel
from jaxrec.models.two_stage import TwoStageResult, two_stage
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.base import Task
from jaxrec.tasks.heads import page_of, specs_of
from jaxrec.tasks.inputs.session import session_kinds
from jaxrec.tasks.outputs import Protocols, QueryScores, Sums, TitleScores


@dataclass(frozen=True, eq=False)
class RankingScorer(Task):
    """Model of the paper with its heads, without the objective, which `RankingTask` adds."""

    def batch_loss(self, *args: Any, **kwargs: Any) -> tuple[jax.Array, Sums]:
        """Return the loss summed over a decoded batch, and its metrics; see `RankingTask`."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise InputError if the rows lack negatives, a label, a session, the strata or a blend's page."""
        _ = self.view  # raises for rows without the session that the model reads
        for feature in self.observed:
            if feature.name not in self.layout.labels:
                stored = ", ".join(self.layout.labels) or "no label"
                raise InputError(
                    f"features hold label {feature.name!r}, but the dataset's rows store {stored}"
                )
        for head in self.head_specs:
            if head.ranks and not self.layout.has_candidates:
                raise InputError(
                    f"objective.{head.term}={head.weight:g} compares a title with negatives, which rows of "
                    "exposures do not have; allowed: 0, with heads on labels"
                )
        _ = self.pages  # raises for an unknown value
        needed = mix_counts(self.config.sampling.mix, self.config.sampling.negatives)[POOLS.index(SERVED)]
        columns = self.layout.pools[-1] if self.layout.has_served else 0
        if self.reads_served and columns < needed:
            raise InputError(
                f"sampling.mix.served={self.config.sampling.mix.served:g} needs {needed} served titles a "
                f"row, and the dataset's rows hold {columns}; allowed: a lower share, or a dataset of "
                f"data.served={needed} or more, or of python -m jaxrec.retrieve with as many --titles"
            )
        check_strata_counts(self.layout, self.config.sampling.strata, self.strata)

    @cached_property
    def head_specs(self) -> tuple[HeadSpec, ...]:
        """Heads that the objective trains, those of the paper first."""
        return specs_of(self.config, self.layout, self.label_shares)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that the objective trains, those of the paper first."""
        return tuple(head.name for head in self.head_specs)

    def _spec(self, name: str) -> HeadSpec:
        return next(head for head in self.head_specs if head.name == name)

    @cached_property
    def model(self) -> RankingModel:
        """Model of the config, on the dataset's features, with the objective's heads."""
        m, layout = self.config.model, self.layout
        return RankingModel(
            m.dtype, (*layout.features, *self.observed), layout.num_titles, m,
            AXIS if self.shards_titles else "", self.head_specs, self.config.objective.retrieval_negatives,
            self.config.evaluate.blends, self.pages, layout.has_gaps, len(layout.session_kinds),
        )  # fmt: skip

    @cached_property
    def pages(self) -> tuple[Page, ...]:
        """Requests of the blends that serve some of them."""
        return tuple(
            page_of(blend, i, self.layout, self.categories, self.default_head)
            for i, blend in enumerate(self.config.evaluate.blends)
            if blend.where
        )

    @cached_property
    def observed(self) -> tuple[FeatureSpec, ...]:
        """Features that are labels of the target: the value, and whether it is known."""
        return tuple(
            FeatureSpec(f.name, f.kind, f.where, f.width, columns=2) for f in self.config.observed_labels
        )

    @cached_property
    def view(self) -> ranking_inputs.HistoryView:
        """Settings that select the titles of a history."""
        s, names = self.config.sampling, tuple(feature.name for feature in self.observed)
        settings = self.layout, self.windows, s.history_keeps_abandoned, s.id_dropout, names
        return ranking_inputs.HistoryView(
            *settings, session_kinds(self.config, self.layout), s.context_dropout, s.matching
        )

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """Unique numbers of titles that experts read, in decreasing order."""
        return history_windows(self.config.model)

    def protocols(self) -> Protocols:
        """Return the frozen lists; NDCG@1 on the enabled list chooses the best checkpoint.

        It is that on the served list if served titles are negatives of the training. For exposures, and for
        offline runs with heads of labels, there are no lists, and it is the mean AUC.
        """
        if not self.layout.has_candidates or (self.config.offline and self.label_heads):
            return Protocols((), best=(LABELS, "auc"))
        if self.reads_served:
            return Protocols(self.layout.lists, best=(SERVED, "ndcg@1"))
        return Protocols(self.layout.lists, best=("enabled", "ndcg@1"))

    @property
    def reads_served(self) -> bool:
        """True if titles that were shown and not chosen are negatives of the training."""
        return self.config.sampling.mix.served > 0

    @property
    def shares_histories(self) -> bool:
        """True if one encoding of a history serves all candidates.

        Packing of histories requires this.
        """
        return not self.config.model.target_in_sequence

    @cached_property
    def score_task(self) -> str:
        """Head or blend that orders the titles at evaluation."""
        score = self.config.evaluate.ranking_head
        return self.default_head if score == "auto" else score

    @cached_property
    def default_head(self) -> str:
        """Head that orders the titles by default; of exposures without a pair head, the first."""
        pairs = [head.name for head in self.head_specs if head.on == "pair" and head.name != "completion"]
        return "ranking" if "ranking" in pairs else next(iter(pairs), self.heads[0])

    @property
    def ranking_heads(self) -> tuple[str, ...]:
        """Names of the heads and blends that order titles, `score_task` first; "completion" is none."""
        remaining = tuple(h.name for h in self.head_specs if h.ranks and h.name != self.score_task)
        return (self.score_task, *remaining)

    @property
    def measured_heads(self) -> tuple[str, ...]:
        return tuple(h for h in self.heads if h in HEADS and HEADS[h].metrics)

    @property
    def label_heads(self) -> tuple[str, ...]:
        return tuple(h.name for h in self.head_specs if h.loss and not h.of.startswith(TITLE))

    def head_loss(self, name: str) -> str:
        return self._spec(name).loss

    @property
    def calibrated_heads(self) -> tuple[str, ...]:
        return tuple(h for h in self.heads if h in ("ctr", "completion"))

    def packer(self, dtype: np.dtype) -> Packer | None:
        """Return the packer of histories; None with the target in the sequence."""
        if not self.shares_histories:
            return None
        return Packer(dtype, self.windows, self.config.sampling.history_keeps_abandoned)

    def cached_projections(self, params: Any, table: TitleTable, queries: int) -> Any:
        """Return projections of all titles, or None if they save no time.

        They save time if the queries look up more titles than there are.

        For a sharded table the result is None: each title is looked up on the device that stores it.
        """
        if self.shards_titles or self.layout.num_titles >= queries * self.layout.negatives:
            return None
        return self._call(params, table, method="catalogue")

    def score_lists(
        self, params: Any, projections: Any, host: HostBatch, table: TitleTable, next_k: int,
        heads: tuple[str, ...], with_loss: bool,
    ) -> QueryScores:  # fmt: skip
        """Score the frozen lists of queries; arguments as for `Task.score_lists`."""
        queries = ranking_inputs.queries(host.words, self.view, host.packing)
        candidates = queries.candidate[:, :, :next_k]
        scores, gate = self._score_candidates(params, projections, queries.history, candidates, table, heads)
        sums: Sums = {}
        batch = ranking_inputs.validation(queries, host.valid, self.config.sampling.next_k, self.reads_served)
        if with_loss:
            tau = self.config.model.gate.temperature
            sums = self.batch_loss(params, batch, table, tau, None, projections)[1]
        outcomes = {name: self._outcome(name, batch.outcome) for name in heads if name in self.label_heads}
        return QueryScores(scores, gate, sums, outcomes)

    def _outcome(self, head: str, outcome: Outcome) -> tuple[jax.Array, jax.Array]:
        """Return the label of a head at the first target, [B], and where it is known."""
        of, stored = self._spec(head).of, self.layout.labels
        y_BxK, known_BxK = head_values(of, outcome.label, outcome.label_known, self.config, stored, jnp)
        return y_BxK[:, 0], known_BxK[:, 0]

    def _score_candidates(
        self, params: Any, projections: Any, history: History, candidates: jax.Array, table: TitleTable,
        heads: tuple[str, ...],
    ) -> tuple[dict[str, jax.Array], jax.Array]:  # fmt: skip
        """Return the scores of candidates by head, and the gate [B, E].

        Scores have the shape of `candidates`, [B, lists, K, 1 + negatives]; those of declared heads that do
        not order the titles, [B, 1, 1, 1], of the first target or of the state.

        With the target in the sequence each candidate has its own gate, and the returned gate is the mean
        over the candidates that are present.
        """
        tau = self.config.model.gate.temperature
        apply: Any = partial(self.model.apply, {"params": params})
        ids_BxC = candidates.reshape(len(candidates), -1)
        if self.shares_histories:
            user = applied(RankingModel.encode, self.model, params)(history, table, tau, None, projections)
            # A declared head is measured at the first target; only what orders titles scores all candidates.
            declared = {head.name for head in self.head_specs if head.loss} - {self.score_task}
            at_target = tuple(h for h in heads if h in declared)
            others = tuple(h for h in heads if h not in at_target)
            scores = apply(user, ids_BxC, table, others, projections, method="score")
            if at_target:
                scores |= apply(user, ids_BxC[:, :1], table, at_target, projections, method="score")
            gate = user.clean_gate_BxE
        else:
            # One list per group: each candidate has its own sequence, and all groups would not fit in memory.
            scores, gates_BxCxE = score_in_groups(
                apply, history, ids_BxC, table, tau, heads, candidates.shape[-1], projections
            )
            present = (ids_BxC > 0)[..., None]
            gate = jnp.where(present, gates_BxCxE, 0.0).sum(1) / jnp.maximum(present.sum(1), 1)
        one = (len(candidates), 1, 1, 1)
        return {
            name: s.reshape(candidates.shape) if s.shape == ids_BxC.shape else s[:, :1].reshape(one)
            for name, s in scores.items()
        }, gate

    @property
    def catalogue_heads(self) -> tuple[str, ...]:
        if not self.shares_histories or not self.layout.has_candidates:
            return ()
        # A blend or a declared head that orders the titles is not replaced by a head of the paper.
        orders = self.ranking_heads if self.score_task in HEADS else (self.score_task,)
        return (*orders, *((RETRIEVAL_HEAD,) if self.config.model.retrieval_dim else ()))

    def score_all_titles(
        self, params: Any, host: HostBatch, table: TitleTable, heads: tuple[str, ...]
    ) -> TitleScores:
        """Score all titles [B, V] by each of `heads`; see `Task.score_all_titles`."""
        tau = self.config.model.gate.temperature
        queries = ranking_inputs.queries(host.words, self.view, host.packing)
        user = applied(RankingModel.encode, self.model, params)(queries.history, table, tau)

        def scores(head: str) -> Any:
            if head == RETRIEVAL_HEAD:
                return self._call(params, user, table, method="retrieve")
            return self._call(params, user, table, head, method="score_catalogue")

        by_head = {head: scores(head) for head in heads}
        return TitleScores(by_head, queries.rows["target"][:, 0], queries.rows["history_title"])

    def encode_queries(self, params: Any, host: HostBatch, table: TitleTable) -> Any:
        history = ranking_inputs.queries(host.words, self.view, host.packing).history
        if not self.shares_histories:
            return applied(RankingModel.encode_history, self.model, params)(history, table)
        tau = self.config.model.gate.temperature
        return applied(RankingModel.encode, self.model, params)(history, table, tau)

    def score_titles(
        self, params: Any, encoded: Any, table: TitleTable, head: str, id_N: jax.Array
    ) -> jax.Array:
        if self.shares_histories:
            if head == RETRIEVAL_HEAD:
                return self._call(params, encoded, table, None, id_N, method="retrieve")
            return self._call(params, encoded, table, head, id_N, method="score_catalogue")
        id_BxN = jnp.broadcast_to(id_N, (len(encoded.customer_BxF), len(id_N)))
        return self._score_encoded(params, encoded, table, head, id_BxN)

    def predict_completion(
        self, params: Any, encoded: Any, table: TitleTable, id_BxC: jax.Array
    ) -> jax.Array | None:
        if "completion" not in self.heads:
            return None
        return self._score_encoded(params, encoded, table, "completion", id_BxC)

    def _score_encoded(
        self, params: Any, encoded: Any, table: TitleTable, head: str, id_BxC: jax.Array
    ) -> jax.Array:
        """Return the scores [B, C] of candidates by a head, for the result of `encode_queries`."""
        if not self.shares_histories:
            tau = self.config.model.gate.temperature
            encoded = self._call(params, encoded, id_BxC, table, tau, method="join")
        return self._call(params, encoded, id_BxC, table, (head,), method="score")[head]

    def embed_users(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        if not self.shares_histories:
            raise InputError("model.target_in_sequence=true: a user has no vector without a candidate")
        encoded = self.encode_queries(params, host, table)
        if self.config.model.output_maps:
            return self.dot_users(params, encoded, self.score_task)
        return encoded.vector_BxF

    def embed_titles(self, params: Any, table: TitleTable) -> jax.Array:
        if self.config.model.output_maps:
            return self.dot_titles(params, table, self.score_task)
        return self._call(params, table, method="title_vectors")

    def _call(self, params: Any, *inputs: Any, method: str) -> Any:
        return self.model.apply({"params": params}, *inputs, method=method)

    @property
    def dot_heads(self) -> tuple[str, ...]:
        if not self.shares_histories:
            return ()
        ranking = self.ranking_heads if self.config.model.head == "dot" else ()
        return (*ranking, *((RETRIEVAL_HEAD,) if self.config.model.retrieval_dim else ()))

    def dot_users(self, params: Any, encoded: Any, head: str) -> jax.Array:
        return self._call(params, encoded, head, method="dot_users")

    def dot_titles(self, params: Any, table: TitleTable, head: str) -> jax.Array:
        return self._call(params, table, head, method="dot_titles")

    def two_stages(
        self, params: Any, host: HostBatch, table: TitleTable, eligible_BxV: jax.Array, limit: int,
        correction: Correction,
    ) -> TwoStageResult:  # fmt: skip
        variables, tau = {"params": params}, self.config.model.gate.temperature
        queries = ranking_inputs.queries(host.words, self.view, host.packing)
        user = applied(RankingModel.encode, self.model, params)(queries.history, table, tau)
        return two_stage(self.model, variables, user, table, correction, eligible_BxV, limit)
