"""Title vectors (Eq. 2 and 3), and their projections, worked out once where that is cheaper."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import TITLE_ID
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.dense import Parameters, embedding_lookup
from jaxrec.models.layers.embedding import CategoryEmbedding, FeatureEncoder, select_features
from jaxrec.models.layers.sharded_embedding import NONE, ShardedEmbedding


class TitleEncoder(Parameters):
    """Title vectors (Eq. 3), F wide, and projections of them.

    The catalogue's V vectors are made once where V is fewer rows than are asked for: the same
    function either way. The vector of id 0 is zero. With a name of `split` the ids' embeddings are dealt
    to the devices of that axis, and each is looked up where it is.
    """

    features: tuple[FeatureSpec, ...]  # those declared of titles
    titles: int  # V
    reads: tuple[str, ...] = ()  # names; empty: all
    spread: float = 0.2  # of embeddings at the start
    split: str = ""

    def setup(self):
        others = tuple(f for f in self.features if f.name != TITLE_ID)
        self.id_width = sum(f.width for f in select_features(self.features, self.reads) if f.name == TITLE_ID)
        of_ids = self.titles, self.id_width, self.spread
        if self.id_width and self.split:
            self.dealt = ShardedEmbedding(self.dtype, *of_ids, self.split, name=TITLE_ID)
        elif self.id_width:
            self.id_vectors = CategoryEmbedding(self.dtype, *of_ids, name=TITLE_ID)
        self.columns = FeatureEncoder(self.dtype, others, self.reads, self.spread, name="columns")

    def vectors(self, ids: jax.Array, table: TitleTable) -> jax.Array:
        """[..., F] of ids [...]."""
        if not self.id_width:
            return self._joined([], ids, table)
        return self._joined([self.dealt(ids) if self.split else self.id_vectors(ids[..., None])], ids, table)

    def lookup_unique(self, id_U: jax.Array, table: TitleTable) -> jax.Array:
        """[U, F] of ids of `dealt.distinct`, which are looked up in one exchange: of a split table."""
        found = [self.dealt.lookup_unique(id_U)] if self.id_width else []
        return self._joined(found, jnp.where(id_U == NONE, 0, id_U), table)

    def _joined(self, parts: list[jax.Array], ids: jax.Array, table: TitleTable) -> jax.Array:
        """`parts` and the other features' vectors, [..., F]."""
        x = self.columns(jnp.take(table.categories, ids, axis=0), jnp.take(table.numbers, ids, axis=0))
        x = jnp.concatenate([*parts, x], axis=-1)
        return jnp.where((ids > 0)[..., None], x, jnp.zeros((), x.dtype))

    def rows(self, ids: jax.Array, table: TitleTable) -> "TitleLookup":
        """The title vectors of `ids`, to be projected; ids beyond V come back as NaN."""
        if self.titles < ids.size and not self.split:
            return TitleLookup(self.vectors(jnp.arange(self.titles), table), ids)
        return TitleLookup(self.vectors(ids, table), None)


class TitleProjections(NamedTuple):
    """Titles' vectors through each kernel, [V, out], by the kernel's name: of every title, or of some."""

    projected: dict[str, jax.Array]
    id_U: jax.Array | None = None  # of `dealt.distinct`: which titles they are of; None: title i's is row i

    def rows(self, ids: jax.Array) -> jax.Array:
        """Which rows are those of `ids`."""
        if self.id_U is None:
            return ids
        return jnp.searchsorted(self.id_U, ids.reshape(-1)).reshape(ids.shape)


class TitleLookup:
    """Vectors of titles to be projected: looked up in the catalogue's, or made row by row."""

    def __init__(self, vectors: jax.Array, ids: jax.Array | None):
        self._vectors, self._ids = vectors, ids

    def through(self, name: str, kernel: jax.Array) -> jax.Array:
        """[..., out]: each title's vector times kernel [F, out], which `name` stands for."""
        projected = self._vectors @ kernel
        return projected if self._ids is None else embedding_lookup(projected, self._ids)


class ProjectedLookup(TitleLookup):
    """The same, where the catalogue's projections were worked out before."""

    def __init__(self, catalogue: TitleProjections, ids: jax.Array):
        self._projected, self._rows = catalogue.projected, catalogue.rows(ids)

    def through(self, name: str, kernel: jax.Array) -> jax.Array:
        return embedding_lookup(self._projected[name], self._rows)
