"""A table dealt to devices, on as many as `vmap` makes of one: collectives go by the name of its axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.ids import SHARD_SLOTS
from jaxrec.models.layers import dense, sharded_embedding

AXIS, ROWS, WIDTH = "data", 2500, 3  # the last of three depths is not full


def a_table(rows=ROWS):
    """Row i of the table holds i, i + .25 and i + .5; rows that no id leads to are NaN."""
    plain = np.arange(rows)[:, None] + np.arange(WIDTH) / 4
    whole = np.full(sharded_embedding.shape(rows, WIDTH), np.nan, np.float32)
    for i in range(rows):
        whole[int(f"{i % SHARD_SLOTS:010b}"[::-1], 2), i // SHARD_SLOTS] = plain[i]
    return plain.astype(np.float32), whole


def over(devices, f):
    """f(share of the table, device's own), the table in as many shares."""
    mapped = jax.vmap(f, axis_name=AXIS)

    def call(whole, *own):
        return mapped(whole.reshape(devices, -1, *whole.shape[1:]), *own)

    return call


def asked(devices, each, rng, low=2, high=ROWS):
    """[devices, each] ids, each device's ascending and once, then NONE: it asks for fewer than it may."""
    out = np.full((devices, each), sharded_embedding.NONE, np.int32)
    for d in range(devices):
        some = np.unique(rng.integers(low, high, max(each - d, 0)))
        out[d, : len(some)] = some
    return out


def test_places_are_a_permutation_and_the_rows_come_back_in_order():
    plain, whole = a_table()
    np.testing.assert_array_equal(sharded_embedding.in_order(jnp.asarray(whole), ROWS), plain)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_consecutive_ids_are_at_home_on_different_devices(devices):
    share = sharded_embedding._local_share((SHARD_SLOTS // devices, 3, WIDTH))
    homes = np.asarray(share.home(jnp.arange(64)))
    for first in range(0, 64, devices):
        assert sorted(homes[first : first + devices]) == list(range(devices))


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("each", [1, 40, 300])
def test_fetched_rows_are_the_tables_and_zero_where_none_is_asked_for(devices, each):
    plain, whole = a_table()
    ids = asked(devices, each, np.random.default_rng(devices))
    found = over(devices, lambda share, mine: sharded_embedding.fetch(share, mine, AXIS, "float32"))(
        whole, ids
    )
    expected = np.where((ids != sharded_embedding.NONE)[..., None], plain[np.minimum(ids, ROWS - 1)], 0)
    np.testing.assert_array_equal(found, expected)


def of_one_device(devices, each):
    """Ids that are all at home on one device: nothing fits in a round that has room for an even share."""
    home = np.asarray(
        sharded_embedding._local_share((SHARD_SLOTS // devices, 3, WIDTH)).home(jnp.arange(ROWS))
    )
    mine = np.flatnonzero(home == devices - 1)[2 : 2 + each].astype(np.int32)
    assert len(mine) == each
    return np.broadcast_to(mine, (devices, each))


def test_more_than_a_round_has_room_for_takes_more_rounds_and_loses_none():
    devices, each = 4, 400
    plain, whole = a_table()
    ids = of_one_device(devices, each)

    def both(share, mine):
        home = sharded_embedding._local_share(share.shape).home(mine)
        return sharded_embedding.fetch(share, mine, AXIS, "float32"), sharded_embedding._exchange(
            home, devices, AXIS
        ).rounds

    found, rounds = over(devices, both)(whole, ids)
    assert (rounds == 3).all()  # 400 in rooms of 100 + 4 * 10
    np.testing.assert_array_equal(found, plain[ids])


def test_an_even_batch_takes_one_round_and_one_without_ids_takes_none():
    devices, each = 8, 512
    whole = a_table()[1]
    ids = asked(devices, each, np.random.default_rng(0))

    def rounds(share, mine):
        return sharded_embedding._exchange(
            sharded_embedding._local_share(share.shape).home(mine), devices, AXIS
        ).rounds

    assert (over(devices, rounds)(whole, ids) == 1).all()
    assert (over(devices, rounds)(whole, np.full_like(ids, sharded_embedding.NONE)) == 0).all()


@pytest.mark.parametrize(("devices", "crowded"), [(1, False), (2, False), (8, False), (4, True)])
def test_gradients_of_all_devices_come_home_once(devices, crowded):
    each = 400 if crowded else 200
    whole, rng = a_table()[1], np.random.default_rng(1)
    ids = of_one_device(devices, each) if crowded else asked(devices, each, rng)
    weight = rng.normal(size=(devices, each, WIDTH)).astype(np.float32)

    def gradient(share, mine, weight):
        return jax.grad(lambda x: (sharded_embedding.fetch(x, mine, AXIS, "float32") * weight).sum())(share)

    found = over(devices, gradient)(whole, ids, weight).reshape(whole.shape)
    expected = np.zeros((ROWS, WIDTH))
    there = ids != sharded_embedding.NONE
    np.add.at(expected, ids[there], weight[there].astype(np.float64))
    np.testing.assert_allclose(sharded_embedding.in_order(jnp.asarray(found), ROWS), expected, atol=1e-5)
    assert not np.isnan(found).any()


def test_a_looked_up_row_is_the_ids_own_and_its_gradient_counts_every_time_it_is_asked_for():
    plain, whole = a_table()
    rows = sharded_embedding.ShardedEmbedding("float32", ROWS, WIDTH, 0.1, AXIS)
    ids = np.array([[[5, 0, 5], [1030, 2, 5]], [[7, 7, 0], [5, 2049, 2]]], np.int32)

    def called(share, mine):
        return rows.apply({"params": {"dealt": share}}, mine)

    found = over(2, called)(whole, ids)
    np.testing.assert_array_equal(found, np.where((ids > 0)[..., None], plain[ids], 0))
    of_table = over(2, lambda share, mine: jax.grad(lambda x: called(x, mine).sum())(share))
    counts = sharded_embedding.in_order(of_table(whole, ids).reshape(whole.shape), ROWS)[:, 0]
    expected = np.bincount(ids[ids > 0], minlength=ROWS)
    np.testing.assert_array_equal(counts, expected)


def test_the_first_rows_are_those_of_a_table_that_is_whole():
    key = jax.random.key(9)
    expected = dense.uniform_init(0.2)(key, (ROWS, WIDTH), jnp.float32)
    found = sharded_embedding.sharded_init(0.2, ROWS)(key, sharded_embedding.shape(ROWS, WIDTH), jnp.float32)
    np.testing.assert_array_equal(sharded_embedding.in_order(found, ROWS), expected)
    assert (sharded_embedding.in_order(found, 3 * SHARD_SLOTS)[ROWS:] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_kept_in_float32_and_used_in_the_computes_dtype(dtype):
    rows = sharded_embedding.ShardedEmbedding(dtype, ROWS, WIDTH, 0.2, AXIS)
    found, params = rows.init_with_output(jax.random.key(3), jnp.array([4]))
    table = params["params"]["dealt"]
    assert table.shape == (SHARD_SLOTS, 3, WIDTH) and table.dtype == jnp.float32 and found.dtype == dtype


@pytest.mark.parametrize(("devices", "times"), [(1, 1), (4, 3)])
def test_in_bfloat16_rows_travel_as_they_are_used_and_gradients_are_added_up_in_float32(devices, times):
    plain, whole = a_table()
    plain, whole = plain / 7, whole / 7  # which bfloat16 rounds
    ids = np.broadcast_to(np.arange(2, 34, dtype=np.int32), (devices, 32)).copy()
    ids[times:] += 32  # the last device of four asks for others

    def both(share, mine):
        def total(x):
            rows = sharded_embedding.fetch(x, mine, AXIS, "bfloat16")
            return (rows * jnp.bfloat16(1 / 3)).sum().astype(jnp.float32), rows

        return jax.grad(total, has_aux=True)(share)

    gradient, found = over(devices, both)(whole, ids)
    assert found.dtype == jnp.bfloat16 and gradient.dtype == jnp.float32
    np.testing.assert_array_equal(found, plain[ids].astype(jnp.bfloat16))
    expected = times * np.float32(jnp.bfloat16(1 / 3))
    assert times == 1 or jnp.bfloat16(expected) != expected  # as bfloat16 would have it
    np.testing.assert_array_equal(
        sharded_embedding.in_order(gradient.reshape(whole.shape), ROWS)[2:34], expected
    )


def test_distinct_ids_ascend_and_what_is_left_is_none():
    found = sharded_embedding.unique_ids(jnp.array([[7, 3, 0], [3, 9, 7]]))
    assert found.tolist() == [0, 3, 7, 9, sharded_embedding.NONE, sharded_embedding.NONE]
