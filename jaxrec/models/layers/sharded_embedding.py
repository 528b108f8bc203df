"""Rows of a table dealt round robin to devices: looked up, and their gradients sent home, by exchanges.

The whole table is [PLACES, J, W]: id's row lies at place reversed(id mod PLACES) and depth id // PLACES.
Devices, a power of two, hold equal ranges of the places, and since those are numbered by their bits in
reverse, device d of n holds just the ids with id mod n = reversed(d): ids come by popularity, and no device
has the head. The array has one shape however many devices there are, and none of them has to move a row to
save it or to go on as one of fewer.

Of N ids that a device asks for, each once, about N / n are at home on each device. They are asked for and
come back by two `all_to_all`s of about N ids and N rows, and gradients go home by another two: bytes that
grow with the batch and not with the table.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.ids import SHARD_SLOTS, SHARDED
from jaxrec.models.layers.dense import Parameters, at_least_float32
from jaxrec.models.layers.rng import uniform_at

NONE = np.iinfo(np.int32).max  # no id
_BITS = SHARD_SLOTS.bit_length() - 1
_REVERSED = np.array([int(f"{i:0{_BITS}b}"[::-1], 2) for i in range(SHARD_SLOTS)], np.int32)


def shape(rows: int, width: int) -> tuple[int, int, int]:
    """Of the whole table, which may hold a few rows more, to which no id leads."""
    return SHARD_SLOTS, -(-rows // SHARD_SLOTS), width


def in_order(table: jax.Array, rows: int) -> jax.Array:
    """[rows, W]: the whole table's rows by id."""
    ids = jnp.arange(rows)
    return table[_place(ids), ids // SHARD_SLOTS]


def _place(ids: jax.Array) -> jax.Array:
    return jnp.asarray(_REVERSED)[ids % SHARD_SLOTS]


def sharded_init(std: float, size: int):
    """An initializer of the whole table: what `layers.spread` gives a table [size, W], row by row."""

    def init(key: jax.Array, shape: tuple[int, int, int], dtype) -> jax.Array:
        place, depth, element = (jax.lax.broadcasted_iota(jnp.uint32, shape, i) for i in range(3))
        number = depth * SHARD_SLOTS + jnp.asarray(_REVERSED).astype(jnp.uint32)[place]
        words = jax.random.key_data(key).reshape(-1)[-2:]
        drawn = uniform_at(number * np.uint32(shape[2]) + element, words, 0, dtype)
        there = number < size
        return jnp.where(there, (2.0 * drawn - 1.0) * (3.0**0.5 * std), jnp.zeros((), dtype))

    return init


class ShardedEmbedding(Parameters):
    """Rows [..., width] of ids [...]; zero for id 0. `table` is what this device holds of the whole.

    Within a step over the devices of `axis`, each with its share of the table, an exchange; where the table
    is whole, as on one device, a look-up.
    """

    size: int  # ids
    width: int
    spread: float  # standard deviation of the rows at the start
    axis: str

    def setup(self):
        self.table: jax.Array
        if self.has_variable("params", SHARDED):
            self.table = self.get_variable("params", SHARDED)  # a share of it, which `param` would not take
        else:
            dtype = at_least_float32(self.dtype)
            init = sharded_init(self.spread, self.size)
            self.table = self.param(SHARDED, init, shape(self.size, self.width), dtype)

    def __call__(self, ids: jax.Array) -> jax.Array:
        id_U = unique_ids(ids)
        rows = self.lookup_unique(id_U)
        return jnp.take(rows, jnp.searchsorted(id_U, ids.reshape(-1)).reshape(ids.shape), axis=0)

    def lookup_unique(self, id_U: jax.Array) -> jax.Array:
        """Rows [U, width] of ids of `distinct`; zero where there is none. Rows and gradients travel in the
        compute's dtype, which is theirs in any case, and gradients are added up in the table's."""
        return fetch(self.table, jnp.where(id_U > 0, id_U, NONE), self.axis, self.dtype)


def unique_ids(ids: jax.Array) -> jax.Array:
    """[N] the ids of any shape, each once and ascending, then NONE: as many as there were."""
    return jnp.unique(ids, size=ids.size, fill_value=NONE)


class _LocalShare(NamedTuple):
    """What a device is of `devices`, and what it holds."""

    devices: int
    depth: int  # rows at a place
    rows: int

    def local(self, ids: jax.Array, axis: str) -> jax.Array:
        """The row in this device's share of ids at home on it; past the last for NONE."""
        first = self.rows // self.depth * (jax.lax.axis_index(axis) if self.devices > 1 else 0)
        row = (_place(ids) - first) * self.depth + ids // SHARD_SLOTS
        return jnp.where(ids == NONE, self.rows, row)

    def home(self, ids: jax.Array) -> jax.Array:
        """The device that holds each id; one past the last for NONE."""
        return jnp.where(ids == NONE, self.devices, _place(ids) // (SHARD_SLOTS // self.devices))


def _local_share(shape: tuple[int, ...]) -> _LocalShare:
    places, depth, _ = shape
    return _LocalShare(SHARD_SLOTS // places, depth, places * depth)


class _Exchange(NamedTuple):
    """Who is asked for what: `room` ids of each device in a round, in as many rounds as it takes."""

    room: int
    rounds: jax.Array
    slot_N: jax.Array  # of an id among the rounds' [devices * room] slots
    round_N: jax.Array

    def at(self, r: jax.Array, devices: int) -> jax.Array:
        """[N] slots of the ids of round r; past the last of the others."""
        return jnp.where(self.round_N == r, self.slot_N, devices * self.room)


def _exchange(home_N: jax.Array, devices: int, axis: str) -> _Exchange:
    """One round has room for a share of N / devices on each device and four standard deviations more: as ids
    are dealt, another is needed where few titles are of a kind that one device happens to hold."""
    N = len(home_N)
    mean = -(-N // devices)
    room = min(N, mean + 4 * int(np.ceil(mean**0.5)))
    order = jnp.argsort(home_N, stable=True)
    first = jnp.searchsorted(home_N[order], jnp.arange(devices + 1))
    rank_N = jnp.zeros(N, jnp.int32).at[order].set((jnp.arange(N) - first[home_N[order]]).astype(jnp.int32))
    most = jnp.where(home_N < devices, rank_N, -1).max() + 1
    rounds = (jax.lax.pmax(most, axis) + room - 1) // room  # as many on every device, or they would wait
    return _Exchange(
        room, rounds, home_N * room + rank_N % room, jnp.where(home_N < devices, rank_N // room, -1)
    )


def _swap(x: jax.Array, axis: str) -> jax.Array:
    """[devices * room, ...]: the d-th part goes to device d, the d-th part of what comes is from it."""
    return jax.lax.all_to_all(x, axis, 0, 0, tiled=True)


def _asked(id_U: jax.Array, slot_U: jax.Array, room: int, devices: int, axis: str) -> jax.Array:
    """[devices * room] ids that the others ask this device for."""
    return _swap(jnp.full(devices * room, NONE, id_U.dtype).at[slot_U].set(id_U, mode="drop"), axis)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def fetch(table: jax.Array, id_U: jax.Array, axis: str, dtype: str) -> jax.Array:
    """Rows [U, W] in `dtype` of the ids [U] int32, each once but for NONE, whose rows are zero; `table` is
    this device's share [places, J, W] of the whole. Its gradient is the sum of all devices' for the rows that
    this one holds: they are not to be added up over devices again."""
    share, width = _local_share(table.shape), table.shape[2]
    rows = table.reshape(share.rows, width)
    if share.devices == 1:
        return rows.at[share.local(id_U, axis)].get(mode="fill", fill_value=0).astype(dtype)
    plan = _exchange(share.home(id_U), share.devices, axis)

    def one(r: jax.Array, found: jax.Array) -> jax.Array:
        slot_U = plan.at(r, share.devices)
        asked = _asked(id_U, slot_U, plan.room, share.devices, axis)
        sent = rows.at[share.local(asked, axis)].get(mode="fill", fill_value=0).astype(dtype)
        return found + _swap(sent, axis).at[slot_U].get(mode="fill", fill_value=0)

    return jax.lax.fori_loop(0, plan.rounds, one, jnp.zeros((len(id_U), width), dtype))


def _fetch_forward(table: jax.Array, id_U: jax.Array, axis: str, dtype: str) -> tuple[jax.Array, tuple]:
    # The table's shape travels as that of nothing: a residual is an array.
    return fetch(table, id_U, axis, dtype), (id_U, jnp.zeros((0, *table.shape), table.dtype))


def _fetch_backward(axis: str, dtype: str, kept: tuple, gradient: jax.Array) -> tuple[jax.Array, None]:
    id_U, (_, *whole) = kept[0], kept[1].shape
    share, width = _local_share(tuple(whole)), gradient.shape[1]
    rows = jnp.zeros((share.rows, width), kept[1].dtype)
    if share.devices == 1:
        own = gradient.astype(rows.dtype)
        return rows.at[share.local(id_U, axis)].add(own, mode="drop").reshape(whole), None
    plan = _exchange(share.home(id_U), share.devices, axis)

    def one(r: jax.Array, rows: jax.Array) -> jax.Array:
        slot_U = plan.at(r, share.devices)
        asked = _asked(id_U, slot_U, plan.room, share.devices, axis)
        empty = jnp.zeros((share.devices * plan.room, width), gradient.dtype)
        came = _swap(empty.at[slot_U].set(gradient, mode="drop"), axis)
        return rows.at[share.local(asked, axis)].add(came.astype(rows.dtype), mode="drop")

    return jax.lax.fori_loop(0, plan.rounds, one, rows).reshape(whole), None


fetch.defvjp(_fetch_forward, _fetch_backward)
