"""Fields of tokens as a part of the input of a position: what a token was, and what its next request gives.

A position reads the outcome of its token, which is known by then, and the fields of the next token that are
known before its action: its time and the context of its request. So every field of the next token that the
user's choice decides is the input of a later position. The design is that of Netflix's foundation model
(TechBlog 2025); one vector for each event with its action is HSTU's (Zhai et al. 2024).

Axis letters: B users, L positions, K kinds of events, S kinds with values, F width of the context, D width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.batch import PastOutcome
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.dense import Dense, Parameters, embedding_init, embedding_lookup
from jaxrec.models.layers.embedding import FeatureEncoder
from jaxrec.models.layers.history_encoder import TIME_GAP_BUCKETS, time_gap_bucket

HOURS = 168  # of a week
QUERY_BUCKETS = 4096  # of the hash of a text, as of `data.tokens.merging`
_HOUR_SECONDS = 3600


class NextRequest(NamedTuple):
    """Fields of the token after each position that are known when it begins.

    Attributes:
        categories: [B, L, columns] int32 categories of the context; None without such features.
        numbers: [B, L, columns] float32 numbers of the context; None without such features.
        query: [B, L] int32 bucket of the text, 0 for none; None where no kind carries text.
    """

    categories: jax.Array | None
    numbers: jax.Array | None
    query: jax.Array | None


class TokenInputs(NamedTuple):
    """Fields of tokens that the positions of windows read.

    Attributes:
        past: [B, L] outcomes of the tokens of the positions.
        request: Fields of the tokens after them.
    """

    past: PastOutcome
    request: NextRequest


def seconds_to_next(time_BxL: jax.Array, until_BxL: jax.Array) -> jax.Array:
    """Return the seconds [B, L] int32 from each position's token to its next request, at least 0."""
    return jnp.maximum(until_BxL.astype(jnp.int32) - time_BxL.astype(jnp.int32), 0)


class TokenEncoder(Parameters):
    """Vectors [B, L, D] of the fields of tokens, which are added to those of their titles.

    An outcome of NaN is unknown, and is read as 0.

    Attributes:
        kinds: Number of kinds of events K.
        features: Features of the context.
        feature_names: Names of the selected features; empty: all.
        width: Width D of the model.
    """

    kinds: int
    features: tuple[FeatureSpec, ...]
    feature_names: tuple[str, ...]
    width: int

    @nn.compact
    def __call__(self, tokens: TokenInputs, time_BxL: jax.Array, until_BxL: jax.Array) -> jax.Array:
        """Return the vectors of tokens.

        Args:
            tokens: Fields of the tokens.
            time_BxL: uint32 seconds since 1970 of the tokens.
            until_BxL: uint32 seconds since 1970 of the next requests.
        """
        x_BxLxD = Dense(self.dtype, self.width, name="outcome")(self._outcome(tokens.past))
        hour_BxL = (until_BxL // _HOUR_SECONDS % HOURS).astype(jnp.int32)
        seconds_BxL = seconds_to_next(time_BxL, until_BxL).astype(jnp.float32)
        gap_BxL = time_gap_bucket(jnp.log1p(seconds_BxL))
        for name, rows, ids_BxL in (("hour", HOURS, hour_BxL), ("gap", TIME_GAP_BUCKETS, gap_BxL)):
            table = self.weight(name, embedding_init, rows, self.width)
            x_BxLxD = x_BxLxD + embedding_lookup(table, ids_BxL, mode="clip")
        request = tokens.request
        if self.features:
            none = jnp.zeros((*until_BxL.shape, 0), jnp.int32)
            categories = none if request.categories is None else request.categories
            numbers = none.astype(self.dtype) if request.numbers is None else request.numbers
            encoder = FeatureEncoder(self.dtype, self.features, self.feature_names, name="context")
            x_BxLxF = encoder(categories, numbers)
            x_BxLxD = x_BxLxD + Dense(self.dtype, self.width, bias=False, name="of_context")(x_BxLxF)
        if request.query is not None:
            table = self.weight("query", embedding_init, QUERY_BUCKETS, self.width)
            of_query = embedding_lookup(table, request.query, mode="clip")
            x_BxLxD = x_BxLxD + jnp.where((request.query > 0)[..., None], of_query, 0)
        return x_BxLxD

    def _outcome(self, past: PastOutcome) -> jax.Array:
        """Return the outcomes [B, L, K + 2 + S] as numbers of about -1 to 1."""
        kinds_BxLxK = past.kinds[..., None] >> jnp.arange(self.kinds, dtype=jnp.uint32) & 1
        columns = [kinds_BxLxK, past.completion[..., None], past.seconds[..., None] / 8.0]
        if past.signals is not None:
            columns.append(past.signals)
        x = jnp.concatenate([column.astype(self.dtype) for column in columns], axis=-1)
        return jnp.where(jnp.isnan(x), jnp.zeros((), x.dtype), x)
