"""Gradients of the heads' losses with respect to the parameters that several heads read.

A negative cosine of the gradients of two heads means that a small step for one of them is a step against the
other. The losses are those of the validation: without weights of the objective, dropout and noise.

Axis letters: T heads, N batches.
"""

from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import Rows
from jaxrec.evaluation.scorers import QueryRunner
from jaxrec.models.layers.dense import at_least_float32
from jaxrec.runtime.mesh import AXIS, as_global_arrays
from jaxrec.tasks.base import Task

BATCHES = 32
_FEWEST_ROWS = 64  # of a batch: the gradients of fewer are mostly noise


def check_heads(task: Task) -> None:
    """Raise InputError unless the gradients of two or more heads can be computed."""
    heads, name = task.compared_heads, task.config.name
    if len(heads) < 2:
        trained = f"{name!r} trains {heads[0]} alone" if heads else f"{name!r} is a next-item model"
        raise InputError(f"gradients: {trained}; allowed: a ranking model of two or more heads")
    if task.shards_titles:
        raise InputError(
            "gradients: model.item_table_sharding='split'; allowed: replicated, for the gradients of a head "
            "with respect to all rows of the table are on each device"
        )


class HeadGradients(QueryRunner):
    """Products of the heads' gradients, batch by batch, by one program for all heads.

    The memory of a batch is that of a training step without moments, and of a gradient for each head.

    Args:
        task: The task.
        table: Title features on the devices.
        rows: Query rows; BATCHES batches of at most `evaluate.batch_size` of them are read, and of no more
            than a microbatch of the training on each device.
    """

    def __init__(self, task: Task, table: TitleTable, rows: Rows) -> None:
        check_heads(task)
        devices = jax.device_count()
        most = task.config.evaluate.batch_size // devices
        most //= task.microbatches(most)
        size = min(most, max(-(-rows.rows // (BATCHES * devices)), _FEWEST_ROWS))
        super().__init__(task, table, _products_step(task), size, lambda params: params)
        self._rows = rows.head(BATCHES * self._batch_size)

    def __call__(self, params: Any) -> dict[str, Any]:
        """Return `heads`, `batches`, `batch_size`, and the statistics of `gradient_statistics`."""
        if not self._rows.rows:
            raise InputError("gradients: the dataset has no validation rows")
        runs = islice(self._run(as_global_arrays(params), self._rows), BATCHES)
        products_NxTxT = np.stack([np.asarray(products, np.float64) for products, _ in runs])
        counts = {"batches": len(products_NxTxT), "batch_size": self._batch_size}
        return {"heads": [*self._task.compared_heads], **counts} | gradient_statistics(products_NxTxT)


def _products_step(task: Task) -> Any:
    """Return a step `(params, batch, table) -> products [T, T]`, to be mapped over devices.

    The products are those of the gradients of the heads' mean losses over the rows of all devices.
    """

    def step(params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        leaves, tree = jax.tree.flatten(params)
        masks = jax.tree.leaves(task.shared_parameters(params))
        shared = [i for i, mask in enumerate(masks) if np.any(mask)]

        def losses(read: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
            of_leaf = dict(zip(shared, read, strict=True))
            whole = jax.tree.unflatten(tree, [of_leaf.get(i, x) for i, x in enumerate(leaves)])
            return task.head_losses(whole, host, table)

        loss_T, pull_back, count = jax.vjp(losses, [leaves[i] for i in shared], has_aux=True)
        # One head after another, so that the backward pass takes the memory of one.
        gradients = jax.lax.map(
            lambda of_head: pull_back(of_head)[0], jnp.eye(len(loss_T), dtype=loss_T.dtype)
        )
        gradients, count = jax.lax.psum((gradients, count), AXIS)
        kept = [jnp.where(masks[i], g, 0.0) for i, g in zip(shared, gradients, strict=True)]
        return _products(kept) / jnp.square(jnp.maximum(count, 1).astype(loss_T.dtype))

    return step


def _products(gradients: list[jax.Array]) -> jax.Array:
    """Return the inner products [T, T] of gradients [T, ...], summed over their arrays.

    All products are sums in the same order, so that equal gradients have the cosine 1.
    """

    def of_one(t: jax.Array) -> jax.Array:
        total = jnp.zeros(len(gradients[0]), at_least_float32(jnp.result_type(*gradients)))
        for g in gradients:
            g = g.reshape(*g.shape[:1], -1, g.shape[-1] if g.ndim > 1 else 1).astype(total.dtype)
            total = total + (g * g[t]).sum(2).sum(1)
        return total

    return jax.lax.map(of_one, jnp.arange(len(gradients[0])))


def gradient_statistics(products_NxTxT: np.ndarray) -> dict[str, Any]:
    """Return means over batches, with their standard errors, from the products of gradients.

    Args:
        products_NxTxT: Inner products of the heads' gradients in each batch.

    Returns:
        `cosine` [T, T] and `cosine_error` over the batches in which both gradients are not 0; `norm` [T] and
        `norm_error`. NaN where there is no such batch, or for an error a single one.
    """
    squared_NxT = np.diagonal(products_NxTxT, axis1=1, axis2=2)
    scale = np.sqrt(squared_NxT[:, :, None] * squared_NxT[:, None, :])
    cosine = np.divide(products_NxTxT, scale, out=np.full_like(scale, np.nan), where=scale > 0)
    out: dict[str, Any] = {}
    for name, values in (("cosine", cosine), ("norm", np.sqrt(squared_NxT))):
        there = np.isfinite(values)
        count = there.sum(0)
        mean = np.where(there, values, 0.0).sum(0) / np.where(count, count, np.nan)
        squares = np.where(there, np.square(values - mean), 0.0).sum(0)
        error = np.sqrt(squares / np.where(count > 1, count - 1, np.nan) / np.maximum(count, 1))
        out |= {name: mean.tolist(), f"{name}_error": error.tolist()}
    return out
