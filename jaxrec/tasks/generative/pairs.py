"""Objective of pairs for a generative model: log-ratios of codes to the model that the training started with.

Positions with a pair are trained before those without one. There is no dropout, whose noise is no difference
of models.

Axis letters: B rows, L positions of a window, P trained positions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Post
from jaxrec.core.batch import HostBatch, TitleTrie
from jaxrec.losses.preference import Pairs, preference_loss
from jaxrec.models.generative.generator import Generator
from jaxrec.models.layers.dense import applied
from jaxrec.models.next_item import ItemWindow
from jaxrec.tasks.generative.places import draw_places
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.outputs import Sums
from jaxrec.tasks.preference import compared, inputs
from jaxrec.tasks.preference.compared import FixedPolicy


class PairPlaces(NamedTuple):
    """Positions of windows that train the decoder, with pairs.

    Attributes:
        window: Windows of L positions.
        position: [B, P] int32 positions of the window.
        title: [B, 3, P] int32 next titles, winners and losers, 0 for none.
    """

    window: ItemWindow
    position: jax.Array
    title: jax.Array


def pair_places(task: NextItemTask, host: HostBatch, key_Bx2: jax.Array) -> PairPlaces:
    """Draw the positions that train the decoder, those with a pair first.

    Args:
        task: The task, for its config and the layout of its rows.
        host: Packed rows with pairs.
        key_Bx2: uint32 keys of the rows.
    """
    x = inputs.training(host.words, task.layout, task.config, task.size, key_Bx2)
    assert x.winner is not None and x.loser is not None  # `check` has passed
    target_BxL = jnp.where(jnp.asarray(host.valid)[:, None], x.windows.target, 0)
    places = draw_places(target_BxL, task.config.codes.places, key_Bx2, x.winner > 0)
    title_Bx3xL = jnp.stack([target_BxL, x.winner, x.loser], axis=1)
    title_Bx3xP = jnp.take_along_axis(title_Bx3xL, places.position[:, None], axis=2)
    return PairPlaces(x.windows.window, places.position, title_Bx3xP)


def pair_loss(
    model: Generator, post: Post, params: Any, reference: FixedPolicy, x: PairPlaces, projections: Any,
    trie: TitleTrie,
) -> tuple[jax.Array, Sums]:  # fmt: skip
    """Return the summed objective of pairs, a scalar, and sums of metrics.

    Args:
        model: The model.
        post: Settings of the objective.
        params: Parameters, which gradients reach.
        reference: Model that the training started with.
        x: Positions with pairs.
        projections: From `Task.project_titles`.
        trie: Trie of all titles.
    """
    B, _, P = x.title.shape

    def log_pi(params: Any, projections: Any) -> jax.Array:
        position_Bx3P = jnp.tile(x.position, (1, 3))
        out = applied(Generator.chosen, model, params)(
            x.window, projections, trie, position_Bx3P, x.title.reshape(B, 3 * P), None, None
        )
        return out.log_pi.reshape(B, 3, P)

    own = log_pi(params, projections)
    ratio = own - jax.lax.stop_gradient(log_pi(reference.params, reference.projections))
    chosen = x.title[:, 0] > 0
    pairs = Pairs(ratio[:, 1] - ratio[:, 2], own[:, 0], chosen & (x.title[:, 1] > 0), chosen)
    objective = preference_loss(pairs, post)
    nll = -jnp.where(chosen, own[:, 0], 0.0).sum()
    sums = {"loss": (objective.total, objective.weight.sum()), "nll": (nll, chosen.sum())}
    return objective.total, sums | compared.pair_metrics(pairs, own[:, 1], own[:, 2])
