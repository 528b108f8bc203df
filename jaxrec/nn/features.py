"""From ids and numbers to vectors: titles (Eq. 2 and 3), customers, contexts, and the history's rows.

Id 0 is padding everywhere: it looks nothing up, adds nothing and gets no gradient. Number columns
arrive standardised. A number becomes ReLU(Dense(width)), so that a threshold in it can be learned.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrec.nn.dealt import NONE, DealtRows
from jaxrec.nn.layers import (
    Dense,
    Parameters,
    embedding_init,
    kernel_init,
    looked_up,
    product,
    repeated,
    spread,
)
from jaxrec.schema import TITLE_ID, FeatureSpec, History, TitleTable

# Buckets of the time since a play, two to each factor of e: each ends 1.65 times as long ago as the one
# before, for a sitting's minutes, a day and a season differ by factors. The last begins 69 years ago.
GAPS = 44


def gap(age: jax.Array) -> jax.Array:
    """The bucket, below GAPS, of a title last played `age` = log1p(seconds) ago."""
    return jnp.clip(jnp.floor(2.0 * age), 0, GAPS - 1).astype(jnp.int32)


def read(features: Sequence[FeatureSpec], reads: tuple[str, ...]) -> tuple[FeatureSpec, ...]:
    """The features whose names are among `reads`; all of them where that is empty."""
    return tuple(f for f in features if not reads or f.name in reads)


class Categories(Parameters):
    """Ids [..., columns] to the mean [..., width] of their embeddings, over the entries that are not 0."""

    size: int
    width: int
    spread: float = 0.2  # standard deviation of the embeddings at the start

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        table = self.weight("embedding", spread(self.spread), self.size, self.width)
        given = (ids > 0)[..., None]
        rows = jnp.where(given, looked_up(table, ids), jnp.zeros((), table.dtype))
        if ids.shape[-1] == 1:
            return rows[..., 0, :]
        return rows.sum(-2) / jnp.maximum(given.sum(-2), 1).astype(table.dtype)


class Columns(Parameters):
    """The vectors of `features`, concatenated in their order: categories [..., c], numbers [..., n].

    Columns are consumed in order, those of numbers apart from the others; those of features not among
    `reads` are skipped. Without features, [..., 0].
    """

    features: tuple[FeatureSpec, ...]
    reads: tuple[str, ...] = ()  # names; empty: all
    spread: float = 0.2  # of embeddings at the start

    @nn.compact
    def __call__(self, categories: jax.Array, numbers: jax.Array) -> jax.Array:
        parts, category, number = [jnp.zeros((*categories.shape[:-1], 0), self.dtype)], 0, 0
        wanted = read(self.features, self.reads)
        for f in self.features:
            if f.kind == "number":
                x = numbers[..., number : number + f.columns]
                if f in wanted:
                    parts.append(nn.relu(Dense(self.dtype, f.width, name=f.name)(x)))
                number += f.columns
            else:
                ids = categories[..., category : category + f.columns]
                if f in wanted:
                    parts.append(Categories(self.dtype, f.size, f.width, self.spread, name=f.name)(ids))
                category += f.columns
        return jnp.concatenate(parts, axis=-1)


class TitleVectors(Parameters):
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
        self.id_width = sum(f.width for f in read(self.features, self.reads) if f.name == TITLE_ID)
        of_ids = self.titles, self.id_width, self.spread
        if self.id_width and self.split:
            self.dealt = DealtRows(self.dtype, *of_ids, self.split, name=TITLE_ID)
        elif self.id_width:
            self.id_vectors = Categories(self.dtype, *of_ids, name=TITLE_ID)
        self.columns = Columns(self.dtype, others, self.reads, self.spread, name="columns")

    def vectors(self, ids: jax.Array, table: TitleTable) -> jax.Array:
        """[..., F] of ids [...]."""
        if not self.id_width:
            return self._joined([], ids, table)
        return self._joined([self.dealt(ids) if self.split else self.id_vectors(ids[..., None])], ids, table)

    def of_distinct(self, id_U: jax.Array, table: TitleTable) -> jax.Array:
        """[U, F] of ids of `dealt.distinct`, which are looked up in one exchange: of a split table."""
        found = [self.dealt.of_distinct(id_U)] if self.id_width else []
        return self._joined(found, jnp.where(id_U == NONE, 0, id_U), table)

    def _joined(self, parts: list[jax.Array], ids: jax.Array, table: TitleTable) -> jax.Array:
        """`parts` and the other features' vectors, [..., F]."""
        x = self.columns(jnp.take(table.categories, ids, axis=0), jnp.take(table.numbers, ids, axis=0))
        x = jnp.concatenate([*parts, x], axis=-1)
        return jnp.where((ids > 0)[..., None], x, jnp.zeros((), x.dtype))

    def rows(self, ids: jax.Array, table: TitleTable) -> "TitleRows":
        """The title vectors of `ids`, to be projected; ids beyond V come back as NaN."""
        if self.titles < ids.size and not self.split:
            return TitleRows(self.vectors(jnp.arange(self.titles), table), ids)
        return TitleRows(self.vectors(ids, table), None)


class Catalogue(NamedTuple):
    """Titles' vectors through each kernel, [V, out], by the kernel's name: of every title, or of some."""

    projected: dict[str, jax.Array]
    id_U: jax.Array | None = None  # of `dealt.distinct`: which titles they are of; None: title i's is row i

    def rows(self, ids: jax.Array) -> jax.Array:
        """Which rows are those of `ids`."""
        if self.id_U is None:
            return ids
        return jnp.searchsorted(self.id_U, ids.reshape(-1)).reshape(ids.shape)


class TitleRows:
    """Vectors of titles to be projected: looked up in the catalogue's, or made row by row."""

    def __init__(self, vectors: jax.Array, ids: jax.Array | None):
        self._vectors, self._ids = vectors, ids

    def through(self, name: str, kernel: jax.Array) -> jax.Array:
        """[..., out]: each title's vector times kernel [F, out], which `name` stands for."""
        projected = self._vectors @ kernel
        return projected if self._ids is None else looked_up(projected, self._ids)


class ProjectedRows(TitleRows):
    """The same, where the catalogue's projections were worked out before."""

    def __init__(self, catalogue: Catalogue, ids: jax.Array):
        self._projected, self._rows = catalogue.projected, catalogue.rows(ids)

    def through(self, name: str, kernel: jax.Array) -> jax.Array:
        return looked_up(self._projected[name], self._rows)


def _interactions(features: tuple[FeatureSpec, ...], history: History) -> jax.Array:
    """[R, L, n]: the declared interaction features, brought to about -1 to 1."""
    scaled = {
        "completion": lambda: 2.0 * history.completion - 1.0,
        "sessions": lambda: jnp.log1p(history.sessions) - 1.0,
        "age": lambda: (history.age - 12.0) / 4.0,  # e**12 s is two days; e**16, three months
    }
    columns = [scaled[f.name]() for f in features]
    return jnp.stack(columns, axis=-1) if columns else jnp.zeros((*history.title.shape, 0))


# What a title's position in its history is, [R, L], to look a vector up with.
POSITIONS: dict[str, Callable[[History], jax.Array] | None] = {
    "index": lambda history: history.newer,
    "time_gap": lambda history: gap(history.age),
    "none": None,
}


class HistoryRows(Parameters):
    """The experts' input x [R, L, D] (Eq. 4): a projection of title, interaction and context, plus position.

    Summed from the parts' projections, which is the Dense layer of their concatenation with the
    context worked out once a request. A position is learned: "index" counts from the newest, so neither
    the amount of padding nor a row's other histories shift it; "time_gap" is the `gap` since the title's
    last play; "none" leaves the order out. Padding's places are zero, whatever they held.
    """

    features: tuple[FeatureSpec, ...]  # those read of interactions
    title: int  # width of a title's vector
    context: int  # width of the context's
    width: int
    positions: int  # of the longest history
    kind: str = "index"  # of position, one of POSITIONS
    target: bool = False  # whether candidates join the history

    def setup(self):
        self.numbers = [Dense(self.dtype, f.width, name=f.name) for f in self.features]
        interaction = sum(f.width for f in self.features)
        kernel = self.weight("kernel", kernel_init, self.title + interaction + self.context, self.width)
        self.of_title, self.of_interaction, self.of_context = jnp.split(
            kernel, [self.title, self.title + interaction]
        )
        if POSITIONS[self.kind] is not None:
            count = GAPS if self.kind == "time_gap" else self.positions
            self.position = self.weight("position", embedding_init, count, self.width)
        if self.target:
            self.of_target = self.weight("target", embedding_init, self.width)
        self.bias = self.weight("bias", nn.initializers.zeros, self.width)

    def candidates(self, titles: TitleRows, context_BxF: jax.Array) -> jax.Array:
        """x [B, C, D] of candidates that join the history: with a learned position of their own, and without
        interactions, of which there are none yet."""
        of_request_BxD = context_BxF @ self.of_context
        of_request_BxD = of_request_BxD + repeated(self.bias + self.of_target, of_request_BxD.shape)
        x_BxCxD = titles.through("history", self.of_title)
        return x_BxCxD + repeated(of_request_BxD[:, None], x_BxCxD.shape)

    def __call__(self, history: History, titles: TitleRows, context_BxF: jax.Array) -> jax.Array:
        numbers = _interactions(self.features, history).astype(self.dtype)
        parts = [nn.relu(dense(numbers[..., i : i + 1])) for i, dense in enumerate(self.numbers)]
        interaction_RxLxF = jnp.concatenate([numbers[..., :0], *parts], axis=-1)
        x = titles.through("history", self.of_title) + product(interaction_RxLxF, self.of_interaction)
        of_request_BxD = context_BxF @ self.of_context
        of_request_BxD = of_request_BxD + repeated(self.bias, of_request_BxD.shape)
        x = x + looked_up(of_request_BxD, history.example, mode="clip")
        place = POSITIONS[self.kind]
        if place is not None:
            x = x + looked_up(self.position, place(history), mode="clip")
        return jnp.where((history.title > 0)[..., None], x, jnp.zeros((), x.dtype))
