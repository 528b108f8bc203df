"""Training rows on the devices: what is loaded, when, and that the steps are those of transferred rows."""

import copy

import jax
import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import as_words
from jaxrec.runtime import mesh, parallel_step
from jaxrec.tasks.ranking import RankingTask
from jaxrec.training.inputs import resident_rows
from jaxrec.training.inputs.input_pipeline import training_input
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep

GIB = 2**30


@pytest.fixture
def task(tiny, small_config):
    """Return a function: value of `train.resident` -> task of the small config."""

    def make(resident):
        config = copy.deepcopy(small_config)
        config.train.resident = resident
        return RankingTask(config, tiny.layout, tiny.manifest["completion_threshold"], 4, 40)

    return make


def test_the_rows_of_the_split_are_on_the_device_in_their_order(tiny, task, monkeypatch):
    monkeypatch.setattr(resident_rows, "_CHUNK_BLOCKS", 1)  # so that several chunks are read
    rows = tiny.rows("train")
    inputs = training_input(task("always"), rows)
    words = np.asarray(inputs.rows.words)
    assert words.shape == (1, rows.blocks * 512, rows.dtype.itemsize // 4)
    np.testing.assert_array_equal(words[0, : rows.rows], as_words(rows.all()))
    assert not words[0, rows.rows :].any()


@pytest.mark.parametrize(
    ("setting", "memory", "expected"),
    [
        ("never", 80 * GIB, False),
        ("auto", 80 * GIB, True),
        ("auto", None, False),  # a CPU
        ("auto", 3.9, False),  # in sizes of the rows
        ("auto", 4.1, True),
        ("always", None, True),
        ("always", 1.1, True),
    ],
)
def test_rows_are_on_the_devices_where_they_take_a_quarter_at_most(
    tiny, tiny_config, setting, memory, expected, monkeypatch
):
    rows = tiny.rows("train")
    size = rows.blocks * 512 * rows.dtype.itemsize
    bytes_limit = int(memory * size) if isinstance(memory, float) else memory
    monkeypatch.setattr(resident_rows, "device_memory", lambda: bytes_limit)
    config = copy.deepcopy(tiny_config)
    config.train.resident = setting
    assert resident_rows.keeps_rows_on_devices(config, rows) == expected


def test_rows_that_must_be_on_the_device_and_do_not_fit_are_an_error(tiny, tiny_config, monkeypatch):
    monkeypatch.setattr(resident_rows, "device_memory", lambda: 1000)
    config = copy.deepcopy(tiny_config)
    config.train.resident = "always"
    with pytest.raises(InputError, match=r"train.resident='always': .* the smallest device has 1,000; allow"):
        resident_rows.keeps_rows_on_devices(config, tiny.rows("train"))


def test_the_memory_is_that_of_the_smallest_device(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    for stats, expected in [
        ([{"bytes_limit": 5}, {"bytes_limit": 3}], 3),
        ([{"bytes_limit": 5}, None], None),
    ]:
        monkeypatch.setattr(jax, "local_devices", lambda stats=stats: [Device(s) for s in stats])
        assert resident_rows.device_memory() == expected


def test_steps_on_resident_rows_end_in_the_same_state_bit_for_bit(tiny, task):
    table, states = mesh.replicate(tiny.arrays.title_table()), []
    for setting in ("never", "always"):
        of_setting = task(setting)
        inputs, step = training_input(of_setting, tiny.rows("train")), TrainStep(of_setting)
        mapped = parallel_step.parallelize_step(step, step.mapping, rows=inputs.rows)
        state = StateInit(of_setting).init_sharded()
        for t in range(5):
            state, sums = mapped(state, inputs.source[t], table)
        states.append(jax.device_get((state, sums)))
    jax.tree.map(np.testing.assert_array_equal, *states)
