"""Encoders of the session of a request: its plays and signals since the history ended.

Each event of the session attends to the cached outputs of the history's experts and to the events before it.
The request itself is the newest position, with a learned vector, so that a request without an event reads the
history too. The history is encoded once a session: an event more costs `SessionExpert.__call__` alone.

Axis letters: B examples, S events, T = S + 1 positions, M outputs of the history's experts, D width,
G categories.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.config.schema import Expert, Model
from jaxrec.core.batch import SessionTail
from jaxrec.core.registry import SESSION_ENCODERS
from jaxrec.models.encoders.base import causal_mask
from jaxrec.models.encoders.transformer import TransformerBlock
from jaxrec.models.layers.attention import KeysValues, attend
from jaxrec.models.layers.dense import (
    Dense,
    Mlp,
    Parameters,
    broadcast,
    embedding_init,
    embedding_lookup,
    kernel_init,
)
from jaxrec.models.layers.history_encoder import TIME_GAP_BUCKETS, time_gap_bucket
from jaxrec.models.layers.normalization import LayerNorm
from jaxrec.models.layers.pooling import AttentionPooling
from jaxrec.models.layers.rng import dropout, dropout_mask, fold_in, layer_id
from jaxrec.models.layers.title_encoder import TitleLookup


class Memory(NamedTuple):
    """Outputs of the experts of the history, one example per row."""

    x_BxMxD: jax.Array
    present_BxM: jax.Array


class CachedMemory(NamedTuple):
    """Keys and values of a `Memory` in each block of a session expert."""

    layers: tuple[KeysValues, ...]
    present_BxM: jax.Array


class SessionInputs(NamedTuple):
    """Inputs of the encoders of sessions.

    Attributes:
        tail: Events of the sessions.
        titles: Vectors of the titles of the events, [B, S].
        category_BxSxK: int32 categories of the titles, 0 for none; None if no expert counts them.
        key_Bx2: uint32 keys of the examples; None for no dropout.
    """

    tail: SessionTail
    titles: TitleLookup
    category_BxSxK: Any = None
    key_Bx2: Any = None


def history_windows(config: Model) -> tuple[int, ...]:
    """Return the unique numbers of titles that experts read, in decreasing order.

    They are those of the experts of the history; without one, those of the experts of sessions.
    """
    of_history = {e.max_len for e in config.experts if e.encoder not in SESSION_ENCODERS}
    return tuple(sorted(of_history or {e.max_len for e in config.experts}, reverse=True))


def by_example(x_RxLxD: jax.Array, example_RxL: jax.Array, examples: int, length: int) -> Memory:
    """Return the outputs of packed rows with one example per row, the newest last.

    Args:
        x_RxLxD: Outputs; the titles of an example are adjacent.
        example_RxL: int32 index of the example that owns the title; `examples` or more at padding.
        examples: Number of examples B.
        length: Maximum number of titles M of an example.
    """
    example_N, N = example_RxL.reshape(-1), example_RxL.size
    count_B = jax.ops.segment_sum(jnp.ones(N, jnp.int32), example_N, examples)
    newest_B = jax.ops.segment_max(jnp.arange(N), example_N, examples)
    back_M = jnp.arange(length - 1, -1, -1)
    present_BxM = back_M[None] < count_B[:, None]
    index_BxM = jnp.where(present_BxM, newest_B[:, None] - back_M[None], N)
    x_NxD = x_RxLxD.reshape(N, x_RxLxD.shape[-1])
    return Memory(embedding_lookup(x_NxD, index_BxM, mode="fill", fill=0), present_BxM)


class CrossAttention(Parameters):
    """Multi-head attention of the positions of a session over outputs of the history.

    Attributes:
        width: Width D.
        heads: Number of heads H; must divide D.
        form: Attention implementation: "auto" or one of `attention.FORMS`.
    """

    width: int
    heads: int
    form: str

    def setup(self):
        """Create the parameters."""
        self.query = Dense(self.dtype, self.width, name="query")
        self.kernel = self.weight("kernel", kernel_init, self.width, 2 * self.width)
        self.out = Dense(self.dtype, self.width, name="out")

    def keys_values(self, x_BxMxD: jax.Array) -> KeysValues:
        """Return the keys and values [B, M, H, d] of outputs of the history."""
        B, M, _ = x_BxMxD.shape
        k, v = (y.reshape(B, M, self.heads, -1) for y in jnp.split(x_BxMxD @ self.kernel, 2, axis=-1))
        return k, v

    def __call__(self, x_BxTxD: jax.Array, memory: KeysValues, present_BxM: jax.Array) -> jax.Array:
        """Return [B, T, D]; 0 for an example without any output of the history."""
        B, T, D = x_BxTxD.shape
        q_BxTxHxd = self.query(x_BxTxD).reshape(B, T, self.heads, -1)
        mask_BxTxM = jnp.broadcast_to(present_BxM[:, None], (B, T, present_BxM.shape[1]))
        y_BxTxD = self.out(attend(self.form, q_BxTxHxd, *memory, mask_BxTxM).reshape(B, T, D))
        has_history_B = present_BxM.any(axis=1)
        return jnp.where(has_history_B[:, None, None], y_BxTxD, jnp.zeros((), y_BxTxD.dtype))


class SessionBlock(Parameters):
    """Cross-attention to the history, then a causal block over the session, with pre-norm residuals.

    Attributes:
        width: Width D.
        fields: Config of the expert.
        form: Attention implementation.
    """

    width: int
    fields: Expert
    form: str

    def setup(self):
        """Create the layers."""
        f = self.fields
        self.norm = LayerNorm(self.dtype, name="memory_norm")
        self.cross = CrossAttention(self.dtype, self.width, f.num_heads, self.form, name="cross")
        self.block = TransformerBlock(
            self.dtype, f.num_heads, f.mlp_ratio, f.dropout, self.form, name="block"
        )

    def keys_values(self, x_BxMxD: jax.Array) -> KeysValues:
        """Return the keys and values of outputs of the history."""
        return self.cross.keys_values(x_BxMxD)

    def __call__(
        self, x_BxTxD: jax.Array, memory: KeysValues, present_BxM: jax.Array, mask_BxTxT: jax.Array,
        key_BxTx2: jax.Array | None,
    ) -> jax.Array:  # fmt: skip
        """Return the outputs [B, T, D]."""
        y_BxTxD = self.cross(self.norm(x_BxTxD), memory, present_BxM)
        if key_BxTx2 is not None and self.fields.dropout:
            keep, _ = dropout_mask(key_BxTx2, layer_id(self.path), self.width, self.fields.dropout)
            y_BxTxD = dropout(y_BxTxD, keep, self.fields.dropout)
        return self.block(x_BxTxD + y_BxTxD, mask_BxTxT, key_BxTx2)[0]


class SessionExpert(Parameters):
    """Expert of sessions: cross-attention to the history, causal self-attention, pooling; [B, D].

    The token of an event is the sum of its title's projection, a vector of its kind, a vector of the kind
    times the event's value, and a vector of the bucket of its age.

    Attributes:
        fields: Config of the expert; it reads the last `max_len` stored events.
        width: Width D.
        title_width: Width of a title vector.
        kinds: Number of kinds of events, that of padding included.
        categories: Not used.
        attention: "auto" or one of `attention.FORMS`.
        initial_dropout: Rate of the dropout of the tokens, in [0, 1).
    """

    fields: Expert
    width: int
    title_width: int
    kinds: int
    categories: int
    attention: str = "auto"
    initial_dropout: float = 0.0

    def setup(self):
        """Create the parameters."""
        D = self.width
        self.of_title = self.weight("title", kernel_init, self.title_width, D)
        self.of_kind = self.weight("kind", embedding_init, self.kinds, D)
        self.of_value = self.weight("value", embedding_init, self.kinds, D)
        self.of_age = self.weight("age", embedding_init, TIME_GAP_BUCKETS, D)
        self.of_request = self.weight("request", embedding_init, D)
        self.block = [
            SessionBlock(self.dtype, D, self.fields, self.attention, name=f"block_{i}")
            for i in range(self.fields.num_layers)
        ]
        self.last_norm = LayerNorm(self.dtype, name="norm")
        self.pool = AttentionPooling(self.dtype, name="pool")

    @property
    def kernel_name(self) -> str:
        """Name of the projection of titles among those of the catalogue."""
        return "/".join(self.path)

    def encode_memory(self, memory: Memory) -> CachedMemory:
        """Return the keys and values [B, M, D] of the history's outputs, for all requests of a session."""
        return CachedMemory(
            tuple(block.keys_values(memory.x_BxMxD) for block in self.block), memory.present_BxM
        )

    def _tokens(self, inputs: SessionInputs) -> jax.Array:
        """Return the tokens of the events [B, S, D]; no position attends to those of padding."""
        tail = inputs.tail
        value_BxS = tail.past.completion.astype(self.dtype)
        x = inputs.titles.through(self.kernel_name, self.of_title) + embedding_lookup(
            self.of_kind, tail.kind, mode="clip"
        )
        x = x + embedding_lookup(self.of_value, tail.kind, mode="clip") * broadcast(
            value_BxS[..., None], x.shape
        )
        return x + embedding_lookup(self.of_age, time_gap_bucket(tail.age), mode="clip")

    def outputs(self, inputs: SessionInputs, memory: CachedMemory) -> tuple[jax.Array, jax.Array]:
        """Return the outputs [B, T, D] of all positions, and the example [B, T] that owns each.

        Args:
            inputs: Events of B requests.
            memory: From `encode_memory`.
        """
        (B, S), rows_B = inputs.tail.kind.shape, jnp.arange(len(inputs.tail.kind))
        chex.assert_shape(memory.present_BxM, (B, None), custom_message="memory.present_BxM")
        x_BxSxD = self._tokens(inputs)
        request_Bx1xD = broadcast(self.of_request, (B, 1, self.width))
        x_BxTxD = jnp.concatenate([x_BxSxD, request_Bx1xD], axis=1)
        owner_BxT = jnp.pad(jnp.where(inputs.tail.kind > 0, rows_B[:, None], B), ((0, 0), (0, 1)))
        owner_BxT = owner_BxT.at[:, -1].set(rows_B)
        key_BxTx2 = None
        if inputs.key_Bx2 is not None:
            key_BxTx2 = fold_in(inputs.key_Bx2[:, None], jnp.arange(S + 1)[None])
            if self.initial_dropout:
                keep, _ = dropout_mask(key_BxTx2, layer_id(self.path), self.width, self.initial_dropout)
                x_BxTxD = dropout(x_BxTxD, keep, self.initial_dropout)
        mask_BxTxT = causal_mask(owner_BxT)
        for block, keys_values in zip(self.block, memory.layers, strict=True):
            x_BxTxD = block(x_BxTxD, keys_values, memory.present_BxM, mask_BxTxT, key_BxTx2)
        return self.last_norm(x_BxTxD), owner_BxT

    def __call__(self, inputs: SessionInputs, memory: CachedMemory) -> jax.Array:
        """Encode sessions, [B, D]; arguments as for `outputs`."""
        h_BxTxD, owner_BxT = self.outputs(inputs, memory)
        return self.pool(h_BxTxD, owner_BxT, len(owner_BxT))


class SessionCounts(Parameters):
    """Expert of engineered counts: how often each category is in the session, and those of its last title.

    A call returns [B, D] by an MLP of log(1 + counts) and of the last title's categories. The attributes are
    those of `SessionExpert`; `categories` is the number of ids of the counted categories. Beside it, `width`
    and `mlp_ratio` of `fields` have an effect.
    """

    fields: Expert
    width: int
    title_width: int
    kinds: int
    categories: int
    attention: str = "auto"
    initial_dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs: SessionInputs, memory: None = None) -> jax.Array:
        """Encode sessions, [B, D]; `memory` is not used."""
        has_title_BxS = inputs.tail.title > 0
        present_BxSxKx1 = ((inputs.category_BxSxK > 0) & has_title_BxS[..., None])[..., None]
        one_hot_BxSxKxG = jax.nn.one_hot(inputs.category_BxSxK, self.categories, dtype=self.dtype)
        by_event_BxSxG = jnp.where(present_BxSxKx1, one_hot_BxSxKxG, 0).sum(2)
        S = has_title_BxS.shape[1]
        newest_B = jnp.where(has_title_BxS, jnp.arange(S), -1).max(1)
        is_last_BxS = has_title_BxS & (jnp.arange(S) == newest_B[:, None])
        last_BxG = jnp.where(is_last_BxS[..., None], by_event_BxSxG, 0).sum(1)
        x_BxN = jnp.concatenate([jnp.log1p(by_event_BxSxG.sum(1)), last_BxG], axis=-1)
        hidden = (round(self.fields.mlp_ratio * self.width),)
        return Mlp(self.dtype, hidden, self.width, name="mlp")(x_BxN)
