"""Packing, transfer and unpacking of batches; steps under pmap and shard_map."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.core.batch import HostBatch, IndexBatch, Packing, PackingPlan
from jaxrec.runtime import device_batch, mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs.input_pipeline import training_batches


def make_batch():
    """Return a batch of four examples in two packed rows."""
    words = np.arange(12, dtype=np.uint32).reshape(4, 3) + 2**31
    packing = Packing(np.array([[0, -1, 9], [7, 8, 9]], np.int32), (np.array([[5], [6]], np.int32),))
    return HostBatch(words, np.array([True, False, False, True]), packing)


@pytest.mark.parametrize("batch", [make_batch(), make_batch()._replace(packing=None)])
def test_words_of_a_device_are_contiguous_and_unpack_to_its_shard(monkeypatch, batch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    packed = device_batch.pack(batch)
    assert packed.words.dtype == np.uint32 and packed.words.flags.c_contiguous
    assert packed.words.shape == (2, 1, 3 * 2 + 2 + (3 + 1 if batch.packing else 0))
    for device in range(2):
        shard = jax.tree.map(lambda x: np.split(x, 2)[device], batch)  # noqa: B023
        unpacked = device_batch.unpack(jax.numpy.asarray(packed.words[device, 0]), packed.spec)
        assert jax.tree.structure(unpacked) == jax.tree.structure(shard)
        for a, b in zip(jax.tree.leaves(unpacked), jax.tree.leaves(shard), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_several_batches_are_contiguous_for_each_device(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    first, second = make_batch(), make_batch()._replace(words=make_batch().words + np.uint32(7))
    both = device_batch.pack(first, second)
    assert both.words.shape[:2] == (2, 2) and both.steps == 2 and both.words.flags.c_contiguous
    for i, batch in enumerate((first, second)):
        np.testing.assert_array_equal(both.words[:, i], device_batch.pack(batch).words[:, 0])


def test_only_a_full_group_of_one_spec_is_transferred_together():
    packed, plain = make_batch(), make_batch()._replace(packing=None)

    def steps(*batches):
        return [batch.steps for batch in device_batch.transfer_group(batches, 3)]

    assert steps(packed, packed, packed) == [3]
    assert steps(plain, plain, plain) == [3]
    assert steps(packed, packed) == [1, 1]  # the tail of an epoch
    assert steps(packed, plain, packed) == [1, 1, 1]  # the histories of one batch could not be packed


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_call_with_a_group_equals_one_call_per_batch(mapping):
    def step(state, host, _):
        batch_sum = jax.lax.psum(host.words.sum(), mesh.AXIS)
        state = state * np.uint32(3) + batch_sum  # the result depends on the order of the batches
        return state, {"state": (state, np.int32(1))}

    batches = [make_batch()._replace(words=make_batch().words + np.uint32(i)) for i in range(4)]
    step = parallel_step.parallelize_step(step, mapping)
    state, total = mesh.replicate(np.uint32(1)), np.uint32(0)
    for batch in batches:
        state, sums = step(state, batch, None)
        total += np.uint32(sums["state"][0])
    (group,) = device_batch.transfer_group(batches, 4)
    state_of_group, sums = step(mesh.replicate(np.uint32(1)), group, None)
    assert state == state_of_group
    assert (sums["state"][0], sums["state"][1]) == (total, 4) and sums["state"][1].dtype == np.int32


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_step_compiled_in_advance_is_not_compiled_again(mapping, caplog):
    def doubled(state, host, _):
        return 2 * state, jax.lax.psum(host.words.sum(), mesh.AXIS)

    def compilations(call):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level("WARNING", logger="jax"):
            call()
        return sum("Finished XLA compilation" in record.getMessage() for record in caplog.records)

    def twice():
        state = step(mesh.replicate(np.float32(1)), batch, None)[0]
        return step(state, batch, None)  # with a state that the step returned

    batch, first = device_batch.transfer(make_batch()), mesh.replicate(np.float32(1))
    like = jax.ShapeDtypeStruct((), np.float32, sharding=mesh.state_shardings(first))
    step = parallel_step.parallelize_step(doubled, mapping, first)
    assert compilations(lambda: step.lower(like, batch, None)()) == 1
    assert compilations(twice) == 0


def test_arrays_of_two_byte_numbers_are_rejected():
    with pytest.raises(TypeError, match="must hold bools or numbers of four bytes, not float16"):
        device_batch.pack(make_batch()._replace(valid=np.zeros(4, np.float16)))


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
@pytest.mark.parametrize("target_in_sequence", [False, True])
def test_step_receives_the_arrays_of_its_batch(tiny, tiny_config, target_in_sequence, mapping):
    config = copy.deepcopy(tiny_config)
    config.model.target_in_sequence = target_in_sequence
    task = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(task, tiny.rows("train"))[0]
    assert (batch.packing is None) == target_in_sequence
    identity = parallel_step.parallelize_step(lambda state, host, _: (state, host), mapping)
    jax.tree.map(np.testing.assert_array_equal, identity(np.uint32(0), batch, None)[1], batch)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_transferred_batch_is_not_transferred_again(mapping):
    batch = make_batch()
    step = parallel_step.parallelize_step(lambda state, host, _: (state + host.words.sum(), {}), mapping)
    state = step(mesh.replicate(np.uint32(0)), batch, None)[0]
    transferred = device_batch.transfer(batch)
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        state = step(state, transferred, None)[0]
        with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
            step(state, batch, None)
    assert state == 2 * batch.words.sum(dtype=np.uint32)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_step_receives_the_words_of_the_rows_of_an_index_batch(mapping):
    """One device; four, and two processes of two, are in end_to_end/test_resident.py."""
    batch = make_batch()
    split = np.arange(30, dtype=np.uint32).reshape(10, 3) + 2**31
    index = np.array([7, 0, 9, 7], np.int32)

    def pack(words, plan):
        return Packing(words + plan.starts[0][:, None], ())

    plan = PackingPlan((np.arange(4, dtype=np.uint32),))
    rows = parallel_step.DeviceRows(jax.numpy.asarray(split[None]), pack)
    identity = parallel_step.parallelize_step(lambda state, host, _: (state, host), mapping, rows=rows)
    expected = batch._replace(words=split[index], packing=pack(split[index], plan))
    by_index = IndexBatch(index, batch.valid, plan)
    jax.tree.map(np.testing.assert_array_equal, identity(np.uint32(0), by_index, None)[1], expected)
