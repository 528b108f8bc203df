"""Embedding table sharded over devices, with lookup by all-to-all exchanges.

The whole table is an array [SLOTS, J, W]. The row of an id is in slot reversed(id mod SLOTS) at depth
id // SLOTS, where reversed() reverses the bits of a number. Devices, a power of two, store equal ranges of
slots. Because of the reversal, device d of n stores exactly the ids with id mod n = reversed(d), so any run
of consecutive ids is divided equally. The array has the same shape for any number of devices, and no row
moves when a table is saved or restored on fewer devices. Ids that are appended add depths, and no row moves.

The result of a lookup does not depend on how ids and popularity are related; only the balance of the devices
does. The first preparation assigns ids by popularity, so that no device gets all popular titles. The popular
titles among appended ids may have any id mod n, which is as even as random ids are. If most ids of a batch
have the same id mod n, an exchange takes more rounds.

Each device looks up N unique ids, of which about N / n are stored on each device. Two `all_to_all`s send
about N ids and return about N rows; two more send the gradients. The bytes grow with the batch and not with
the table.

Axis letters: W width, J depth, U (or N) unique ids of a device.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.ids import SHARD_SLOTS, SHARDED
from jaxrec.models.layers.dense import Parameters, at_least_float32
from jaxrec.models.layers.rng import uniform_at

NO_ID = np.iinfo(np.int32).max  # padding of unique ids
_BITS = SHARD_SLOTS.bit_length() - 1
_REVERSED = np.array([int(f"{i:0{_BITS}b}"[::-1], 2) for i in range(SHARD_SLOTS)], np.int32)


def shape(rows: int, width: int) -> tuple[int, int, int]:
    """Shape (SHARD_SLOTS, rows per slot, width) of the whole table.

    Some rows after the last id may be unused.

    Args:
        rows: number of ids.
        width: width of a row.
    """
    return SHARD_SLOTS, -(-rows // SHARD_SLOTS), width


def row_positions(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return slot and depth of each id in the whole table, both [rows]."""
    ids = np.arange(rows)
    return _REVERSED[ids % SHARD_SLOTS], ids // SHARD_SLOTS


def in_order(table: jax.Array, rows: int) -> jax.Array:
    """Return the rows [rows, W] of the whole table in the order of ids.

    Args:
        table: the whole table, of the shape `shape(rows, W)`.
        rows: number of ids.
    """
    ids = jnp.arange(rows)
    return table[_slot(ids), ids // SHARD_SLOTS]


def _slot(ids: jax.Array) -> jax.Array:
    return jnp.asarray(_REVERSED)[ids % SHARD_SLOTS]


def sharded_init(std: float, size: int):
    """Return an initializer of the whole table, [SHARD_SLOTS, rows per slot, W].

    Each id gets the row that `dense.uniform_init` gives it in a table [size, W].

    Args:
        std: standard deviation of the rows.
        size: number of ids; unused rows are 0.
    """

    def init(key: jax.Array, shape: tuple[int, int, int], dtype) -> jax.Array:
        slot, depth, element = (jax.lax.broadcasted_iota(jnp.uint32, shape, i) for i in range(3))
        id_ = depth * SHARD_SLOTS + jnp.asarray(_REVERSED).astype(jnp.uint32)[slot]
        words = jax.random.key_data(key).reshape(-1)[-2:]
        uniform = uniform_at(id_ * np.uint32(shape[2]) + element, words, 0, dtype)
        in_use = id_ < size
        return jnp.where(in_use, (2.0 * uniform - 1.0) * (3.0**0.5 * std), jnp.zeros((), dtype))

    return init


class ShardedEmbedding(Parameters):
    """Row-sharded embedding table; id 0 has a zero row.

    Inside a step over the devices of `axis`, each with its shard of the table, a lookup is an exchange. With
    the whole table, as on one device, a lookup is local. `self.table` is the shard of this device.

    Attributes:
        size: Number of ids.
        width: Width W of a row.
        init_std: Standard deviation of the initial rows.
        axis: Mesh axis.
    """

    size: int
    width: int
    init_std: float
    axis: str

    def setup(self):
        """Create the table, or read the shard of this device."""
        self.table: jax.Array
        if self.has_variable("params", SHARDED):
            self.table = self.get_variable("params", SHARDED)  # `param` would reject the shape of a shard
        else:
            dtype = at_least_float32(self.dtype)
            init = sharded_init(self.init_std, self.size)
            self.table = self.param(SHARDED, init, shape(self.size, self.width), dtype)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Look up the rows [..., width] of ids [...]."""
        id_U = unique_ids(ids)
        rows = self.lookup_unique(id_U)
        return jnp.take(rows, jnp.searchsorted(id_U, ids.reshape(-1)).reshape(ids.shape), axis=0)

    def lookup_unique(self, id_U: jax.Array) -> jax.Array:
        """Look up the rows [U, width] of ids from `unique_ids`; 0 for NO_ID.

        Rows and gradients are sent in the compute dtype, which is the dtype of their use. Gradients are
        summed in the dtype of the table.
        """
        return fetch(self.table, jnp.where(id_U > 0, id_U, NO_ID), self.axis, self.dtype)


def unique_ids(ids: jax.Array) -> jax.Array:
    """Return the unique ids in ascending order, padded by NO_ID to `ids.size`.

    Args:
        ids: integers of any shape.

    Returns:
        [ids.size] int32.
    """
    return jnp.unique(ids, size=ids.size, fill_value=NO_ID)


class _LocalShard(NamedTuple):
    """Shape of a device's shard, and the number of devices."""

    devices: int
    depth: int  # rows per slot
    rows: int

    def local_row(self, ids: jax.Array, axis: str) -> jax.Array:
        """Return the rows of ids in this device's shard; out of range for NO_ID."""
        first_slot = self.rows // self.depth * (jax.lax.axis_index(axis) if self.devices > 1 else 0)
        row = (_slot(ids) - first_slot) * self.depth + ids // SHARD_SLOTS
        return jnp.where(ids == NO_ID, self.rows, row)

    def device(self, ids: jax.Array) -> jax.Array:
        """Return the device that stores each id; out of range for NO_ID."""
        return jnp.where(ids == NO_ID, self.devices, _slot(ids) // (SHARD_SLOTS // self.devices))


def _local_shard(shape: tuple[int, ...]) -> _LocalShard:
    slots, depth, _ = shape
    return _LocalShard(SHARD_SLOTS // slots, depth, slots * depth)


class _ExchangePlan(NamedTuple):
    """Plan of an exchange: the send slot and round of each id."""

    capacity: int  # ids for each device in a round
    rounds: jax.Array
    slot_N: jax.Array  # of an id among the [devices * capacity] send slots of its round
    round_N: jax.Array

    def slots_in_round(self, r: jax.Array, devices: int) -> jax.Array:
        """Return the send slots [N] of the ids in round r; out of range for other ids."""
        return jnp.where(self.round_N == r, self.slot_N, devices * self.capacity)


def _plan_exchange(device_N: jax.Array, devices: int, axis: str) -> _ExchangePlan:
    """Plan the exchange of ids that are stored on `device_N`.

    The capacity of a round is N / devices ids for each device plus four standard deviations. Because of the
    distribution of ids, a second round is needed only if most ids of a batch happen to be on one device.
    """
    N = len(device_N)
    mean = -(-N // devices)
    capacity = min(N, mean + 4 * int(np.ceil(mean**0.5)))
    order = jnp.argsort(device_N, stable=True)
    first = jnp.searchsorted(device_N[order], jnp.arange(devices + 1))
    rank_N = jnp.zeros(N, jnp.int32).at[order].set((jnp.arange(N) - first[device_N[order]]).astype(jnp.int32))
    longest = jnp.where(device_N < devices, rank_N, -1).max() + 1
    # All devices need the same number of rounds: a collective waits for all of them.
    rounds = (jax.lax.pmax(longest, axis) + capacity - 1) // capacity
    return _ExchangePlan(
        capacity,
        rounds,
        device_N * capacity + rank_N % capacity,
        jnp.where(device_N < devices, rank_N // capacity, -1),
    )


def _swap(x: jax.Array, axis: str) -> jax.Array:
    """Exchange blocks of [devices * capacity, ...]: block d goes to device d."""
    return jax.lax.all_to_all(x, axis, 0, 0, tiled=True)


def _receive_ids(id_U: jax.Array, slot_U: jax.Array, capacity: int, devices: int, axis: str) -> jax.Array:
    """Exchange ids; return the ids [devices * capacity] to look up on this device."""
    return _swap(jnp.full(devices * capacity, NO_ID, id_U.dtype).at[slot_U].set(id_U, mode="drop"), axis)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def fetch(table: jax.Array, id_U: jax.Array, axis: str, dtype: str) -> jax.Array:
    """Look up rows of a sharded table.

    The gradient of `table` is the sum over all devices for the rows of this device's shard. It must not be
    summed over devices again.

    Args:
        table: the shard [slots, J, W] of this device.
        id_U: int32 ids, unique except NO_ID.
        axis: mesh axis.
        dtype: dtype of the result, in which rows and gradients are sent.

    Returns:
        Rows [U, W]; 0 for NO_ID.
    """
    shard, width = _local_shard(table.shape), table.shape[2]
    rows = table.reshape(shard.rows, width)
    if shard.devices == 1:
        return rows.at[shard.local_row(id_U, axis)].get(mode="fill", fill_value=0).astype(dtype)
    plan = _plan_exchange(shard.device(id_U), shard.devices, axis)

    def exchange(r: jax.Array, result: jax.Array) -> jax.Array:
        slot_U = plan.slots_in_round(r, shard.devices)
        ids = _receive_ids(id_U, slot_U, plan.capacity, shard.devices, axis)
        sent = rows.at[shard.local_row(ids, axis)].get(mode="fill", fill_value=0).astype(dtype)
        return result + _swap(sent, axis).at[slot_U].get(mode="fill", fill_value=0)

    return jax.lax.fori_loop(0, plan.rounds, exchange, jnp.zeros((len(id_U), width), dtype))


def _fetch_forward(table: jax.Array, id_U: jax.Array, axis: str, dtype: str) -> tuple[jax.Array, tuple]:
    # Residuals are arrays: an empty array carries the shape of the table.
    return fetch(table, id_U, axis, dtype), (id_U, jnp.zeros((0, *table.shape), table.dtype))


def _fetch_backward(axis: str, dtype: str, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, None]:
    id_U, (_, *table_shape) = residuals[0], residuals[1].shape
    shard, width = _local_shard(tuple(table_shape)), gradient.shape[1]
    rows = jnp.zeros((shard.rows, width), residuals[1].dtype)
    if shard.devices == 1:
        own = gradient.astype(rows.dtype)
        return rows.at[shard.local_row(id_U, axis)].add(own, mode="drop").reshape(table_shape), None
    plan = _plan_exchange(shard.device(id_U), shard.devices, axis)

    def exchange(r: jax.Array, rows: jax.Array) -> jax.Array:
        slot_U = plan.slots_in_round(r, shard.devices)
        ids = _receive_ids(id_U, slot_U, plan.capacity, shard.devices, axis)
        empty = jnp.zeros((shard.devices * plan.capacity, width), gradient.dtype)
        received = _swap(empty.at[slot_U].set(gradient, mode="drop"), axis)
        return rows.at[shard.local_row(ids, axis)].add(received.astype(rows.dtype), mode="drop")

    return jax.lax.fori_loop(0, plan.rounds, exchange, rows).reshape(table_shape), None


fetch.defvjp(_fetch_forward, _fetch_backward)
