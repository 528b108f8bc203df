"""Vectors of the titles that contexts name, such as the title of a page; a learned vector for none.

Axis letters: B examples, F width of a title vector.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec.core.ids import PAD
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.layers.dense import Parameters, broadcast, kernel_init, small_init
from jaxrec.models.layers.embedding import select_features
from jaxrec.models.layers.title_encoder import TitleLookup


class PageTitles(Parameters):
    """Projected title vectors of features of kind "title", each followed by its presence.

    A feature of width W has W - 1 columns of the projection, or of the learned vector where no title is
    named, and 1 or 0. A title that is not in the catalogue has the vector of the unknown title.

    Attributes:
        features: Features of the context, in the order of their columns.
        feature_names: Names of the selected features; empty: all.
        title: Width F of a title vector.
    """

    features: tuple[FeatureSpec, ...]
    feature_names: tuple[str, ...]
    title: int

    def setup(self):
        """Create the parameters."""
        of_title, of_none, columns, column = {}, {}, {}, 0
        for f in self.features:
            if f.kind == "title" and f in select_features(self.features, self.feature_names):
                name, width = f"source_{f.name}", f.width - 1
                of_title[name] = self.weight(f"kernel_{f.name}", kernel_init, self.title, width)
                of_none[name] = self.weight(f"none_{f.name}", small_init, width)
                columns[name] = column
            column += 0 if f.kind == "number" else f.columns
        self.of_title, self.of_none, self.columns = of_title, of_none, columns

    @property
    def kernels(self) -> dict[str, jax.Array]:
        """Kernel [F, W - 1] of each feature, by its name in `TitleProjections`."""
        return dict(self.of_title)

    def __call__(self, categories: jax.Array, lookup: Callable[[jax.Array], TitleLookup]) -> jax.Array:
        """Return the vectors of all features, [B, sum of widths].

        Args:
            categories: [B, columns] ids of the context.
            lookup: Function from title ids [B] to their vectors.
        """
        vectors = []
        for name, kernel in self.of_title.items():
            id_B = categories[:, self.columns[name]]
            x_BxW = lookup(id_B).through(name, kernel)
            is_present = (id_B > PAD)[:, None]
            x_BxW = jnp.where(is_present, x_BxW, broadcast(self.of_none[name], x_BxW.shape))
            vectors += [x_BxW, is_present.astype(x_BxW.dtype)]
        return jnp.concatenate(vectors, axis=-1)


def source_ids(categories: jax.Array, features: tuple[FeatureSpec, ...]) -> jax.Array:
    """Return the title ids [B, at least 1] of contexts that have features of kind "title".

    Args:
        categories: [B, columns] ids of the context.
        features: Features of the context, in the order of their columns.
    """
    kinds = [f.kind for f in features if f.kind != "number" for _ in range(f.columns)]
    return categories[:, jnp.array([i for i, kind in enumerate(kinds) if kind == "title"])]
