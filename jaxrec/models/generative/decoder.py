"""Decoder of codes: from the state of a user to the tokens of a title, level by level.

The inputs are the state s and then the tokens that were chosen, [s, c_1, ..., c_depth-1]. Of a session of
several titles the tokens of all titles follow one another, the last token of a title included. A position
attends to itself and to the positions before it, and across to the encoder's outputs of positions no later
than that of the state (OneRec, arXiv 2502.18965). The output at level l gives logits of the token at level
l + 1.

All functions are of B windows with N prefixes each: trained positions, or beams. The keys and values of the
encoder's outputs are computed once for all prefixes of a window.

Axis letters: B windows, L positions of the encoder, N prefixes, T new positions, S earlier positions,
D width, H heads, d width of a head, K tokens of a level.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.models.generative.expert_mixture import ExpertMixture
from jaxrec.models.layers.attention import KeysValues
from jaxrec.models.layers.dense import (
    Dense,
    Parameters,
    at_least_float32,
    broadcast,
    embedding_init,
    embedding_lookup,
    small_init,
)
from jaxrec.models.layers.normalization import LayerNorm
from jaxrec.models.layers.rng import dropout, dropout_mask, layer_id

_MASKED_SCORE = -1e9


class EncoderMemory(NamedTuple):
    """Outputs of the encoder, as the decoder attends to them.

    Attributes:
        layers: Keys and values [B, L, H, d] of each layer.
        mask_BxNxL: Bool, the positions that each prefix attends to; N may be 1, for all prefixes.
    """

    layers: tuple[KeysValues, ...]
    mask_BxNxL: jax.Array


class Decoded(NamedTuple):
    """Outputs of new positions.

    Attributes:
        h_BxNxTxD: Outputs.
        caches: Keys and values [B, N, S + T, H, d] of each layer.
        experts: Experts [B * N * T, 2] of each layer; empty without a mixture.
    """

    h_BxNxTxD: jax.Array
    caches: tuple[KeysValues, ...]
    experts: tuple[jax.Array, ...]


def _attend(q, k, v, mask, keys: str) -> jax.Array:
    """Attention of q [B, N, T, H, d]; `keys` are the axes of k and v, and mask fits [B, N, H, T, keys]."""
    dtype = at_least_float32(q.dtype)
    scores = jnp.einsum(
        f"bnthd,{keys}->bnht{keys[-3]}", q * q.shape[-1] ** -0.5, k, preferred_element_type=dtype
    )
    weights = jax.nn.softmax(jnp.where(mask, scores, _MASKED_SCORE), axis=-1).astype(v.dtype)
    return jnp.einsum(f"bnht{keys[-3]},{keys}->bnthd", weights, v)


class DecoderLayer(Parameters):
    """Pre-norm layer: self-attention, attention to the encoder's outputs, feed-forward.

    Attributes:
        width: Width D.
        heads: Number of heads H.
        hidden: Hidden width of the feed-forward, and of each expert.
        dropout: Dropout rate of each of the three terms.
        experts: Number of experts; 1: a dense feed-forward.
    """

    width: int
    heads: int
    hidden: int
    dropout: float
    experts: int

    def setup(self) -> None:
        """Create the norms and the projections."""
        D = self.width
        self.self_norm, self.cross_norm, self.feedforward_norm = (
            LayerNorm(self.dtype, name=f"{name}_norm") for name in ("self", "cross", "feedforward")
        )
        self.self_qkv = Dense(self.dtype, 3 * D, bias=False, name="self_qkv")
        self.self_out = Dense(self.dtype, D, name="self_out")
        self.cross_query = Dense(self.dtype, D, bias=False, name="cross_query")
        self.cross_keys = Dense(self.dtype, 2 * D, bias=False, name="cross_keys_values")
        self.cross_out = Dense(self.dtype, D, name="cross_out")
        if self.experts > 1:
            self.mixture = ExpertMixture(self.dtype, self.experts, self.hidden, name="mixture")
        else:
            self.hidden_layer = Dense(self.dtype, self.hidden, name="hidden")
            self.out_layer = Dense(self.dtype, D, name="out")

    def _heads(self, x: jax.Array, parts: int) -> list[jax.Array]:
        """Split the last axis into `parts` arrays [..., H, d]."""
        arrays = jnp.split(x, parts, axis=-1)
        return [a.reshape(*a.shape[:-1], self.heads, -1) for a in arrays]

    def keys_values(self, h_BxLxD: jax.Array) -> KeysValues:
        """Return the keys and values [B, L, H, d] of the encoder's outputs."""
        k, v = self._heads(self.cross_keys(h_BxLxD), 2)
        return k, v

    def __call__(
        self, x: jax.Array, memory: KeysValues, mask_BxNxL: jax.Array, cache: KeysValues | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, KeysValues, jax.Array | None]:  # fmt: skip
        """Return the output of x [B, N, T, D], the extended cache, and the experts of each position."""
        T = x.shape[2]
        keeps: tuple[jax.Array, ...] = ()
        if key is not None and self.dropout:
            keeps = tuple(
                dropout_mask(key, layer_id((*self.path, str(i))), x.shape[-1], self.dropout)[0]
                for i in range(3)
            )

        def add(x: jax.Array, y: jax.Array, term: int) -> jax.Array:
            return x + (dropout(y, keeps[term], self.dropout) if keeps else y)

        q, k, v = self._heads(self.self_qkv(self.self_norm(x)), 3)
        if cache is not None:
            k, v = (jnp.concatenate(pair, axis=2) for pair in zip(cache, (k, v), strict=True))
        S = k.shape[2] - T
        causal_TxM = jnp.arange(S + T) <= S + jnp.arange(T)[:, None]
        y = _attend(q, k, v, causal_TxM, "bnmhd")
        x = add(x, self.self_out(y.reshape(x.shape)), 0)
        (q,) = self._heads(self.cross_query(self.cross_norm(x)), 1)
        y = _attend(q, *memory, mask_BxNxL[:, :, None, None], "blhd")
        x = add(x, self.cross_out(y.reshape(x.shape)), 1)
        y, experts = self.feedforward_norm(x), None
        if self.experts > 1:
            y, experts = self.mixture(y.reshape(-1, y.shape[-1]))
            y = y.reshape(x.shape)
        else:
            y = self.out_layer(nn.relu(self.hidden_layer(y)))
        return add(x, y, 2), (k, v), experts


class Decoder(Parameters):
    """Stack of decoder layers with the tables of tokens.

    Attributes:
        width: Width D.
        heads: Number of heads H; must divide D.
        hidden: Hidden width of the feed-forward.
        dropout: Dropout rate.
        layers: Number of layers.
        experts: Number of experts of a feed-forward; 1: dense.
        depth: Number of tokens of a code.
        size: Number of tokens K of a level.
        titles: Number of titles of a session; 1: no session.
    """

    width: int
    heads: int
    hidden: int
    dropout: float
    layers: int
    experts: int
    depth: int
    size: int
    titles: int = 1

    def setup(self) -> None:
        """Create the layers and the tables."""
        fields = self.width, self.heads, self.hidden, self.dropout, self.experts
        self.layer = [DecoderLayer(self.dtype, *fields, name=f"layer_{i}") for i in range(self.layers)]
        self.memory_norm = LayerNorm(self.dtype, name="memory_norm")
        self.norm = LayerNorm(self.dtype, name="norm")
        self.state = Dense(self.dtype, self.width, name="state")
        self.tokens = self.weight("token", embedding_init, self.depth - 1, self.size, self.width)
        self.positions = self.weight("position", embedding_init, self.depth, self.width)
        if self.titles > 1:
            self.last_tokens = self.weight("last_token", embedding_init, self.size, self.width)
            self.slots = self.weight("slot", embedding_init, self.titles, self.width)
        self.kernels = [
            self.weight(f"logits_{level}", small_init, self.width, self.size) for level in range(self.depth)
        ]

    def memory(self, h_BxLxD: jax.Array, mask_BxNxL: jax.Array) -> EncoderMemory:
        """Return the keys and values of the encoder's outputs, once for all prefixes and levels."""
        h_BxLxD = self.memory_norm(h_BxLxD)
        return EncoderMemory(tuple(layer.keys_values(h_BxLxD) for layer in self.layer), mask_BxNxL)

    def first_input(self, state_BxNxD: jax.Array) -> jax.Array:
        """Return the input [B, N, 1, D] of states."""
        x_BxNxD = self.state(state_BxNxD)
        return self._at_slot(x_BxNxD + broadcast(self.positions[0], x_BxNxD.shape), 0)[:, :, None]

    def token_input(self, level: int, token: jax.Array, slot: int = 0) -> jax.Array:
        """Return the inputs [..., D] of tokens of a level of a title of a session, both counted from 0.

        The last token of a title is the first input of the next title; that of the last title is no input.
        """
        is_last = level == self.depth - 1
        x = embedding_lookup(self.last_tokens if is_last else self.tokens[level], token)
        x = x + broadcast(self.positions[0 if is_last else level + 1], x.shape)
        return self._at_slot(x, slot + is_last)

    def _at_slot(self, x: jax.Array, slot: int) -> jax.Array:
        """Add the vector of a title of a session to inputs; a model of single titles has none."""
        return x + broadcast(self.slots[slot], x.shape) if self.titles > 1 else x

    def logits(self, level: int, h: jax.Array) -> jax.Array:
        """Return the logits [..., K] of the token of a level at outputs [..., D], at least float32."""
        return jnp.matmul(h, self.kernels[level], preferred_element_type=at_least_float32(h.dtype))

    def __call__(
        self, x_BxNxTxD: jax.Array, memory: EncoderMemory, caches: tuple[KeysValues, ...] | None = None,
        key: jax.Array | None = None,
    ) -> Decoded:  # fmt: skip
        """Decode T new positions of each prefix.

        Args:
            x_BxNxTxD: Inputs, from `first_input` and `token_input`.
            memory: From `memory`.
            caches: Keys and values of the earlier positions of each layer; None for none.
            key: [B, N, T, 2] uint32 keys for dropout; None for no dropout.
        """
        chex.assert_rank(x_BxNxTxD, 4, custom_message="x_BxNxTxD")
        x, new, chosen = x_BxNxTxD, [], []
        for i, layer in enumerate(self.layer):
            x, cache, experts = layer(
                x, memory.layers[i], memory.mask_BxNxL, caches[i] if caches else None, key
            )
            new.append(cache)
            chosen += [] if experts is None else [experts]
        return Decoded(self.norm(x), tuple(new), tuple(chosen))
