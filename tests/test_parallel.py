"""A batch's way to the devices: joined into one array of words, sent ahead, taken apart by the step."""

import copy

import jax
import numpy as np
import pytest

from jaxrec import parallel
from jaxrec.loop import training_batches
from jaxrec.schema import HostBatch, Packing
from jaxrec.step import Program


def a_batch():
    """Four examples, in two packed rows."""
    words = np.arange(12, dtype=np.uint32).reshape(4, 3) + 2**31
    packing = Packing(np.array([[0, -1, 9], [7, 8, 9]], np.int32), (np.array([[5], [6]], np.int32),))
    return HostBatch(words, np.array([True, False, False, True]), packing)


@pytest.mark.parametrize("batch", [a_batch(), a_batch()._replace(packing=None)])
def test_each_devices_part_is_one_piece_and_comes_apart_into_its_share(monkeypatch, batch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    joined = parallel.join(batch)
    assert joined.words.dtype == np.uint32 and joined.words.flags.c_contiguous
    assert joined.words.shape == (2, 3 * 2 + 2 + (3 + 1 if batch.packing else 0))
    for device in range(2):
        share = jax.tree.map(lambda x: np.split(x, 2)[device], batch)  # noqa: B023
        found = parallel._apart(jax.numpy.asarray(joined.words[device]), joined.form)
        assert jax.tree.structure(found) == jax.tree.structure(share)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(share), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_numbers_that_are_no_words_are_refused():
    with pytest.raises(TypeError, match="four bytes, or bools, not float16"):
        parallel.join(a_batch()._replace(valid=np.zeros(4, np.float16)))


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
@pytest.mark.parametrize("target_in_sequence", [False, True])
def test_a_step_sees_the_arrays_of_its_batch(tiny, tiny_config, target_in_sequence, how):
    config = copy.deepcopy(tiny_config)
    config.model.target_in_sequence = target_in_sequence
    program = Program(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)
    batch = training_batches(program, tiny.rows("train"))[0]
    assert (batch.packing is None) == target_in_sequence
    seen = parallel.map_over_devices(lambda state, host, _: (state, host), how)
    jax.tree.map(np.testing.assert_array_equal, seen(np.uint32(0), batch, None)[1], batch)


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_a_batch_that_was_put_is_not_sent_again(how):
    batch = a_batch()
    step = parallel.map_over_devices(lambda state, host, _: (state + host.words.sum(), {}), how)
    state = step(parallel.replicate(np.uint32(0)), batch, None)[0]
    placed = parallel.put(batch)
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        state = step(state, placed, None)[0]
        with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
            step(state, batch, None)
    assert state == 2 * batch.words.sum(dtype=np.uint32)
