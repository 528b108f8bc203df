"""A causal encoder over whole sequences, with an output at every place to be met with any title's vector.

The model of SASRec (Kang & McAuley 2018), HSTU (Zhai et al. 2024) and GRU4Rec (Hidasi et al. 2016) as
they were published: titles by one table for what is read and what is scored, no user, no context. What
place i gives knows the titles up to i, and, with HSTU, when the title after it is asked for.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.registry import SEQUENCE_ENCODERS, resolve
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.encoders.base import PositionEncoder, SequencePositions
from jaxrec.models.layers.dense import (
    Parameters,
    at_least_float32,
    broadcast,
    embedding_init,
    embedding_lookup,
    kernel_init,
    rematerialize,
)
from jaxrec.models.layers.history_encoder import time_gap_bucket
from jaxrec.models.layers.rng import dropout, dropout_mask, fold_in, layer_id
from jaxrec.models.layers.title_encoder import TitleEncoder

_LEAST = 1e-6  # of a length that a vector is divided by, squared: Meta's is 1e-6 of the length


class ItemWindow(NamedTuple):
    """Consecutive plays of B users, right-aligned, and when each place's next one is asked for."""

    title_BxL: jax.Array  # int32, 0 for padding
    time_BxL: jax.Array  # uint32 seconds since 1970
    until_BxL: jax.Array  # uint32, of the play after


def time_since_previous(window: ItemWindow) -> jax.Array:
    """The bucket (`features.gap`) of the time from each play (last axis) to the one that follows a place
    (second), [B, L, L]; of plays after the place it says nothing."""
    apart = window.until_BxL[:, :, None].astype(jnp.int32) - window.time_BxL[:, None].astype(jnp.int32)
    return time_gap_bucket(jnp.log1p(jnp.maximum(apart, 0).astype(jnp.float32)))


def _normalize(x: jax.Array) -> jax.Array:
    """x [..., D] brought to length 1."""
    wide = x.astype(at_least_float32(x.dtype))
    squared = jnp.square(wide).sum(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squared, _LEAST**2))).astype(x.dtype)


class LayerStack(Parameters):
    """What a kind makes of inputs [B, L, D]: outputs, each of its place and those before it."""

    fields: Expert
    attention: str = "auto"

    @nn.compact
    def __call__(self, window: ItemWindow, x_BxLxD: jax.Array, key_BxLx2: jax.Array | None) -> jax.Array:
        encode: PositionEncoder = resolve(SEQUENCE_ENCODERS[self.fields.encoder])
        positions = SequencePositions(x_BxLxD, window.title_BxL > 0, time_since_previous(window), key_BxLx2)
        return encode(self.dtype, self.fields, self.attention, self.path, positions)


Catalogue = tuple[
    jax.Array, ...
]  # [V, D] of every title: as it is read and, where they differ, as it is scored


class ItemTable(Parameters):
    """Every title's vector [V, D]: its features' as they are where they are as wide as the model, which is as
    published where the id is all there is, else projected."""

    features: tuple[FeatureSpec, ...]
    titles: int
    width: int
    reads: tuple[str, ...]
    spread: float

    @nn.compact
    def __call__(self, table: TitleTable) -> jax.Array:
        vectors = TitleEncoder(
            self.dtype, self.features, self.titles, self.reads, self.spread, name="vectors"
        )
        t_VxF = vectors.vectors(jnp.arange(self.titles), table)
        if t_VxF.shape[1] == self.width:
            return t_VxF
        return t_VxF @ self.weight("kernel", kernel_init, t_VxF.shape[1], self.width)


class NextItemModel(Parameters):
    """One encoder over windows of plays; titles' vectors are the input, times sqrt(D), and what is scored,
    unless there are `two_tables`.

    Positions count from the newest place, learned. `dtype` as in `Recommender`.
    """

    features: tuple[FeatureSpec, ...]  # of the dataset's layout; those of titles are read
    titles: int  # V
    config: Model  # its only expert is the encoder; the expert's window is the longest that is read

    def setup(self):
        if self.config.experts[0].encoder not in SEQUENCE_ENCODERS:
            raise ValueError(
                f"kind={self.config.experts[0].encoder!r} must be one of {(*SEQUENCE_ENCODERS,)}"
            )
        of_titles = tuple(f for f in self.features if f.where == "title")
        fields = (
            of_titles,
            self.titles,
            self.config.width,
            self.config.features,
            self.config.embedding_init_std,
        )
        names = ("title", "scored") if self.config.untied_item_embeddings else ("title",)
        self.tables = [ItemTable(self.dtype, *fields, name=name) for name in names]
        self.layers = LayerStack(
            self.dtype, self.config.experts[0], self.config.attention_impl, name="layers"
        )
        if self.config.position == "index":
            self.positions = self.weight(
                "position", embedding_init, self.config.experts[0].max_len, self.config.width
            )

    def catalogue(self, table: TitleTable) -> Catalogue:
        """Every title's vectors, to be worked out once a step."""
        return tuple(vectors(table) for vectors in self.tables)

    def candidates(self, catalogue: Catalogue) -> jax.Array:
        """The catalogue's vectors as outputs meet them [V, D]."""
        return _normalize(catalogue[-1]) if self.config.cosine else catalogue[-1]

    def of_table(self, window: ItemWindow, table: TitleTable) -> jax.Array:
        """Outputs, the catalogue worked out here: what a first state's parameters are made by."""
        return self(window, self.catalogue(table))

    def __call__(
        self, window: ItemWindow, catalogue: Catalogue, key_Bx2: jax.Array | None = None
    ) -> jax.Array:  # fmt: skip
        """Outputs [B, L, D] at every place of windows of at most `encoder.window` places; those of padding
        say nothing. Without `key_Bx2` nothing is dropped."""
        chex.assert_rank(window.title_BxL, 2, custom_message="window.title_BxL")
        chex.assert_type(window.title_BxL, int, custom_message="window.title_BxL")
        chex.assert_equal_shape(list(window), custom_message="window: title_BxL, time_BxL, until_BxL")
        chex.assert_shape(catalogue[0], (self.titles, self.width), custom_message="catalogue [V, D]")
        L = window.title_BxL.shape[1]
        place_L = jnp.arange(L - 1, -1, -1)
        x_BxLxD = embedding_lookup(catalogue[0], window.title_BxL, mode="clip")
        x_BxLxD = x_BxLxD * jnp.asarray(self.config.width**0.5, x_BxLxD.dtype)
        if self.config.position == "index":
            x_BxLxD = x_BxLxD + broadcast(self.positions[place_L], x_BxLxD.shape)
        there_BxL = window.title_BxL > 0
        x_BxLxD = jnp.where(there_BxL[..., None], x_BxLxD, jnp.zeros((), x_BxLxD.dtype))
        key_BxLx2 = None
        if key_Bx2 is not None:
            key_BxLx2 = fold_in(key_Bx2[:, None], place_L)
            if self.config.dropout:
                keep, _ = dropout_mask(key_BxLx2, layer_id(self.path), self.config.width, self.config.dropout)
                x_BxLxD = dropout(x_BxLxD, keep, self.config.dropout)
        h_BxLxD = rematerialize(
            self.config.remat, LayerStack.__call__, self.layers, window, x_BxLxD, key_BxLx2
        )
        return _normalize(h_BxLxD) if self.config.cosine else h_BxLxD
