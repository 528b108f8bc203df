"""Ranking model (Figure 1): the user encoder and the heads.

The config selects BST, V-MoE, S-MoE or a baseline (SASRec, GRU4Rec, HSTU).

Axis letters: B examples, C candidates, D width, F features, V titles, U unique ids or the width of a user
vector, K positives, N sampled negatives.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.declarations import Blend
from jaxrec.config.heads import INTENT, HeadSpec, Page
from jaxrec.core.batch import History, TitleTable
from jaxrec.core.ids import FIRST_TITLE, RETRIEVAL_HEAD
from jaxrec.models.encoders.session import SessionExpert
from jaxrec.models.features.cross import CROSS_KERNEL, CrossNetwork
from jaxrec.models.heads import MlpHead, ProductFeatures, RetrievalHead, blended, dot_score
from jaxrec.models.layers.dense import Mlp, at_least_float32
from jaxrec.models.layers.rng import layer_id, randint
from jaxrec.models.layers.title_encoder import TitleLookup, TitleProjections
from jaxrec.models.outputs import RankingOutput, RetrievalScores, UserEncoding, titles_by_rank
from jaxrec.models.trunks import TITLE_KERNEL, Tower, Trunk, shared_masks
from jaxrec.models.user_encoder import UserEncoder

HEAD_KINDS = ("matcher", "dot")


class RankingModel(UserEncoder):
    """Model of scores by head.

    With one expert the model is BST and has no gate. The click head alone is the paper's STL.
    """

    heads: tuple[HeadSpec, ...]
    sampled_titles: int = 0  # titles sampled per example to train the retrieval head
    blends: tuple[Blend, ...] = ()  # sums of heads, which `score` and `score_catalogue` take as heads
    pages: tuple[Page, ...] = ()  # requests of the blends that serve some of them
    has_gaps: bool = False  # True: ids without a popularity rank have no title
    session_kinds: int = 0

    def setup(self):
        """Create the encoders, the experts, the gate and the heads."""
        names = tuple(head.name for head in self.heads)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"heads={names} must be at least one head, each once")
        if self.config.head not in HEAD_KINDS or (self.config.head == "dot" and len(names) > 1):
            raise ValueError(f"head={self.config.head!r} must be one of {HEAD_KINDS}; dot has one head")
        if self.config.retrieval_dim and self.config.target_in_sequence:
            raise ValueError(f"retrieval={self.config.retrieval_dim} must be 0 with target_in_sequence")
        super().setup()
        if self.config.retrieval_dim:
            self.retrieving = RetrievalHead(
                self.dtype, *self.widths, self.config.retrieval_dim, name="retrieval"
            )
        if self.config.head == "dot":
            return
        hidden = self.config.head_hidden
        if self.config.matcher_product:
            self.product = ProductFeatures(self.dtype, *self.widths, hidden[-1], name="product")
        product = hidden[-1] if self.config.matcher_product else 0
        self.states = {
            h.name: Mlp(self.dtype, hidden, h.outputs, name=f"state_{h.name}")
            for h in self.heads
            if h.on == "state" and h.name != INTENT
        }
        if self.config.trunk != "shared":
            self._create_trunk(product)
            return
        if self.config.cross:
            crossed = *self.widths, product, self.config.cross, hidden[-1], self.config.cross_rank
            self.crossing, product = CrossNetwork(self.dtype, *crossed, name="cross"), hidden[-1]
        sizes = *self.widths, product, hidden
        self.matchers = {
            h.name: MlpHead(self.dtype, h.name, *sizes, h.last_bias, name=f"matcher_{h.name}")
            for h in self.heads
            if h.on == "pair"
        }

    def _create_trunk(self, product: int) -> None:
        """Create the experts that the heads mix, and a tower for each head.

        Args:
            product: Width of the product features.
        """
        c, pairs = self.config, tuple(h for h in self.heads if h.on == "pair")
        self.trunk = Trunk(
            self.dtype, tuple(h.name for h in pairs), c.trunk, *self.widths, product, c.trunk_experts,
            c.trunk_width, c.trunk_levels, name="trunk",
        )  # fmt: skip
        self.towers = {
            h.name: Tower(self.dtype, c.trunk_width, c.head_hidden, h.last_bias, name=f"tower_{h.name}")
            for h in pairs
        }

    def shared_parameters(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a mask for each parameter, as a tree: True where more than one head reads it.

        Args:
            params: Parameters of a model of several heads. A mask is False or True for a whole parameter, or
                [columns] bool for the last axis.
        """
        return shared_masks(self.config, self.heads, params)

    def _matched(self, u: jax.Array, titles: TitleLookup) -> Callable[[str], jax.Array]:
        """Return a function from a head's name to its scores [B, C] before the final activation.

        Args:
            u: User vectors, [B, U] or [B, C, U].
            titles: Candidates [B, C].
        """
        x = self.product(u, titles) if self.config.matcher_product else None
        if self.config.trunk == "shared":
            x = self.crossing(u, titles, x) if self.config.cross else x
            return lambda name: self.matchers[name](u, titles, x)
        mixtures = self.trunk(u, titles, x)
        return lambda name: self.towers[name](mixtures[name])

    def _matched_every(self, name: str, u_BxU: jax.Array, t_VxF: jax.Array) -> jax.Array:
        """Return the scores of all titles by a head, [B, V], before the final activation."""
        product = self.product if self.config.matcher_product else None
        if self.config.cross:
            return self.crossing.every(self.matchers[name], product, u_BxU, t_VxF)
        if self.config.trunk == "shared":
            return self.matchers[name].every(u_BxU, t_VxF, product)
        return self.trunk.every(name, self.towers[name], u_BxU, t_VxF, product)

    def catalogue(self, table: TitleTable, id_U: jax.Array | None = None) -> TitleProjections:
        """Compute projections of titles, shared by calls of `encode` and `score`.

        The projections are those of the input of the experts and of the first layers of the heads.

        Args:
            table: Features of all titles.
            id_U: Unique ids from `sharded_embedding.unique_ids`, to project only these titles; None: all.
        """
        if id_U is None:
            t_VxF = self.title.vectors(jnp.arange(self.titles), table)
        else:
            t_VxF = self.title.lookup_unique(id_U, table)
        kernels = {"history": self.rows.of_title, self.scored_name: self.scored_kernel}
        if self.config.head == "matcher":
            if self.config.trunk == "shared":
                kernels |= {t: m.of_title for t, m in self.matchers.items()}
            else:
                kernels[TITLE_KERNEL] = self.trunk.of_title
            if self.config.matcher_product:
                kernels["product"] = self.product.of_title
            if self.config.cross:
                kernels[CROSS_KERNEL] = self.crossing.of_title
        if self.config.retrieval_dim:
            kernels["retrieval"] = self.retrieving.of_title
        kernels |= {e.kernel_name: e.of_title for e in self.expert if isinstance(e, SessionExpert)}
        kernels |= self.sources.kernels if self.sources is not None else {}
        return TitleProjections({name: t_VxF @ kernel for name, kernel in kernels.items()}, id_U)

    def score(
        self,
        user: UserEncoding,
        candidate_BxC: jax.Array,
        table: TitleTable,
        heads: tuple[str, ...] | None = None,
        catalogue: TitleProjections | None = None,
    ) -> dict[str, jax.Array]:
        """Score candidates by head, [B, C] each; [B, outputs] by a head of the state.

        Args:
            user: Encoded examples.
            candidate_BxC: Title ids.
            table: Features of all titles.
            heads: Heads and blends to score; None: all heads of the model.
            catalogue: Projections from the method `catalogue`; None: computed in this call.
        """
        chex.assert_rank(candidate_BxC, 2, custom_message="candidate_BxC")
        chex.assert_type(candidate_BxC, int, custom_message="candidate_BxC")
        titles = self._titles(candidate_BxC, table, catalogue)
        if self.config.head == "dot":
            u = self.dot_vectors(user.vector_BxF)
            s_BxC = dot_score(u, titles, self.scored_name, self.scored_kernel)
            return {self.heads[0].name: s_BxC.astype(at_least_float32(self.dtype))}
        matched, scores = self._matched(user.vector_BxF, titles), dict[str, Any]([(INTENT, user.intent_BxG)])
        wanted = tuple(head.name for head in self.heads) if heads is None else heads
        for name in dict.fromkeys(part for order in wanted for part in self._parts(order) if part != INTENT):
            if name in self.states:
                scores[name] = self.states[name](user.vector_BxF).astype(at_least_float32(self.dtype))
            else:
                scores[name] = self._activated(name, matched(name))
        return {name: self._blended(name, scores.__getitem__, user.served_BxP) for name in wanted}

    def _served(self, history: History) -> jax.Array | None:
        if not self.pages:
            return None
        categories = {"user": history.user_categories, "context": history.context_categories}
        return jnp.stack([categories[page.where][:, page.column] == page.id for page in self.pages], axis=1)

    def _has_intent(self) -> bool:
        return any(head.name == INTENT for head in self.heads)

    def _blend(self, name: str) -> Blend | None:
        return next((blend for blend in self.blends if blend.name == name), None)

    def _parts(self, name: str) -> tuple[str, ...]:
        """Return the heads of a blend; a head is its own."""
        blend = self._blend(name)
        otherwise = tuple(page.otherwise for page in self.pages if page.blend == name)
        return (name,) if blend is None else (*(term.head for term in blend.terms), *otherwise)

    def _blended(
        self, name: str, score: Callable[[str], jax.Array], served_BxP: jax.Array | None = None
    ) -> jax.Array:
        """Return the scores of a head or of a blend.

        Args:
            name: Name of the head or the blend.
            score: Function from the name of a head to its scores.
            served_BxP: `UserEncoding.served_BxP`.
        """
        blend = self._blend(name)
        if blend is None:
            return score(name)
        logits = tuple(head.name for head in self.heads if head.loss == "bce" or head.name == "ctr")
        return blended(blend, self.pages, logits, score, served_BxP)

    def _activated(self, name: str, score: jax.Array) -> jax.Array:
        """Return the scores of a head after its final activation."""
        sigmoid = next(head.sigmoid for head in self.heads if head.name == name)
        return nn.sigmoid(score) if sigmoid else score

    def score_catalogue(
        self, user: UserEncoding, table: TitleTable, head: str, id_N: jax.Array | None = None
    ) -> jax.Array:
        """Score all titles by one head or blend, [B, V], or the titles `id_N`, [B, N].

        The result equals that of `score` with these titles as candidates, in fewer operations. The other
        arguments are those of `score`.

        Raises:
            ValueError: The examples are encoded for candidates, with the target in the sequence.
        """
        u_BxU = user.vector_BxF
        t_VxF = self.title.vectors(jnp.arange(self.titles) if id_N is None else id_N, table)
        if u_BxU.ndim == 3:
            raise ValueError("target_in_sequence must be false to score all titles: use `score`")
        if self.config.head == "dot":
            return (self.dot_vectors(u_BxU) @ (t_VxF @ self.scored_kernel).T).astype(
                at_least_float32(self.dtype)
            )
        return self._blended(
            head, lambda name: self._activated(name, self._matched_every(name, u_BxU, t_VxF)), user.served_BxP
        )

    def title_vectors(self, table: TitleTable) -> jax.Array:
        """Return the vectors [V, F] of all titles of the table (Eq. 3)."""
        return self.title.vectors(jnp.arange(table.categories.shape[0]), table)

    def dot_users(self, user: UserEncoding, head: str) -> jax.Array:
        """Return the vectors [B, D] whose products with `dot_titles` are the scores of a head.

        Args:
            user: Encoded examples.
            head: RETRIEVAL_HEAD, or any other head of a model with `head="dot"`.
        """
        if head == RETRIEVAL_HEAD:
            return user.vector_BxF @ self.retrieving.of_user
        return self.dot_vectors(user.vector_BxF)

    def dot_titles(self, table: TitleTable, head: str) -> jax.Array:
        """Return the vectors [V, D] of all titles of the table; `head` is that of `dot_users`."""
        kernel = self.retrieving.of_title if head == RETRIEVAL_HEAD else self.scored_kernel
        return self.title_vectors(table) @ kernel

    def retrieve(
        self, user: UserEncoding, table: TitleTable, catalogue: TitleProjections | None = None,
        id_N: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """Score all titles by the retrieval head, [B, V], or the titles `id_N`, [B, N].

        The other arguments are those of `score`.
        """
        if catalogue is None:
            ids = jnp.arange(self.titles) if id_N is None else id_N
            t_VxR = self.title.vectors(ids, table) @ self.retrieving.of_title
        else:
            t_VxR = catalogue.projected["retrieval"]
        return self.retrieving.every(user.vector_BxF, t_VxR)

    def _score_samples(
        self, user: UserEncoding, positive_BxK: jax.Array, table: TitleTable, key_Bx2: jax.Array,
        catalogue: TitleProjections | None,
    ) -> RetrievalScores:  # fmt: skip
        """Score the positives and uniformly sampled titles by the retrieval head.

        The titles are sampled with replacement by the key of each example. The gradient flows into the shared
        vectors; a stop of the gradient before the user vector improved no result.
        """
        K, layer = positive_BxK.shape[1], layer_id((*self.path, "retrieval"))
        ranked = titles_by_rank(table.rank) if self.has_gaps else None
        count = self.titles - FIRST_TITLE if ranked is None else ranked.number
        sampled_BxN = randint(count, (self.sampled_titles,), key_Bx2, layer)
        negative_BxN = FIRST_TITLE + sampled_BxN if ranked is None else ranked.id_V[sampled_BxN]
        titles = self._titles(jnp.concatenate([positive_BxK, negative_BxN], axis=1), table, catalogue)
        s_BxC = self.retrieving(user.vector_BxF, titles)
        valid_BxN = (negative_BxN[:, :, None] != positive_BxK[:, None]).all(2)
        return RetrievalScores(s_BxC[:, :K], s_BxC[:, K:], valid_BxN)

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
        """Encode users and score candidates.

        Args:
            history: Histories of B examples.
            candidate_BxC: Title ids, the positives first.
            table: Features of all titles.
            temperature: Temperature of the gate.
            key_Bx2: uint32 keys of the examples; None for no noise and no dropout.
            positives: Number of positives per example in training. Heads whose terms do not read drawn titles
                are then computed for the positives only, [B, positives]. With a key, the retrieval head
                scores the positives and sampled titles.
            catalogue: Projections from the method `catalogue`; None: computed in this call.
        """
        user = self.encode(history, table, temperature, key_Bx2, catalogue, candidate_BxC)
        values = tuple(h.name for h in self.heads if h.on == "pair" and not h.drawn)
        if positives is None or not values:
            scores = self.score(user, candidate_BxC, table, None, catalogue)
        else:
            remaining = tuple(h.name for h in self.heads if h.name not in values)
            scores = self.score(user, candidate_BxC, table, remaining, catalogue)
            positive_users = user
            if self.config.target_in_sequence:
                positive_users = UserEncoding(*(x[:, :positives] for x in user[:3]))
            scores |= self.score(positive_users, candidate_BxC[:, :positives], table, values, catalogue)
        retrieved = None
        if self.config.retrieval_dim and self.is_initializing():
            self.retrieve(user, table)
        elif self.config.retrieval_dim and key_Bx2 is not None and positives is not None:
            retrieved = self._score_samples(user, candidate_BxC[:, :positives], table, key_Bx2, catalogue)
        return RankingOutput(scores, user.gate_BxE, user.clean_gate_BxE, retrieved)
