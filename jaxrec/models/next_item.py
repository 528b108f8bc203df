"""Next-item model: a causal encoder of sequences with an output per position.

The models of SASRec (Kang & McAuley 2018), HSTU (Zhai et al. 2024) and GRU4Rec (Hidasi et al. 2016) as
published: one embedding table for inputs and scored titles, no user features, no context. The score of a
title at a position is the dot product of the title's vector and the output. The output of position i depends
on the titles up to i and, with HSTU, on the time of the next title.

Axis letters: B users, L positions, V titles, D width.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import Known, TitleTable
from jaxrec.core.registry import ALL_SEQUENCE_ENCODERS, resolve
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.encoders.base import PositionEncoder, SequencePositions
from jaxrec.models.features.text import text_embedding
from jaxrec.models.heads import OutputMaps
from jaxrec.models.layers.dense import (
    Parameters,
    at_least_float32,
    broadcast,
    embedding_init,
    embedding_lookup,
    kernel_init,
    rematerialize,
)
from jaxrec.models.layers.history_encoder import elapsed_bucket
from jaxrec.models.layers.rng import dropout, dropout_mask, fold_in, layer_id
from jaxrec.models.layers.title_encoder import TitleEncoder

_MIN_NORM = 1e-6  # lower bound of the norm that a vector is divided by, as in Meta's code


class _WindowFields(NamedTuple):
    """Fields of `ItemWindow`: a NamedTuple has no other base class."""

    title_BxL: jax.Array
    time_BxL: jax.Array
    until_BxL: jax.Array


class ItemWindow(_WindowFields, Known):
    """Consecutive plays of B users, right-aligned, with the time of each next play.

    Attributes:
        title_BxL: int32, 0 for padding.
        time_BxL: uint32 seconds since 1970.
        until_BxL: uint32 seconds since 1970, the time of the next play, which is the time of the request.
    """

    __slots__ = ()


def time_since_previous(window: ItemWindow) -> jax.Array:
    """Time-gap buckets [B, L, L] int32 between each play and each position's query.

    The second axis is the position, whose query is at the time of the position's next play. The last axis is
    the play. The buckets are those of `time_gap_bucket`. Values for plays after the position are not
    meaningful.
    """
    return elapsed_bucket(window.until_BxL, window.time_BxL)


def _normalize(x: jax.Array) -> jax.Array:
    """Scale vectors [..., D] to length 1."""
    wide = x.astype(at_least_float32(x.dtype))
    squared = jnp.square(wide).sum(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squared, _MIN_NORM**2))).astype(x.dtype)


class LayerStack(Parameters):
    """Position encoder of the configured kind, [B, L, D] to [B, L, D].

    The output of a position depends on the inputs up to that position.

    Attributes:
        fields: Config of the encoder.
        attention: "auto" or one of `attention.FORMS`.
        span: Positions of a chunk of block-local attention; 0: dense attention.
    """

    fields: Expert
    attention: str = "auto"
    encoder: str = ""  # as in `NextItemModel`
    span: int = 0

    @nn.compact
    def __call__(self, window: ItemWindow, x_BxLxD: jax.Array, key_BxLx2: jax.Array | None) -> jax.Array:
        encode: PositionEncoder = (
            resolve(self.encoder) if self.encoder else ALL_SEQUENCE_ENCODERS.resolve(self.fields.encoder)
        )
        positions = SequencePositions(
            x_BxLxD, window.title_BxL > 0, time_since_previous(window), key_BxLx2,
            window.time_BxL, window.until_BxL, self.span,
        )  # fmt: skip
        return encode(self.dtype, self.fields, self.attention, self.path, positions)


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
    """

    features: tuple[FeatureSpec, ...]
    titles: int
    config: Model
    encoder: str = ""

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
        if self.config.output_maps:
            self.maps = OutputMaps(self.dtype, self.config.width, name="output_maps")

    def catalogue(self, table: TitleTable) -> Catalogue:
        """Compute the vectors [V, D] of all titles, once per step for all microbatches.

        Returns:
            One array of inputs and, if the model has a second table, one of scored vectors.
        """
        return tuple(vectors(table) for vectors in self.tables)

    def candidates(self, catalogue: Catalogue) -> jax.Array:
        """Return the scored vectors [V, D] of all titles, of length 1 if `cosine` is set."""
        if self.config.output_maps:
            return catalogue[-1] @ self.maps.of_title
        return _normalize(catalogue[-1]) if self.config.cosine else catalogue[-1]

    def of_table(self, window: ItemWindow, table: TitleTable) -> jax.Array:
        """Compute the outputs [B, L, D] from a title table, to initialise the parameters."""
        return self(window, self.catalogue(table))

    def __call__(
        self, window: ItemWindow, catalogue: Catalogue, key_Bx2: jax.Array | None = None
    ) -> jax.Array:  # fmt: skip
        """Compute the outputs [B, L, D] at every position; those at padding are arbitrary.

        Args:
            window: Windows of at most `max_len` positions.
            catalogue: Vectors of all titles, from the method `catalogue`.
            key_Bx2: uint32 keys of the rows; None for no dropout.
        """
        chex.assert_rank(window.title_BxL, 2, custom_message="window.title_BxL")
        chex.assert_type(window.title_BxL, int, custom_message="window.title_BxL")
        chex.assert_equal_shape(list(window), custom_message="window: title_BxL, time_BxL, until_BxL")
        chex.assert_shape(catalogue[0], (None, self.config.width), custom_message="catalogue [V, D]")
        # More than V vectors: of titles launched since the training.
        chex.assert_axis_dimension_gteq(catalogue[0], 0, self.titles, custom_message="catalogue [V, D]")
        L = window.title_BxL.shape[1]
        position_L = jnp.arange(L - 1, -1, -1)
        x_BxLxD = embedding_lookup(catalogue[0], window.title_BxL, mode="clip")
        if self.config.scaled_inputs:
            x_BxLxD = x_BxLxD * jnp.asarray(self.config.width**0.5, x_BxLxD.dtype)
        if self.config.position == "index":
            x_BxLxD = x_BxLxD + broadcast(self.positions[position_L], x_BxLxD.shape)
        present_BxL = window.title_BxL > 0
        x_BxLxD = jnp.where(present_BxL[..., None], x_BxLxD, jnp.zeros((), x_BxLxD.dtype))
        key_BxLx2 = None
        if key_Bx2 is not None:
            key_BxLx2 = fold_in(key_Bx2[:, None], position_L)
            if self.config.dropout:
                keep, _ = dropout_mask(key_BxLx2, layer_id(self.path), self.config.width, self.config.dropout)
                x_BxLxD = dropout(x_BxLxD, keep, self.config.dropout)
        h_BxLxD = rematerialize(
            self.config.remat, LayerStack.__call__, self.layers, window, x_BxLxD, key_BxLx2
        )
        if self.config.output_maps:
            return h_BxLxD @ self.maps.of_user
        return _normalize(h_BxLxD) if self.config.cosine else h_BxLxD
