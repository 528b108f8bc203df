"""SASRec (Kang & McAuley, Self-Attentive Sequential Recommendation, ICDM 2018): causal self-attention."""

import jax
from flax import linen as nn

from jaxrec.nn.layers import Parameters
from jaxrec.nn.pooling import ExpertFields, Newest, Titles, seen
from jaxrec.nn.transformer import Encoder


class SasRec(Parameters):
    """Each request's titles to one vector [B, D]: its newest title's output, each title seeing itself and
    the older ones."""

    fields: ExpertFields

    @nn.compact
    def __call__(self, titles: Titles, examples: int) -> jax.Array:
        f, of_RxL = self.fields, titles.example_RxL
        encoder = Encoder(
            self.dtype, f.layers, f.heads, f.feedforward, f.dropout, f.attention, name="encoder"
        )
        h_RxLxD = encoder(titles.x_RxLxD, seen(of_RxL), titles.key_RxLx2)
        return Newest(self.dtype, name="newest")(h_RxLxD, of_RxL, examples)
