"""Title tables of a run: features of all titles, their maturity, and the titles whose ids a step masks.

Cold masking replaces the id of a title by the learned unknown row, in histories and among candidates alike,
for a whole step. The model then learns what metadata tell of a title, as it must for a title that was
launched since the training (DropoutNet; Volkovs, Yu & Poutanen, NeurIPS 2017).
"""

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Config, Model
from jaxrec.core.batch import TitleTable
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.row_format import Layout
from jaxrec.data.loading.title_codes import table_with_codes
from jaxrec.data.loading.title_maturity import maturity_of, reads_maturity
from jaxrec.data.storage.arrays import Arrays
from jaxrec.models.layers import rng

_HALF_PLAYS = 20  # plays at which the probability of masking is halfway from that of new titles to the least
_LAYER = rng.layer_id(("cold_masking",))


def title_table(arrays: Arrays, layout: Layout, config: Config) -> TitleTable:
    """Return the title table of a run on the host.

    Args:
        arrays: Arrays of the catalogue.
        layout: Layout of the rows.
        config: Config of the run.
    """
    table = table_with_codes(arrays, config)
    if not reads_maturity(config):
        return table
    return table._replace(maturity=maturity_of(arrays, layout, config))


def empty_table(layout: Layout, config: Config) -> TitleTable:
    """Return a title table of zeros, which gives the shapes for `Task.init_params`."""
    titles, columns = layout.num_titles, layout.columns
    return TitleTable(
        jnp.zeros((titles, columns("title", "category")), jnp.int32),
        jnp.zeros((titles, columns("title", "number")), jnp.float32),
        maturity=jnp.zeros((titles, 2), jnp.float32) if reads_maturity(config) else None,
    )


def masking_probability(model: Model, plays: jax.Array) -> jax.Array:
    """Return the probability [...] that a title's id is masked, by its plays [...].

    It falls from `cold_masking_new` without plays to `cold_masking`, halfway at 20 plays.
    """
    fall = _HALF_PLAYS / (_HALF_PLAYS + plays)
    return model.cold_masking + (model.cold_masking_new - model.cold_masking) * fall


def masked_table(table: TitleTable, config: Config, step: jax.Array) -> TitleTable:
    """Return the title table of a training step, with the titles whose ids are masked.

    A title is masked or not for the whole step, by a draw of (`train.seed`, step, title).

    Args:
        table: Title table of the run.
        config: Config of the run.
        step: Scalar int32, the number of completed steps.
    """
    if not config.model.cold_masking_new:
        return table
    id_V = jnp.arange(len(table.categories))
    key_Vx2 = rng.row_keys(config.train.seed, step, id_V)
    probability_V = masking_probability(config.model, jnp.expm1(table.maturity[:, 1]))
    drawn_V = rng.uniform((), key_Vx2, _LAYER) < probability_V
    return table._replace(masked=drawn_V & (id_V >= FIRST_TITLE))
