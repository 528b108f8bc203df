"""Next-item model: a causal encoder of sequences with an output per position.

The models of SASRec (Kang & McAuley 2018), HSTU (Zhai et al. 2024) and GRU4Rec (Hidasi et al. 2016) as
published: one embedding table for inputs and scored titles, no user features, no context. The score of a
title at a position is the dot product of the title's vector and the output. The output of position i depends
on the titles up to i and, with HSTU, on the time of the next title.

Axis letters: B users, L positions, V titles, D width.
"""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.registry import ALL_SEQUENCE_ENCODERS, CACHED_ENCODERS
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.features.text import text_embedding
from jaxrec.models.features.tokens import TokenEncoder
from jaxrec.models.heads import OutputMaps
from jaxrec.models.layers.dense import (
    Dense,
    Parameters,
    at_least_float32,
    broadcast,
    embedding_init,
    embedding_lookup,
    kernel_init,
    rematerialize,
    small_init,
)
from jaxrec.models.layers.rng import dropout, dropout_mask, fold_in, layer_id
from jaxrec.models.layers.title_encoder import TitleEncoder
from jaxrec.models.sequences.layer_stack import ItemWindow as ItemWindow
from jaxrec.models.sequences.layer_stack import LayerStack as LayerStack
from jaxrec.models.sequences.layer_stack import time_since_previous as time_since_previous
from jaxrec.models.sequences.position_cache import PositionCache

_MIN_NORM = 1e-6  # lower bound of the norm that a vector is divided by, as in Meta's code


def _normalize(x: jax.Array) -> jax.Array:
    """Scale vectors [..., D] to length 1."""
    wide = x.astype(at_least_float32(x.dtype))
    squared = jnp.square(wide).sum(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squared, _MIN_NORM**2))).astype(x.dtype)


# Vectors [V, D] of all titles: as inputs and, if the model has a second table, as scored.
Catalogue = tuple[jax.Array, ...]


class ItemTable(Parameters):
    """Vectors [V, D] of all titles.

    If the features of a title together are as wide as the model, they are the title's vector. This is the
    published form if the id is the only feature. Otherwise the features are projected to the width.

    Attributes:
        features: Title features.
        titles: Number of titles V.
        width: Width D of the model.
        reads: Names of the selected features; empty: all.
        spread: Standard deviation of the initial embeddings.
        entity: Kind of a title vector: `model.entity`.
    """

    features: tuple[FeatureSpec, ...]
    titles: int
    width: int
    reads: tuple[str, ...]
    spread: float
    entity: str = "concat"

    @nn.compact
    def __call__(self, table: TitleTable) -> jax.Array:
        vectors = TitleEncoder(
            self.dtype,
            self.features,
            self.titles,
            self.reads,
            self.spread,
            entity=self.entity,
            text=text_embedding(self.dtype, self.features, self.reads, self.spread),
            name="vectors",
        )
        t_VxF = vectors.vectors(jnp.arange(max(self.titles, table.categories.shape[0])), table)
        if t_VxF.shape[1] == self.width:
            return t_VxF
        return t_VxF @ self.weight("kernel", kernel_init, t_VxF.shape[1], self.width)


class NextItemModel(Parameters):
    """Encoder over windows of plays.

    The inputs are the vectors of titles, times sqrt(D) with `scaled_inputs`. The scored vectors are the
    same, unless `untied_item_embeddings` is set. Learned positions count from the newest position. `dtype`
    is that of `RankingModel`.

    Attributes:
        features: Features of the dataset's layout; only title features are read.
        titles: Number of titles V.
        config: Config of the model. The only expert is the encoder; its `max_len` is the maximum length of
            inputs.
        encoder: "module:object" of its `PositionEncoder`; empty: the causal one that the expert names.
        token_kinds: Number of kinds of tokens; 0: the windows are of plays.
        state_heads: Name and number of outputs of each head on states.
    """

    features: tuple[FeatureSpec, ...]
    titles: int
    config: Model
    encoder: str = ""
    token_kinds: int = 0
    state_heads: tuple[tuple[str, int], ...] = ()

    def setup(self):
        """Create the item tables and the encoder.

        Raises:
            ValueError: No position encoder has the configured name.
        """
        if not self.encoder and self.config.experts[0].encoder not in ALL_SEQUENCE_ENCODERS:
            raise ValueError(
                f"kind={self.config.experts[0].encoder!r} must be one of {(*ALL_SEQUENCE_ENCODERS,)}"
            )
        of_titles = tuple(f for f in self.features if f.where == "title")
        fields = (
            of_titles,
            self.titles,
            self.config.width,
            self.config.features,
            self.config.embedding_init_std,
            self.config.entity,
        )
        names = ("title", "scored") if self.config.untied_item_embeddings else ("title",)
        self.tables = [ItemTable(self.dtype, *fields, name=name) for name in names]
        self.layers = LayerStack(
            self.dtype,
            self.config.experts[0],
            self.config.attention_impl,
            self.encoder,
            self.config.attention_span,
            name="layers",
        )
        if self.config.position == "index":
            self.positions = self.weight(
                "position", embedding_init, self.config.experts[0].max_len, self.config.width
            )
        if self.token_kinds:
            of_context = tuple(f for f in self.features if f.where == "context")
            fields_of_tokens = self.token_kinds, of_context, self.config.features, self.config.width
            self.tokens = TokenEncoder(self.dtype, *fields_of_tokens, name="tokens")
        if self.config.output_maps:
            self.maps = OutputMaps(self.dtype, self.config.width, name="output_maps")
        if self.config.project:
            self.of_user, self.of_title = (
                Dense(self.dtype, self.config.project, bias=False, name=f"{name}_projection")
                for name in ("user", "title")
            )
        self.state_layers = [
            Dense(self.dtype, outputs, kernel_init=small_init, name=f"head_{name}")
            for name, outputs in self.state_heads
        ]

    def catalogue(self, table: TitleTable) -> Catalogue:
        """Compute the vectors [V, D] of all titles, once per step for all microbatches.

        Returns:
            One array of inputs and, if the model has a second table, one of scored vectors.
        """
        return tuple(vectors(table) for vectors in self.tables)

    def candidates(self, catalogue: Catalogue) -> jax.Array:
        """Return the scored vectors [V, D] of all titles, of length 1 if `cosine` is set.

        They are as wide as `project` if it is set, and so are the outputs.
        """
        if self.config.output_maps:
            return catalogue[-1] @ self.maps.of_title
        vectors = self.of_title(catalogue[-1]) if self.config.project else catalogue[-1]
        return _normalize(vectors) if self.config.cosine else vectors

    def of_table(self, window: ItemWindow, table: TitleTable) -> jax.Array:
        """Compute the outputs [B, L, D] from a title table, to initialise the parameters."""
        catalogue = self.catalogue(table)
        h_BxLxD = self(window, catalogue)
        self.state_scores(h_BxLxD)
        self.candidates(catalogue)
        return h_BxLxD

    def state_scores(self, h_BxLxD: jax.Array) -> dict[str, jax.Array]:
        """Return the scores [B, L, outputs] of each head on states, in at least float32."""
        wide, layers = at_least_float32(self.dtype), zip(self.state_heads, self.state_layers, strict=True)
        return {name: layer(h_BxLxD).astype(wide) for (name, _), layer in layers}

    def __call__(
        self, window: ItemWindow, catalogue: Catalogue, key_Bx2: jax.Array | None = None
    ) -> jax.Array:  # fmt: skip
        """Compute the outputs [B, L, D] at every position; those at padding are arbitrary.

        Args:
            window: Windows of at most `max_len` positions.
            catalogue: Vectors of all titles, from the method `catalogue`.
            key_Bx2: uint32 keys of the rows; None for no dropout.
        """
        position_L = jnp.arange(window.title_BxL.shape[1] - 1, -1, -1)
        x_BxLxD, key_BxLx2 = self._inputs(window, catalogue, position_L), None
        if key_Bx2 is not None:
            key_BxLx2 = fold_in(key_Bx2[:, None], position_L)
            if self.config.dropout:
                keep, _ = dropout_mask(key_BxLx2, layer_id(self.path), self.config.width, self.config.dropout)
                x_BxLxD = dropout(x_BxLxD, keep, self.config.dropout)
        h_BxLxD = rematerialize(
            self.config.remat, LayerStack.__call__, self.layers, window, x_BxLxD, key_BxLx2
        )
        return self._outputs(h_BxLxD)

    def encode_history(
        self, window: ItemWindow, catalogue: Catalogue, capacity: int
    ) -> tuple[jax.Array, PositionCache]:
        """Return the outputs [B, L, D] of windows, and the cache that `extend` reads.

        With block-local attention chunks are those of the columns, as in `sequences.position_cache`.

        Args:
            window: Windows of L positions.
            catalogue: Vectors of all titles, from the method `catalogue`.
            capacity: Largest number of positions of the cache, from L to `max_len`; a multiple of
                `attention_span`.

        Raises:
            ValueError: The model cannot be cached, or the capacity does not fit.
        """
        expert, span, L = self.config.experts[0], self.config.attention_span, window.title_BxL.shape[1]
        if self.encoder or expert.encoder not in CACHED_ENCODERS:
            raise ValueError(f"encoder={expert.encoder!r} must be one of {(*CACHED_ENCODERS,)} for a cache")
        if self.config.position == "index":
            raise ValueError(
                "model.position='index' must be 'none' for a cache: an index counts from the newest position"
            )
        if not L <= capacity <= expert.max_len or (span and capacity % span):
            raise ValueError(
                f"capacity={capacity} must be from {L} to max_len={expert.max_len}, a multiple of span={span}"
            )
        x_BxLxD = self._inputs(window, catalogue, jnp.arange(L - 1, -1, -1))
        h_BxLxD, cache = self.layers.encoded(window, x_BxLxD, None, None, capacity)
        assert cache is not None
        return self._outputs(h_BxLxD), cache

    def extend(
        self, window: ItemWindow, catalogue: Catalogue, cache: PositionCache
    ) -> tuple[jax.Array, PositionCache]:
        """Return the output [B, 1, D] of one position more, and the cache with it.

        Args:
            window: Windows of one position. A row of padding stays padding.
            catalogue: Vectors of all titles, from the method `catalogue`.
            cache: From `encode_history` or `extend`, with fewer positions than its capacity.
        """
        chex.assert_axis_dimension(window.title_BxL, 1, 1, custom_message="window.title_BxL [B, 1]")
        x_Bx1xD = self._inputs(window, catalogue, jnp.zeros(1, jnp.int32))
        h_Bx1xD, extended = self.layers.encoded(window, x_Bx1xD, None, cache)
        assert extended is not None
        return self._outputs(h_Bx1xD), extended

    def _inputs(self, window: ItemWindow, catalogue: Catalogue, position_L: jax.Array) -> jax.Array:
        """Return the inputs [B, L, D] of the encoder, 0 at padding; `position_L` counts from the newest."""
        chex.assert_rank(window.title_BxL, 2, custom_message="window.title_BxL")
        chex.assert_type(window.title_BxL, int, custom_message="window.title_BxL")
        chex.assert_equal_shape(list(window[:3]), custom_message="window: title_BxL, time_BxL, until_BxL")
        chex.assert_shape(catalogue[0], (None, self.config.width), custom_message="catalogue [V, D]")
        # More than V vectors: of titles launched since the training.
        chex.assert_axis_dimension_gteq(catalogue[0], 0, self.titles, custom_message="catalogue [V, D]")
        x_BxLxD = embedding_lookup(catalogue[0], window.title_BxL, mode="clip")
        if self.config.scaled_inputs:
            x_BxLxD = x_BxLxD * jnp.asarray(self.config.width**0.5, x_BxLxD.dtype)
        if window.tokens is not None:
            x_BxLxD = x_BxLxD + self.tokens(window.tokens, window.time_BxL, window.until_BxL)
        if self.config.position == "index":
            x_BxLxD = x_BxLxD + broadcast(self.positions[position_L], x_BxLxD.shape)
        return jnp.where((window.title_BxL > 0)[..., None], x_BxLxD, jnp.zeros((), x_BxLxD.dtype))

    def _outputs(self, h_BxLxD: jax.Array) -> jax.Array:
        """Return the outputs of positions as they are scored."""
        if self.config.output_maps:
            return h_BxLxD @ self.maps.of_user
        h_BxLxD = self.of_user(h_BxLxD) if self.config.project else h_BxLxD
        return _normalize(h_BxLxD) if self.config.cosine else h_BxLxD
