"""The recommender (Figure 1): embed, encode by experts, gate, match. BST, V-MoE, S-MoE
and the peers (SASRec, GRU4Rec, HSTU) by its fields.

Axes in names: B examples, C candidates, R rows of L titles, E experts, D width, F features, V titles.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrec.config.schema import Model
from jaxrec.core.batch import History, TitleTable
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.registry import ENCODERS, resolve
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.encoders.base import PackedTitles
from jaxrec.models.heads import MlpHead, ProductFeatures, RetrievalHead, dot_score
from jaxrec.models.layers.dense import (
    Parameters,
    at_least_float32,
    broadcast,
    embedding_lookup,
    rematerialize,
)
from jaxrec.models.layers.embedding import FeatureEncoder, select_features
from jaxrec.models.layers.history_encoder import HistoryEncoder
from jaxrec.models.layers.rng import dropout, dropout_mask, fold_in, layer_id, randint
from jaxrec.models.layers.title_encoder import ProjectedLookup, TitleEncoder, TitleLookup, TitleProjections
from jaxrec.models.mixture import Gate

HEAD_NAMES = ("ctr", "ranking", "completion")
HEAD_KINDS = ("matcher", "dot")


class UserEncoding(NamedTuple):
    """An encoded request, to be scored against any number of lists; with the target in the sequence one for
    each of its candidates, [B, C, ...], to be scored against those."""

    vector_BxF: jax.Array  # mixture (Eq. 11), customer features, context
    gate_BxE: jax.Array  # the weights mixed with; ones [B, 1] for one expert
    clean_gate_BxE: jax.Array  # the same without noise


class EncodedHistories(NamedTuple):
    """Requests whose histories were read, for candidates to join."""

    experts: tuple[Any, ...]  # of each `Kind.remember`
    customer_BxF: jax.Array
    context_BxF: jax.Array


class RetrievalScores(NamedTuple):
    """What the retrieval head says of the positives and of N titles drawn from the whole catalogue."""

    positive_BxK: jax.Array
    negative_BxN: jax.Array
    there_BxN: jax.Array  # bool: the title drawn is none of the positives


class RankingOutput(NamedTuple):
    """Scores in at least float32. "ctr" is a logit, "completion" in (0, 1)."""

    scores: dict[str, jax.Array]  # task -> [B, C]
    gate_BxE: jax.Array  # [B, C, E] with the target in the sequence
    clean_gate_BxE: jax.Array
    retrieved: RetrievalScores | None = None  # in training, where there is such a head


def _take_positions(titles: PackedTitles, at_RxL: jax.Array) -> PackedTitles:
    """The titles at these places of the flat rows, and padding beyond them."""
    x_NxD, of_N = titles.x_RxLxD.reshape(-1, titles.x_RxLxD.shape[-1]), titles.example_RxL.reshape(-1)
    x = embedding_lookup(x_NxD, at_RxL, mode="fill", fill=0)
    # Padding's number is past every example's, so that it belongs to none.
    example = of_N.at[at_RxL].get(mode="fill", fill_value=np.iinfo(np.int32).max)
    age = jnp.take(titles.age_RxL.reshape(-1), at_RxL, mode="fill", fill_value=0)
    key = titles.key_RxLx2
    if key is not None:
        key = jnp.take(key.reshape(-1, 2), at_RxL, axis=0, mode="clip")
    return PackedTitles(x, example, age, key)


class RankingModel(Parameters):
    """One expert is BST and has no gate; tasks=("ctr",) is the paper's single-task learning.

    `dtype` is of the compute: "float32", "bfloat16" (parameters stay float32), or "float64" under
    jax_enable_x64. Without `key`, nothing is random.
    """

    features: tuple[FeatureSpec, ...]  # of the dataset's layout
    titles: int  # V
    config: Model
    tasks: tuple[str, ...]  # heads, some of HEAD_NAMES
    sampled_titles: int = 0  # titles drawn per example to train the retrieval head
    split: str = ""  # the axis of devices that the titles' embeddings are dealt to; empty: each has all

    def setup(self):
        if not self.tasks or set(self.tasks) - set(HEAD_NAMES):
            raise ValueError(f"tasks={self.tasks} must be some of {HEAD_NAMES}")
        if self.config.head not in HEAD_KINDS or (self.config.head == "dot" and len(self.tasks) > 1):
            raise ValueError(
                f"head={self.config.head!r} must be one of {HEAD_KINDS}; dot has one task, not {self.tasks}"
            )
        if self.config.retrieval_dim and self.config.target_in_sequence:
            raise ValueError(f"retrieval={self.config.retrieval_dim} must be 0 with target_in_sequence")
        where = {w: tuple(f for f in self.features if f.where == w) for w in ("title", "user", "context")}
        of = self.config.features, self.config.embedding_init_std
        self.title = TitleEncoder(self.dtype, where["title"], self.titles, *of, self.split, name="title")
        self.user = FeatureEncoder(self.dtype, where["user"], *of, name="user")
        self.context = FeatureEncoder(self.dtype, where["context"], *of, name="context")
        interactions = select_features(
            [f for f in self.features if f.where == "interaction"], self.config.features
        )
        self.longest = max(e.max_len for e in self.config.experts)
        title, user, context = (
            sum(f.width for f in select_features(where[w], self.config.features)) for w in where
        )
        self.rows = HistoryEncoder(
            self.dtype, interactions, title, context, self.config.width, self.longest, self.config.position,
            self.config.target_in_sequence, name="history",
        )  # fmt: skip
        self.expert = [
            resolve(ENCODERS[f.encoder])(self.dtype, f, self.config.attention_impl, name=f"expert_{e}")
            for e, f in enumerate(self.config.experts)
        ]
        if len(self.config.experts) > 1:
            self.gating = Gate(self.dtype, self.config.gate, name="gate")
        ends = self.config.width + user + context, title
        if self.config.retrieval_dim:
            self.retrieving = RetrievalHead(self.dtype, *ends, self.config.retrieval_dim, name="retrieval")
        if self.config.head == "dot":
            return
        if self.config.matcher_product:
            self.product = ProductFeatures(self.dtype, *ends, self.config.head_hidden[-1], name="product")
        product = self.config.head_hidden[-1] if self.config.matcher_product else 0
        self.matchers = {
            t: MlpHead(
                self.dtype, t, *ends, product, self.config.head_hidden, t != "ranking", name=f"matcher_{t}"
            )
            for t in self.tasks
        }

    def catalogue(self, table: TitleTable, id_U: jax.Array | None = None) -> TitleProjections:
        """Every title's part in the experts' input and in the matchers' first layers, to be worked out once
        for whatever many requests `encode` and `score` are then given; or that of the titles `id_U`, as
        `dealt.distinct` gives them, where those are all that is asked for."""
        if id_U is None:
            t_VxF = self.title.vectors(jnp.arange(self.titles), table)
        else:
            t_VxF = self.title.lookup_unique(id_U, table)
        kernels = {"history": self.rows.of_title}
        if self.config.head == "matcher":
            kernels |= {t: m.of_title for t, m in self.matchers.items()}
            if self.config.matcher_product:
                kernels["product"] = self.product.of_title
        if self.config.retrieval_dim:
            kernels["retrieval"] = self.retrieving.of_title
        return TitleProjections({name: t_VxF @ kernel for name, kernel in kernels.items()}, id_U)

    def _titles(self, ids: jax.Array, table: TitleTable, catalogue: TitleProjections | None) -> TitleLookup:
        return self.title.rows(ids, table) if catalogue is None else ProjectedLookup(catalogue, ids)

    def encode(
        self,
        history: History,
        table: TitleTable,
        temperature: jax.Array | float,
        key_Bx2: jax.Array | None = None,
        catalogue: TitleProjections | None = None,
        candidate_BxC: jax.Array | None = None,
    ) -> UserEncoding:
        """The user vector of each request; `temperature` is the gate's. The history holds the longest
        window's places, and the shorter windows'. Candidates are asked for by the target in the sequence
        alone: `join`."""
        chex.assert_rank(history.title, 2, custom_message="history.title [R, L]")
        if key_Bx2 is not None:
            chex.assert_shape(key_Bx2, (None, 2), custom_message="key_Bx2")
        if not self.config.target_in_sequence:
            seen, customer_BxF, context_BxF = self._read(history, table, key_Bx2, catalogue)
            pooled = [
                rematerialize(
                    self.config.remat, lambda of, titles: of(titles, len(customer_BxF)), expert, titles
                )
                for expert, titles in ((expert, seen[expert.fields.window]) for expert in self.expert)
            ]
            return self._mixed(pooled, customer_BxF, context_BxF, temperature, key_Bx2)
        if candidate_BxC is None:
            raise ValueError("with target_in_sequence a request is encoded for its candidates: give them")
        remembered = self.encode_history(history, table, key_Bx2, catalogue)
        return self.join(remembered, candidate_BxC, table, temperature, key_Bx2, catalogue)

    def _read(
        self,
        history: History,
        table: TitleTable,
        key_Bx2: jax.Array | None,
        catalogue: TitleProjections | None,
    ) -> tuple[dict[int, PackedTitles], jax.Array, jax.Array]:
        """What experts read, by window; the customers and the contexts."""
        customer_BxF = self.user(history.user_categories, history.user_numbers)
        context_BxF = self.context(history.context_categories, history.context_numbers)
        x_RxLxD = self.rows(history, self._titles(history.title, table, catalogue), context_BxF)
        key_RxLx2 = None
        if key_Bx2 is not None:
            key_RxLx2 = fold_in(jnp.take(key_Bx2, history.example, axis=0, mode="clip"), history.newer)
            if self.config.dropout:
                keep, _ = dropout_mask(key_RxLx2, layer_id(self.path), self.config.width, self.config.dropout)
                x_RxLxD = dropout(x_RxLxD, keep, self.config.dropout)
        whole = PackedTitles(x_RxLxD, history.example, history.age, key_RxLx2)
        seen = {x_RxLxD.shape[1]: whole} | {
            w: _take_positions(whole, at) for w, at in history.shorter.items()
        }
        return seen, customer_BxF, context_BxF

    def encode_history(
        self, history: History, table: TitleTable, key_Bx2: jax.Array | None = None,
        catalogue: TitleProjections | None = None,
    ) -> EncodedHistories:  # fmt: skip
        """What `join` needs of histories, a request a row: the experts' work that no candidate changes."""
        seen, customer_BxF, context_BxF = self._read(history, table, key_Bx2, catalogue)
        experts = tuple(
            rematerialize(self.config.remat, type(expert).encode_history, expert, seen[expert.fields.window])
            for expert in self.expert
        )
        return EncodedHistories(experts, customer_BxF, context_BxF)

    def join(
        self,
        remembered: EncodedHistories,
        candidate_BxC: jax.Array,
        table: TitleTable,
        temperature: jax.Array | float,
        key_Bx2: jax.Array | None = None,
        catalogue: TitleProjections | None = None,
    ) -> UserEncoding:
        """Each candidate's user vector [B, C, ...], it being the newest title of the history.

        Experts of a causal kind work through L + C places a request, the others through C (L + 1). With keys,
        titles of the history are dropped for each candidate anew by the others, for all of them alike by the
        causal ones: of each candidate by itself the law is the same.
        """
        chex.assert_rank(candidate_BxC, 2, custom_message="candidate_BxC")
        (examples, C), key_BxCx2 = candidate_BxC.shape, None
        _, customer_BxF, context_BxF = remembered
        x_BxCxD = self.rows.candidates(self._titles(candidate_BxC, table, catalogue), context_BxF)
        if key_Bx2 is not None:
            key_BxCx2 = fold_in(key_Bx2[:, None], jnp.arange(C))
            if self.config.dropout:
                keep, _ = dropout_mask(
                    fold_in(key_BxCx2, jnp.int32(0)),
                    layer_id(self.path),
                    self.config.width,
                    self.config.dropout,
                )
                x_BxCxD = dropout(x_BxCxD, keep, self.config.dropout)
        pooled = [
            rematerialize(self.config.remat, type(expert).join, expert, memory, x_BxCxD, key_BxCx2)
            for expert, memory in zip(self.expert, remembered.experts, strict=True)
        ]
        customer_NxF, context_NxF = (jnp.repeat(x, C, axis=0) for x in (customer_BxF, context_BxF))
        key_Nx2 = None if key_BxCx2 is None else key_BxCx2.reshape(-1, 2)
        user = self._mixed(pooled, customer_NxF, context_NxF, temperature, key_Nx2)
        return UserEncoding(*(x.reshape(examples, C, x.shape[-1]) for x in user))

    def _mixed(
        self, pooled: list[jax.Array], customer_BxF: jax.Array, context_BxF: jax.Array,
        temperature: jax.Array | float, key_Bx2: jax.Array | None,
    ) -> UserEncoding:  # fmt: skip
        """The experts' vectors, gated."""
        if len(pooled) == 1:
            ones = jnp.ones((len(customer_BxF), 1), at_least_float32(self.dtype))
            return UserEncoding(jnp.concatenate([pooled[0], customer_BxF, context_BxF], -1), ones, ones)
        gate_BxE, clean_BxE = self.gating(customer_BxF, pooled, temperature, key_Bx2)
        weights = gate_BxE.astype(self.dtype)
        mixture_BxD = sum(broadcast(weights[:, e, None], h.shape) * h for e, h in enumerate(pooled))
        return UserEncoding(
            jnp.concatenate([mixture_BxD, customer_BxF, context_BxF], -1), gate_BxE, clean_BxE
        )

    def score(
        self,
        user: UserEncoding,
        candidate_BxC: jax.Array,
        table: TitleTable,
        tasks: tuple[str, ...] | None = None,
        catalogue: TitleProjections | None = None,
    ) -> dict[str, jax.Array]:
        """Scores [B, C] of candidates (title ids) for each of `tasks`, all the model has if None."""
        chex.assert_rank(candidate_BxC, 2, custom_message="candidate_BxC")
        chex.assert_type(candidate_BxC, int, custom_message="candidate_BxC")
        titles = self._titles(candidate_BxC, table, catalogue)
        if self.config.head == "dot":
            s_BxC = dot_score(
                user.vector_BxF[..., : self.config.width], titles, "history", self.rows.of_title
            )
            return {self.tasks[0]: s_BxC.astype(at_least_float32(self.dtype))}
        x = self.product(user.vector_BxF, titles) if self.config.matcher_product else None
        scores = {}
        for task in self.tasks if tasks is None else tasks:
            s_BxC = self.matchers[task](user.vector_BxF, titles, x)
            scores[task] = nn.sigmoid(s_BxC) if task == "completion" else s_BxC
        return scores

    def score_catalogue(self, user: UserEncoding, table: TitleTable, task: str) -> jax.Array:
        """Scores [B, V] of every title for one task: what `score` gives of all, with fewer operations."""
        u_BxU, t_VxF = user.vector_BxF, self.title.vectors(jnp.arange(self.titles), table)
        if u_BxU.ndim == 3:
            raise ValueError("with target_in_sequence a request is encoded for its candidates: use score")
        if self.config.head == "dot":
            s_BxV = u_BxU[:, : self.config.width] @ (t_VxF @ self.rows.of_title).T
            return s_BxV.astype(at_least_float32(self.dtype))
        s_BxV = self.matchers[task].every(u_BxU, t_VxF, self.product if self.config.matcher_product else None)
        return nn.sigmoid(s_BxV) if task == "completion" else s_BxV

    def retrieve(
        self, user: UserEncoding, table: TitleTable, catalogue: TitleProjections | None = None
    ) -> jax.Array:
        """Scores [B, V] of every title by the retrieval head."""
        if catalogue is None:
            t_VxR = self.title.vectors(jnp.arange(self.titles), table) @ self.retrieving.of_title
        else:
            t_VxR = catalogue.projected["retrieval"]
        return self.retrieving.every(user.vector_BxF, t_VxR)

    def _retrieved(
        self, user: UserEncoding, positive_BxK: jax.Array, table: TitleTable, key_Bx2: jax.Array,
        catalogue: TitleProjections | None,
    ) -> RetrievalScores:  # fmt: skip
        """Of the positives and of titles drawn uniformly, with replacement, by each example's key.

        Its gradient goes on into the shared vectors: stopped before the user's, nothing came out better.
        """
        K, of_draw = positive_BxK.shape[1], layer_id((*self.path, "retrieval"))
        drawn_BxN = randint(self.titles - FIRST_TITLE, (self.sampled_titles,), key_Bx2, of_draw)
        negative_BxN = FIRST_TITLE + drawn_BxN
        titles = self._titles(jnp.concatenate([positive_BxK, negative_BxN], axis=1), table, catalogue)
        s_BxC = self.retrieving(user.vector_BxF, titles)
        there_BxN = (negative_BxN[:, :, None] != positive_BxK[:, None]).all(2)
        return RetrievalScores(s_BxC[:, :K], s_BxC[:, K:], there_BxN)

    def __call__(
        self,
        history: History,
        candidate_BxC: jax.Array,
        table: TitleTable,
        temperature: jax.Array | float,
        key_Bx2: jax.Array | None = None,
        positives: int | None = None,
        catalogue: TitleProjections | None = None,
    ) -> RankingOutput:
        """Encodes and scores. With `positives`, completion is worked out for the first so many
        candidates alone, [B, positives]: no loss reads the rest. With them and a key, as in training,
        the retrieval head is asked too."""
        user = self.encode(history, table, temperature, key_Bx2, catalogue, candidate_BxC)
        if positives is None or "completion" not in self.tasks:
            scores = self.score(user, candidate_BxC, table, None, catalogue)
        else:
            others = tuple(t for t in self.tasks if t != "completion")
            scores = self.score(user, candidate_BxC, table, others, catalogue)
            first = (
                UserEncoding(*(x[:, :positives] for x in user)) if self.config.target_in_sequence else user
            )
            scores |= self.score(first, candidate_BxC[:, :positives], table, ("completion",), catalogue)
        retrieved = None
        if self.config.retrieval_dim and self.is_initializing():
            self.retrieve(user, table)
        elif self.config.retrieval_dim and key_Bx2 is not None and positives is not None:
            retrieved = self._retrieved(user, candidate_BxC[:, :positives], table, key_Bx2, catalogue)
        return RankingOutput(scores, user.gate_BxE, user.clean_gate_BxE, retrieved)
