"""Sharded embedding table on devices emulated by `vmap` with a named axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.ids import SHARD_SLOTS
from jaxrec.models.layers import dense, sharded_embedding

AXIS, ROWS, WIDTH = "data", 2500, 3  # the last of three depths is not full


def make_table(rows=ROWS):
    """Return rows by id and the whole table.

    Row i is i, i + .25 and i + .5; unused rows of the table are NaN.
    """
    plain = np.arange(rows)[:, None] + np.arange(WIDTH) / 4
    whole = np.full(sharded_embedding.shape(rows, WIDTH), np.nan, np.float32)
    for i in range(rows):
        whole[int(f"{i % SHARD_SLOTS:010b}"[::-1], 2), i // SHARD_SLOTS] = plain[i]
    return plain.astype(np.float32), whole


def map_over_devices(devices, f):
    """Map f(shard of the table, input of the device) over devices."""
    mapped = jax.vmap(f, axis_name=AXIS)

    def call(whole, *inputs):
        return mapped(whole.reshape(devices, -1, *whole.shape[1:]), *inputs)

    return call


def make_ids(devices, per_device, rng, low=2, high=ROWS):
    """Random ids [devices, per_device], unique and ascending, padded by NO_ID."""
    out = np.full((devices, per_device), sharded_embedding.NO_ID, np.int32)
    for d in range(devices):
        ids = np.unique(rng.integers(low, high, max(per_device - d, 0)))
        out[d, : len(ids)] = ids
    return out


def test_in_order_returns_rows_by_id():
    plain, whole = make_table()
    np.testing.assert_array_equal(sharded_embedding.in_order(jnp.asarray(whole), ROWS), plain)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_consecutive_ids_are_stored_on_different_devices(devices):
    shard = sharded_embedding._local_shard((SHARD_SLOTS // devices, 3, WIDTH))
    stored_on = np.asarray(shard.device(jnp.arange(64)))
    for first in range(0, 64, devices):
        assert sorted(stored_on[first : first + devices]) == list(range(devices))


@pytest.mark.parametrize("devices", [1, 8])
def test_appended_ids_move_no_row_and_take_one_round(devices):
    """Append 1,500 titles; each device looks up old titles and the popular ones among the new titles."""
    plain, appended = make_table(ROWS + 1500)
    before = make_table()[1]
    unused = np.isnan(before)
    assert appended.shape[1] == before.shape[1] + 1
    np.testing.assert_array_equal(np.where(unused, 0, appended[:, : before.shape[1]]), np.nan_to_num(before))
    rng = np.random.default_rng(3)
    popular = rng.choice(np.arange(ROWS, ROWS + 1500), 300, replace=False)
    ids = np.sort([np.append(popular, rng.choice(np.arange(2, ROWS), 212, replace=False))] * devices)
    ids = ids.astype(np.int32)

    def fetch_and_rounds(shard, ids):
        rows = sharded_embedding.fetch(shard, ids, AXIS, "float32")
        stored_on = sharded_embedding._local_shard(shard.shape).device(ids)
        return rows, sharded_embedding._plan_exchange(stored_on, devices, AXIS).rounds

    actual, rounds = map_over_devices(devices, fetch_and_rounds)(appended, ids)
    np.testing.assert_array_equal(actual, plain[ids])
    assert (rounds == 1).all()


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("per_device", [1, 40, 300])
def test_fetch_returns_rows_of_the_table_and_zeros_for_no_id(devices, per_device):
    plain, whole = make_table()
    ids = make_ids(devices, per_device, np.random.default_rng(devices))
    actual = map_over_devices(
        devices, lambda shard, ids: sharded_embedding.fetch(shard, ids, AXIS, "float32")
    )(whole, ids)
    expected = np.where((ids != sharded_embedding.NO_ID)[..., None], plain[np.minimum(ids, ROWS - 1)], 0)
    np.testing.assert_array_equal(actual, expected)


def make_ids_of_one_device(devices, per_device):
    """Ids stored on one device, more than the capacity of a round."""
    stored_on = np.asarray(
        sharded_embedding._local_shard((SHARD_SLOTS // devices, 3, WIDTH)).device(jnp.arange(ROWS))
    )
    ids = np.flatnonzero(stored_on == devices - 1)[2 : 2 + per_device].astype(np.int32)
    assert len(ids) == per_device
    return np.broadcast_to(ids, (devices, per_device))


def test_ids_beyond_the_capacity_take_more_rounds():
    devices, per_device = 4, 400
    plain, whole = make_table()
    ids = make_ids_of_one_device(devices, per_device)

    def fetch_and_rounds(shard, ids):
        stored_on = sharded_embedding._local_shard(shard.shape).device(ids)
        return sharded_embedding.fetch(shard, ids, AXIS, "float32"), sharded_embedding._plan_exchange(
            stored_on, devices, AXIS
        ).rounds

    actual, rounds = map_over_devices(devices, fetch_and_rounds)(whole, ids)
    assert (rounds == 3).all()  # 400 ids, capacity 100 + 4 * 10
    np.testing.assert_array_equal(actual, plain[ids])


def test_even_batch_takes_one_round_and_empty_batch_none():
    devices, per_device = 8, 512
    whole = make_table()[1]
    ids = make_ids(devices, per_device, np.random.default_rng(0))

    def rounds(shard, ids):
        return sharded_embedding._plan_exchange(
            sharded_embedding._local_shard(shard.shape).device(ids), devices, AXIS
        ).rounds

    assert (map_over_devices(devices, rounds)(whole, ids) == 1).all()
    assert (map_over_devices(devices, rounds)(whole, np.full_like(ids, sharded_embedding.NO_ID)) == 0).all()


@pytest.mark.parametrize(("devices", "on_one_device"), [(1, False), (2, False), (8, False), (4, True)])
def test_gradients_of_all_devices_are_summed_once(devices, on_one_device):
    per_device = 400 if on_one_device else 200
    whole, rng = make_table()[1], np.random.default_rng(1)
    ids = make_ids_of_one_device(devices, per_device) if on_one_device else make_ids(devices, per_device, rng)
    weight = rng.normal(size=(devices, per_device, WIDTH)).astype(np.float32)

    def gradient(shard, ids, weight):
        return jax.grad(lambda x: (sharded_embedding.fetch(x, ids, AXIS, "float32") * weight).sum())(shard)

    actual = map_over_devices(devices, gradient)(whole, ids, weight).reshape(whole.shape)
    expected = np.zeros((ROWS, WIDTH))
    valid = ids != sharded_embedding.NO_ID
    np.add.at(expected, ids[valid], weight[valid].astype(np.float64))
    np.testing.assert_allclose(sharded_embedding.in_order(jnp.asarray(actual), ROWS), expected, atol=1e-5)
    assert not np.isnan(actual).any()


def test_lookup_returns_rows_and_sums_gradients_of_repeated_ids():
    plain, whole = make_table()
    embedding = sharded_embedding.ShardedEmbedding("float32", ROWS, WIDTH, 0.1, AXIS)
    ids = np.array([[[5, 0, 5], [1030, 2, 5]], [[7, 7, 0], [5, 2049, 2]]], np.int32)

    def lookup(shard, ids):
        return embedding.apply({"params": {"dealt": shard}}, ids)

    actual = map_over_devices(2, lookup)(whole, ids)
    np.testing.assert_array_equal(actual, np.where((ids > 0)[..., None], plain[ids], 0))
    table_gradient = map_over_devices(2, lambda shard, ids: jax.grad(lambda x: lookup(x, ids).sum())(shard))
    counts = sharded_embedding.in_order(table_gradient(whole, ids).reshape(whole.shape), ROWS)[:, 0]
    expected = np.bincount(ids[ids > 0], minlength=ROWS)
    np.testing.assert_array_equal(counts, expected)


def test_initial_rows_equal_those_of_a_plain_table():
    key = jax.random.key(9)
    expected = dense.uniform_init(0.2)(key, (ROWS, WIDTH), jnp.float32)
    actual = sharded_embedding.sharded_init(0.2, ROWS)(key, sharded_embedding.shape(ROWS, WIDTH), jnp.float32)
    np.testing.assert_array_equal(sharded_embedding.in_order(actual, ROWS), expected)
    assert (sharded_embedding.in_order(actual, 3 * SHARD_SLOTS)[ROWS:] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_stored_in_float32_and_used_in_the_compute_dtype(dtype):
    embedding = sharded_embedding.ShardedEmbedding(dtype, ROWS, WIDTH, 0.2, AXIS)
    actual, params = embedding.init_with_output(jax.random.key(3), jnp.array([4]))
    table = params["params"]["dealt"]
    assert table.shape == (SHARD_SLOTS, 3, WIDTH) and table.dtype == jnp.float32 and actual.dtype == dtype


@pytest.mark.parametrize(("devices", "times"), [(1, 1), (4, 3)])
def test_bfloat16_rows_are_rounded_and_gradients_summed_in_float32(devices, times):
    plain, whole = make_table()
    plain, whole = plain / 7, whole / 7  # not exact in bfloat16
    ids = np.broadcast_to(np.arange(2, 34, dtype=np.int32), (devices, 32)).copy()
    ids[times:] += 32  # the last of four devices looks up other ids

    def gradient_and_rows(shard, ids):
        def total(x):
            rows = sharded_embedding.fetch(x, ids, AXIS, "bfloat16")
            return (rows * jnp.bfloat16(1 / 3)).sum().astype(jnp.float32), rows

        return jax.grad(total, has_aux=True)(shard)

    gradient, actual = map_over_devices(devices, gradient_and_rows)(whole, ids)
    assert actual.dtype == jnp.bfloat16 and gradient.dtype == jnp.float32
    np.testing.assert_array_equal(actual, plain[ids].astype(jnp.bfloat16))
    expected = times * np.float32(jnp.bfloat16(1 / 3))
    assert times == 1 or jnp.bfloat16(expected) != expected  # a sum in bfloat16 would differ
    np.testing.assert_array_equal(
        sharded_embedding.in_order(gradient.reshape(whole.shape), ROWS)[2:34], expected
    )


def test_unique_ids_ascend_and_are_padded():
    actual = sharded_embedding.unique_ids(jnp.array([[7, 3, 0], [3, 9, 7]]))
    assert actual.tolist() == [0, 3, 7, 9, sharded_embedding.NO_ID, sharded_embedding.NO_ID]
