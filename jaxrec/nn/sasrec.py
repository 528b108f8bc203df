"""SASRec (Kang & McAuley, Self-Attentive Sequential Recommendation, ICDM 2018): causal self-attention."""

import jax
import jax.numpy as jnp

from jaxrec.nn.pooling import Kind, Memory, Newest, Titles, newest_key, seen, there
from jaxrec.nn.transformer import Encoder


class SasRec(Kind):
    """Each request's titles to one vector [B, D]: its newest title's output, each title seeing itself and
    the older ones. Candidates share a history's pass."""

    def setup(self):
        f = self.fields
        self.encoder = Encoder(
            self.dtype, f.layers, f.heads, f.feedforward, f.dropout, f.attention, name="encoder"
        )
        self.newest = Newest(self.dtype, name="newest")

    def __call__(self, titles: Titles, examples: int) -> jax.Array:
        of_RxL = titles.example_RxL
        h_RxLxD = self.encoder(titles.x_RxLxD, seen(of_RxL), titles.key_RxLx2)
        return self.newest(h_RxLxD, of_RxL, examples)

    def remember(self, titles: Titles) -> Memory:
        seen_RxLxL = seen(titles.example_RxL)
        _, layers = self.encoder.with_keys(titles.x_RxLxD, seen_RxLxL, titles.key_RxLx2)
        return Memory(layers, there(titles), titles.age_RxL)

    def join(self, remembered: Memory, x_BxCxD: jax.Array, key_BxCx2: jax.Array | None) -> jax.Array:
        B, C, _ = x_BxCxD.shape
        key = newest_key(key_BxCx2)
        h_BxCxD, _ = self.encoder.with_keys(x_BxCxD, remembered.seen_by(C), key, remembered.layers)
        return self.newest(h_BxCxD, jnp.arange(B * C).reshape(B, C), B * C)
