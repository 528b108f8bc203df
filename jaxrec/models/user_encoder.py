"""User encoder of ranking models: embeddings, experts and gate (Figure 1 without the heads).

Axis letters: B examples, C candidates, R rows of L titles, E experts, D width, F features, N B * C sequences.
"""

import chex
import jax
import jax.numpy as jnp

from jaxrec.config.schema import Model
from jaxrec.core.batch import History, SessionTail, TitleTable
from jaxrec.core.row_format import FeatureSpec, history_signals
from jaxrec.models.encoders.base import PackedTitles, take_positions
from jaxrec.models.encoders.session import SessionInputs, history_windows
from jaxrec.models.features.entity import title_width
from jaxrec.models.features.source_title import PageTitles
from jaxrec.models.features.text import text_embedding
from jaxrec.models.heads import OutputMaps
from jaxrec.models.layers.dense import (
    Parameters,
    at_least_float32,
    broadcast,
    rematerialize,
)
from jaxrec.models.layers.embedding import FeatureEncoder, select_features
from jaxrec.models.layers.history_encoder import HistoryEncoder
from jaxrec.models.layers.rng import dropout, dropout_mask, fold_in, layer_id
from jaxrec.models.layers.title_encoder import ProjectedLookup, TitleEncoder, TitleLookup, TitleProjections
from jaxrec.models.mixture import Gate
from jaxrec.models.outputs import EncodedHistories, UserEncoding
from jaxrec.models.sessions.intent import Intent
from jaxrec.models.sessions.mixture import (
    category_feature,
    counted_columns,
    counts_categories,
    create_expert,
    encode_histories,
    encode_sessions,
    session_inputs,
)  # fmt: skip


class UserEncoder(Parameters):
    """Encoder of users from their histories, their features and the context.

    With one expert there is no gate. `dtype` is the compute dtype: "float32", "bfloat16" (parameters are
    float32), or "float64" under jax_enable_x64. Calls without keys are deterministic.
    """

    features: tuple[FeatureSpec, ...]  # of the dataset's layout
    titles: int  # V
    config: Model
    split: str  # mesh axis over which title embeddings are sharded; empty: replicated
    session_kinds = 0  # kinds of events of sessions, without that of padding; a field of the ranking model

    def setup(self):
        places = ("title", "user", "context", "label")
        where = {w: tuple(f for f in self.features if f.where == w) for w in places}
        inputs = self.config.features, self.config.embedding_init_std
        entity = self.config.entity
        self.text = text_embedding(self.dtype, (*where["title"], *where["context"]), *inputs)
        sizes = self.titles, *inputs, self.split, entity, self.text
        self.title = TitleEncoder(self.dtype, where["title"], *sizes, name="title")
        self.user = FeatureEncoder(self.dtype, where["user"], *inputs, name="user")
        self.context = FeatureEncoder(self.dtype, where["context"], *inputs, self.text, name="context")
        self.sources = None
        if any(f.kind == "title" for f in select_features(where["context"], self.config.features)):
            named = self.config.features, title_width(where["title"], self.config.features, entity)
            self.sources = PageTitles(self.dtype, where["context"], *named, name="sources")
        if where["label"]:
            self.observed = FeatureEncoder(self.dtype, where["label"], *inputs, name="observed")
        interactions = select_features(
            [f for f in self.features if f.where == "interaction"], self.config.features
        )
        self.longest = max(history_windows(self.config))
        user, context, observed = (
            sum(f.width for f in select_features(where[w], self.config.features)) for w in places[1:]
        )
        title = title_width(where["title"], self.config.features, entity)
        self.rows = HistoryEncoder(
            self.dtype, interactions, title, context, self.config.width, self.longest, self.config.position,
            self.config.target_in_sequence, history_signals(self.features), name="history",
        )  # fmt: skip
        of_sessions = self.session_kinds, title
        self.expert = [
            create_expert(self.config, self.dtype, self.features, e, of_sessions)
            for e in range(len(self.config.experts))
        ]
        if len(self.config.experts) > 1:
            self.gating = Gate(self.dtype, self.config.gate, name="gate")
        if self.config.output_maps:
            self.maps = OutputMaps(self.dtype, self.config.width, name="output_maps")
        # of the vectors of a user and of a title
        self.widths = self.config.width + user + observed + context, title
        if self._has_intent():
            feature = category_feature(self.features, self.config.intent_of)
            self.intent = Intent(self.dtype, self.config.head_hidden, feature.size, name="intent")
            self.widths = self.widths[0] + feature.width, title

    def _has_intent(self) -> bool:
        """Return True if the user's vector has the expected embedding of the next title's category."""
        return False

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
        """Encode the users of B examples.

        Args:
            history: Histories, with the slots of the longest window and the indices of shorter windows.
            table: Features of all titles.
            temperature: Temperature of the gate.
            key_Bx2: uint32 keys of the examples; None for no noise and no dropout.
            catalogue: Projections from `RankingModel.catalogue`; None: computed in this call.
            candidate_BxC: Title ids; read only with the target in the sequence, which requires them: see
                `join`.

        Raises:
            ValueError: The config has `target_in_sequence`, and `candidate_BxC` is None.
        """
        chex.assert_rank(history.title, 2, custom_message="history.title [R, L]")
        if key_Bx2 is not None:
            chex.assert_shape(key_Bx2, (None, 2), custom_message="key_Bx2")
        if history.session is not None:
            histories = self.encode_history(history, table, key_Bx2, catalogue)
            arguments = histories, history.session, table, temperature, key_Bx2, catalogue
            return self.encode_session(*arguments)._replace(served_BxP=self._served(history))
        if not self.config.target_in_sequence:
            titles_by_window, user_BxF, context_BxF = self._encode_inputs(history, table, key_Bx2, catalogue)
            pooled = [
                rematerialize(
                    self.config.remat,
                    lambda expert, titles: expert(titles, len(user_BxF)),
                    expert,
                    titles,
                )
                for expert, titles in (
                    (expert, titles_by_window[expert.fields.max_len]) for expert in self.expert
                )
            ]
            encoding = self._mix(pooled, user_BxF, context_BxF, temperature, key_Bx2)
            return encoding._replace(served_BxP=self._served(history))
        if candidate_BxC is None:
            raise ValueError("candidate_BxC=None must be the ids of candidates with target_in_sequence")
        histories = self.encode_history(history, table, key_Bx2, catalogue)
        return self.join(histories, candidate_BxC, table, temperature, key_Bx2, catalogue)

    def _served(self, history: History) -> jax.Array | None:
        """Return the pages of each example, [B, pages] bool; None without pages."""
        return None

    def _encode_inputs(
        self,
        history: History,
        table: TitleTable,
        key_Bx2: jax.Array | None,
        catalogue: TitleProjections | None,
    ) -> tuple[dict[int, PackedTitles], jax.Array, jax.Array]:
        """Encode the titles for the experts, by window, and the user and context features."""
        if not self.config.reads_history:  # as of users without a play: all positions are padding
            padding = jnp.full_like(history.example, len(history.user_categories))
            history = history._replace(example=padding)
        user_BxF = self.user(history.user_categories, history.user_numbers)
        if history.observed is not None:  # early outcomes of the target, in offline runs
            numbers = history.observed.numbers
            observed_BxF = self.observed(jnp.zeros((len(numbers), 0), jnp.int32), numbers)
            user_BxF = jnp.concatenate([user_BxF, observed_BxF], -1)
        context_BxF = self.context(history.context_categories, history.context_numbers)
        if self.sources is not None:
            named_BxF = self.sources(
                history.context_categories, lambda ids: self._titles(ids, table, catalogue)
            )
            context_BxF = jnp.concatenate([context_BxF, named_BxF], -1)
        x_RxLxD = self.rows(history, self._titles(history.title, table, catalogue), context_BxF)
        key_RxLx2 = None
        if key_Bx2 is not None:
            key_RxLx2 = fold_in(jnp.take(key_Bx2, history.example, axis=0, mode="clip"), history.newer)
            if self.config.dropout:
                keep, _ = dropout_mask(key_RxLx2, layer_id(self.path), self.config.width, self.config.dropout)
                x_RxLxD = dropout(x_RxLxD, keep, self.config.dropout)
        longest = PackedTitles(x_RxLxD, history.example, history.age, key_RxLx2)
        titles_by_window = {x_RxLxD.shape[1]: longest} | {
            w: take_positions(longest, index) for w, index in history.shorter.items()
        }
        return titles_by_window, user_BxF, context_BxF

    def encode_history(
        self, history: History, table: TitleTable, key_Bx2: jax.Array | None = None,
        catalogue: TitleProjections | None = None,
    ) -> EncodedHistories:  # fmt: skip
        """Encode histories for `join` or `encode_session`: what depends on no candidate and on no session.

        Args:
            history: Histories; for `join` one example per row.
            table: Features of all titles.
            key_Bx2: uint32 keys of the examples; None for no dropout.
            catalogue: Projections from `RankingModel.catalogue`; None: computed in this call.
        """
        titles_by_window, user_BxF, context_BxF = self._encode_inputs(history, table, key_Bx2, catalogue)
        if history.session is not None:
            pooled, memories = encode_histories(
                self.expert, titles_by_window, self.longest, len(user_BxF), self.config.remat
            )
            return EncodedHistories(pooled, user_BxF, context_BxF, memories)
        experts = tuple(
            rematerialize(
                self.config.remat,
                type(expert).encode_history,
                expert,
                titles_by_window[expert.fields.max_len],
            )
            for expert in self.expert
        )
        return EncodedHistories(experts, user_BxF, context_BxF)

    def encode_session(
        self, histories: EncodedHistories, tail: SessionTail, table: TitleTable,
        temperature: jax.Array | float, key_Bx2: jax.Array | None = None,
        catalogue: TitleProjections | None = None,
    ) -> UserEncoding:  # fmt: skip
        """Encode users from their encoded histories and the sessions of their requests.

        The history of a session is encoded once. With the context of that request, the result is that of
        `encode`.

        Args:
            histories: From `encode_history`.
            tail: Sessions of the B requests.
            table: Features of all titles.
            temperature: Temperature of the gate.
            key_Bx2: uint32 keys of the examples; None for no noise and no dropout.
            catalogue: Projections from `RankingModel.catalogue`; None: computed in this call.
        """
        chex.assert_rank(tail.title, 2, custom_message="tail.title [B, S]")
        counts = counts_categories(self.config)
        counted = counted_columns(self.features, self.config.intent_of) if counts else None

        def inputs_of(events: SessionTail) -> SessionInputs:
            titles = self._titles(events.title, table, catalogue)
            return session_inputs(events, titles, counted, table, key_Bx2)

        pooled = encode_sessions(
            self.expert, histories.experts, histories.memories, tail, inputs_of, self.config.remat
        )
        user_BxF, context_BxF = histories.customer_BxF, histories.context_BxF
        return self._mix(pooled, user_BxF, context_BxF, temperature, key_Bx2)

    def join(
        self,
        histories: EncodedHistories,
        candidate_BxC: jax.Array,
        table: TitleTable,
        temperature: jax.Array | float,
        key_Bx2: jax.Array | None = None,
        catalogue: TitleProjections | None = None,
    ) -> UserEncoding:
        """Encode users with each candidate as the newest title of the history.

        Causal experts process L + C positions per example, other experts C (L + 1). With keys, causal experts
        have one dropout mask of the history for all candidates, other experts one for each candidate. The
        distribution of the mask of a single candidate is the same.

        Args:
            histories: From `encode_history`.
            candidate_BxC: Title ids.
            table: Features of all titles.
            temperature: Temperature of the gate.
            key_Bx2: uint32 keys of the examples; None for no noise and no dropout.
            catalogue: Projections from `RankingModel.catalogue`; None: computed in this call.

        Returns:
            Encodings with the shapes [B, C, ...].
        """
        chex.assert_rank(candidate_BxC, 2, custom_message="candidate_BxC")
        (examples, C), key_BxCx2 = candidate_BxC.shape, None
        user_BxF, context_BxF = histories.customer_BxF, histories.context_BxF
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
            rematerialize(self.config.remat, type(expert).join, expert, expert_histories, x_BxCxD, key_BxCx2)
            for expert, expert_histories in zip(self.expert, histories.experts, strict=True)
        ]
        user_NxF, context_NxF = (jnp.repeat(x, C, axis=0) for x in (user_BxF, context_BxF))
        key_Nx2 = None if key_BxCx2 is None else key_BxCx2.reshape(-1, 2)
        encoding = self._mix(pooled, user_NxF, context_NxF, temperature, key_Nx2)
        vectors = encoding[:3]  # `served_BxP` is None here
        return UserEncoding(*(x.reshape(examples, C, x.shape[-1]) for x in vectors))

    def _mix(
        self, pooled: list[jax.Array], user_BxF: jax.Array, context_BxF: jax.Array,
        temperature: jax.Array | float, key_Bx2: jax.Array | None,
    ) -> UserEncoding:  # fmt: skip
        """Mix the vectors of the experts by the gate and append user and context features."""
        if len(pooled) == 1:
            ones = jnp.ones((len(user_BxF), 1), at_least_float32(self.dtype))
            vector_BxF = jnp.concatenate([pooled[0], user_BxF, context_BxF], -1)
            return self._with_intent(UserEncoding(vector_BxF, ones, ones))
        gate_BxE, clean_BxE = self.gating(user_BxF, pooled, temperature, key_Bx2)
        weights = gate_BxE.astype(self.dtype)
        mixture_BxD = sum(broadcast(weights[:, e, None], h.shape) * h for e, h in enumerate(pooled))
        vector_BxF = jnp.concatenate([mixture_BxD, user_BxF, context_BxF], -1)
        return self._with_intent(UserEncoding(vector_BxF, gate_BxE, clean_BxE))

    def _with_intent(self, user: UserEncoding) -> UserEncoding:
        """Append the expected embedding of the next title's category; unchanged without an intent."""
        if not self._has_intent():
            return user
        embeddings_GxF = self.title.category_vectors(self.config.intent_of)
        intent_BxF, logits_BxG = self.intent(user.vector_BxF, embeddings_GxF)
        vector_BxF = jnp.concatenate([user.vector_BxF, intent_BxF], -1)
        return user._replace(vector_BxF=vector_BxF, intent_BxG=logits_BxG)

    @property
    def scored_name(self) -> str:
        """Name of `scored_kernel` among the projections of titles."""
        return "scored" if self.config.output_maps else "history"

    @property
    def scored_kernel(self) -> jax.Array:
        """Projection [F, D] of titles in the score of a dot head."""
        kernel = self.rows.of_title
        return kernel @ self.maps.of_title if self.config.output_maps else kernel

    def dot_vectors(self, u: jax.Array) -> jax.Array:
        """Return the vectors [..., D] of users in the score of a dot head."""
        u = u[..., : self.config.width]
        return u @ self.maps.of_user if self.config.output_maps else u
