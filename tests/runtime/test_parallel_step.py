"""A batch's way to the devices: joined into one array of words, sent ahead, taken apart by the step."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.core.batch import HostBatch, Packing
from jaxrec.runtime import device_batch, mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.input_pipeline import training_batches


def a_batch():
    """Four examples, in two packed rows."""
    words = np.arange(12, dtype=np.uint32).reshape(4, 3) + 2**31
    packing = Packing(np.array([[0, -1, 9], [7, 8, 9]], np.int32), (np.array([[5], [6]], np.int32),))
    return HostBatch(words, np.array([True, False, False, True]), packing)


@pytest.mark.parametrize("batch", [a_batch(), a_batch()._replace(packing=None)])
def test_each_devices_part_is_one_piece_and_comes_apart_into_its_share(monkeypatch, batch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    joined = device_batch.pack(batch)
    assert joined.words.dtype == np.uint32 and joined.words.flags.c_contiguous
    assert joined.words.shape == (2, 1, 3 * 2 + 2 + (3 + 1 if batch.packing else 0))
    for device in range(2):
        share = jax.tree.map(lambda x: np.split(x, 2)[device], batch)  # noqa: B023
        found = device_batch.unpack(jax.numpy.asarray(joined.words[device, 0]), joined.form)
        assert jax.tree.structure(found) == jax.tree.structure(share)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(share), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_several_batches_are_one_piece_of_each_device(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    first, second = a_batch(), a_batch()._replace(words=a_batch().words + np.uint32(7))
    both = device_batch.pack(first, second)
    assert both.words.shape[:2] == (2, 2) and both.steps == 2 and both.words.flags.c_contiguous
    for i, batch in enumerate((first, second)):
        np.testing.assert_array_equal(both.words[:, i], device_batch.pack(batch).words[:, 0])


def test_as_many_as_a_dispatch_takes_go_together_where_they_are_of_one_form():
    packed, plain = a_batch(), a_batch()._replace(packing=None)

    def steps(*batches):
        return [placed.steps for placed in device_batch.transfer_group(batches, 3)]

    assert steps(packed, packed, packed) == [3]
    assert steps(plain, plain, plain) == [3]
    assert steps(packed, packed) == [1, 1]  # an epoch's tail
    assert steps(packed, plain, packed) == [1, 1, 1]  # one whose histories found no room


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_a_step_on_each_batch_in_turn_is_so_many_steps(how):
    def step(state, host, _):
        seen = jax.lax.psum(host.words.sum(), mesh.AXIS)
        state = state * np.uint32(3) + seen  # another order ends elsewhere
        return state, {"state": (state, np.int32(1))}

    batches = [a_batch()._replace(words=a_batch().words + np.uint32(i)) for i in range(4)]
    step = parallel_step.parallelize_step(step, how)
    one, total = mesh.replicate(np.uint32(1)), np.uint32(0)
    for batch in batches:
        one, sums = step(one, batch, None)
        total += np.uint32(sums["state"][0])
    (together,) = device_batch.transfer_group(batches, 4)
    all_at_once, sums = step(mesh.replicate(np.uint32(1)), together, None)
    assert one == all_at_once
    assert (sums["state"][0], sums["state"][1]) == (total, 4) and sums["state"][1].dtype == np.int32


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_a_step_that_was_readied_is_not_compiled_again(how, caplog):
    def doubled(state, host, _):
        return 2 * state, jax.lax.psum(host.words.sum(), mesh.AXIS)

    def compilations(call):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level("WARNING", logger="jax"):
            call()
        return sum("Finished XLA compilation" in record.getMessage() for record in caplog.records)

    def twice():
        state = step(mesh.replicate(np.float32(1)), batch, None)[0]
        return step(state, batch, None)  # of a state that the step gave

    batch, first = device_batch.transfer(a_batch()), mesh.replicate(np.float32(1))
    like = jax.ShapeDtypeStruct((), np.float32, sharding=mesh.state_shardings(first))
    step = parallel_step.parallelize_step(doubled, how, first)
    assert compilations(lambda: step.lower(like, batch, None)()) == 1
    assert compilations(twice) == 0


def test_numbers_that_are_no_words_are_refused():
    with pytest.raises(TypeError, match="four bytes, or bools, not float16"):
        device_batch.pack(a_batch()._replace(valid=np.zeros(4, np.float16)))


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
@pytest.mark.parametrize("target_in_sequence", [False, True])
def test_a_step_sees_the_arrays_of_its_batch(tiny, tiny_config, target_in_sequence, how):
    config = copy.deepcopy(tiny_config)
    config.model.target_in_sequence = target_in_sequence
    program = RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(program, tiny.rows("train"))[0]
    assert (batch.packing is None) == target_in_sequence
    seen = parallel_step.parallelize_step(lambda state, host, _: (state, host), how)
    jax.tree.map(np.testing.assert_array_equal, seen(np.uint32(0), batch, None)[1], batch)


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_a_batch_that_was_put_is_not_sent_again(how):
    batch = a_batch()
    step = parallel_step.parallelize_step(lambda state, host, _: (state + host.words.sum(), {}), how)
    state = step(mesh.replicate(np.uint32(0)), batch, None)[0]
    placed = device_batch.transfer(batch)
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        state = step(state, placed, None)[0]
        with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
            step(state, batch, None)
    assert state == 2 * batch.words.sum(dtype=np.uint32)
