"""Title vectors (Eq. 2 and 3) and their projections, cached if that is cheaper.

Axis letters: V titles, F width of a title vector, U unique titles.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import TITLE_ID, UNKNOWN
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.features.entity import MIXED, EntityMixture
from jaxrec.models.layers.dense import Parameters, embedding_lookup
from jaxrec.models.layers.embedding import CategoryEmbedding, FeatureEncoder, select_features
from jaxrec.models.layers.sharded_embedding import NO_ID, ShardedEmbedding


class TitleEncoder(Parameters):
    """Title vectors of width F (Eq. 3).

    If a batch has more than V ids, the vectors of all V titles are computed once and looked up: the result is
    the same. The vector of id 0 is zero. With a `shard_axis`, the embeddings of ids are sharded over the
    devices of that axis, and each id is looked up on the device that stores it.

    Attributes:
        features: Title features.
        titles: Number of titles V.
        feature_names: Names of the selected features; empty: all.
        init_std: Standard deviation of the initial embeddings.
        shard_axis: Mesh axis of the embeddings of ids; empty: replicated.
        entity: "concat" or "mixed", the kind of a vector.
        text: Module that encodes text, as of `FeatureEncoder`.
    """

    features: tuple[FeatureSpec, ...]
    titles: int
    feature_names: tuple[str, ...] = ()
    init_std: float = 0.2
    shard_axis: str = ""
    entity: str = "concat"
    text: nn.Module | None = None

    def setup(self):
        """Create the encoders of the features."""
        columns = tuple(f for f in self.features if f.name != TITLE_ID)
        self.id_width = sum(
            f.width for f in select_features(self.features, self.feature_names) if f.name == TITLE_ID
        )
        id_table = self.titles, self.id_width, self.init_std
        if self.id_width and self.shard_axis:
            self.sharded_ids = ShardedEmbedding(self.dtype, *id_table, self.shard_axis, name=TITLE_ID)
        elif self.id_width:
            self.id_vectors = CategoryEmbedding(self.dtype, *id_table, name=TITLE_ID)
        settings = columns, self.feature_names, self.init_std, self.text
        self.columns = FeatureEncoder(self.dtype, *settings, name="columns")
        if self.entity == MIXED:
            self.mixture = EntityMixture(self.dtype, self.id_width, name="entity")

    def vectors(self, ids: jax.Array, table: TitleTable) -> jax.Array:
        """Compute the vectors [..., F] of ids [...].

        The table may have rows after the V titles, for titles launched since the training. Such a title has
        its own features and the id of the unknown title.

        Args:
            ids: int32 title ids.
            table: features of all titles.
        """
        chex.assert_type(ids, int, custom_message="ids")
        if not self.id_width:
            return self._with_columns([], ids, table)
        known = jnp.where(ids < self.titles, ids, UNKNOWN) if self._has_new_titles(table) else ids
        if table.masked is not None:
            known = jnp.where(jnp.take(table.masked, known, axis=0), UNKNOWN, known)
        return self._with_columns(
            [self.sharded_ids(known) if self.shard_axis else self.id_vectors(known[..., None])], ids, table
        )

    def _has_new_titles(self, table: TitleTable) -> bool:
        return table.categories.shape[0] > self.titles

    def lookup_unique(self, id_U: jax.Array, table: TitleTable) -> jax.Array:
        """Compute the vectors [U, F] of unique ids, with one exchange between devices.

        Args:
            id_U: ids from `sharded_embedding.unique_ids`.
            table: features of all titles.
        """
        id_vectors, ids = [], jnp.where(id_U == NO_ID, 0, id_U)
        if self.id_width:
            row_UxW = self.sharded_ids.lookup_unique(id_U)
            if table.masked is not None:  # `id_U` holds the unknown id
                unknown_W = row_UxW[jnp.searchsorted(id_U, UNKNOWN)]
                row_UxW = jnp.where(jnp.take(table.masked, ids, axis=0)[:, None], unknown_W, row_UxW)
            id_vectors = [row_UxW]
        return self._with_columns(id_vectors, ids, table)

    def _with_columns(self, vectors: list[jax.Array], ids: jax.Array, table: TitleTable) -> jax.Array:
        """Concatenate or mix `vectors` and the vectors of the other features, [..., F]."""
        x = self.columns(jnp.take(table.categories, ids, axis=0), jnp.take(table.numbers, ids, axis=0))
        if self.entity == MIXED:
            maturity = None if table.maturity is None else jnp.take(table.maturity, ids, axis=0)
            x = self.mixture(vectors[0], x, maturity)
        else:
            x = jnp.concatenate([*vectors, x], axis=-1)
        return jnp.where((ids > 0)[..., None], x, jnp.zeros((), x.dtype))

    def category_vectors(self, name: str) -> jax.Array:
        """Return the embeddings [G, width] of the ids of a selected category, 0 for padding."""
        columns = tuple(f for f in self.features if f.name != TITLE_ID)
        feature = next(f for f in columns if f.name == name)
        before = columns[: columns.index(feature)]
        first = sum(f.columns for f in before if f.kind != "number")
        of_kind = {
            number: sum(f.columns for f in columns if (f.kind == "number") == number) for number in (0, 1)
        }
        ids_GxK = jnp.zeros((feature.size, of_kind[0]), jnp.int32).at[:, first].set(jnp.arange(feature.size))
        x_GxF = self.columns(ids_GxK, jnp.zeros((feature.size, of_kind[1]), self.dtype))
        start = sum(f.width for f in select_features(before, self.feature_names))
        return x_GxF[:, start : start + feature.width]

    def rows(self, ids: jax.Array, table: TitleTable) -> "TitleLookup":
        """Prepare the vectors of ids [...] for projection; NaN for ids that are not in the table.

        Args:
            ids: int32 title ids.
            table: features of all titles.
        """
        if self.titles < ids.size and not self.shard_axis and not self._has_new_titles(table):
            return TitleLookup(self.vectors(jnp.arange(self.titles), table), ids)
        return TitleLookup(self.vectors(ids, table), None)


class TitleProjections(NamedTuple):
    """Cached projections of title vectors, of all titles or of unique ids.

    Attributes:
        projected: Kernel name -> [V, out] or [U, out].
        id_U: Ids of the rows, from `unique_ids`; None: row i is title i.
    """

    projected: dict[str, jax.Array]
    id_U: jax.Array | None = None

    def row_indices(self, ids: jax.Array) -> jax.Array:
        """Return the rows [...] of `ids` [...], int32 indices into each of `projected`."""
        if self.id_U is None:
            return ids
        return jnp.searchsorted(self.id_U, ids.reshape(-1)).reshape(ids.shape)


class TitleLookup:
    """Title vectors to be projected: one row per position, or V rows and indices.

    Args:
        vectors: [..., F], or [V, F] with `ids`.
        ids: [...], rows of `vectors`; None: `vectors` has one row per position.
    """

    def __init__(self, vectors: jax.Array, ids: jax.Array | None):
        self._vectors, self._ids = vectors, ids

    def through(self, name: str, kernel: jax.Array) -> jax.Array:
        """Multiply each title vector by a kernel.

        Args:
            name: name of the kernel in `TitleProjections`.
            kernel: [F, out].

        Returns:
            [..., out].
        """
        projected = self._vectors @ kernel
        return projected if self._ids is None else embedding_lookup(projected, self._ids)


class ProjectedLookup(TitleLookup):
    """Lookup of ids [...] in cached projections."""

    def __init__(self, projections: TitleProjections, ids: jax.Array):
        self._projected, self._rows = projections.projected, projections.row_indices(ids)

    def through(self, name: str, kernel: jax.Array) -> jax.Array:
        """Look up the projections [..., out] by the kernel `name`."""
        return embedding_lookup(self._projected[name], self._rows)
