"""The save benchmark: its figures, on a small run."""

import dataclasses

import numpy as np
import pytest

from benchmarks import save
from jaxrec.core.ids import FIRST_TITLE, TITLE_ID


def test_a_larger_catalogue_keeps_the_datasets_ids(tiny):
    layout, arrays = save.enlarge(tiny.layout, tiny.arrays, 1_000, 16)
    assert layout.num_titles == 1_000 + FIRST_TITLE
    (title_id,) = (f for f in layout.features if f.name == TITLE_ID)
    assert (title_id.size, title_id.width) == (layout.num_titles, 16)
    assert layout.row_dtype() == tiny.layout.row_dtype()
    originals = tiny.arrays.stored()
    for name, array in arrays.stored().items():
        assert len(array) - len(originals[name]) == 1_000 + FIRST_TITLE - tiny.layout.num_titles, name
        assert np.array_equal(
            array[: len(originals[name])], originals[name], equal_nan=array.dtype.kind == "f"
        )
    assert save.enlarge(tiny.layout, tiny.arrays, 10, 16) == (tiny.layout, tiny.arrays)


def test_cost_compares_the_intervals_of_one_round():
    class Intervals:
        bytes = 12

        def train_for(self, seconds, save):
            self.round = getattr(self, "round", -1) + (not save)
            plain = (50.0, 100.0, 200.0)[self.round]  # the first value is the warm-up
            figures = {"rate": plain * (0.97 if save else 1.0), "unfinished": 0.5 if save else 0.0}
            return figures | ({"stall": 0.1 * self.round} if save else {})

    figures = save.measure(Intervals(), seconds=20.0, rounds=2)
    assert figures["cost_seconds"] == pytest.approx({"median": 0.6, "least": 0.6, "most": 0.6})
    assert figures["drop_at_one_a_minute"]["median"] == pytest.approx(0.01)
    assert figures["stall_seconds"] == pytest.approx([0.1, 0.2]) and figures["unfinished_seconds"] == 0.5
    assert figures["examples_per_second"] == {"median": 150.0, "least": 100.0, "most": 200.0}


def test_an_interval_trains_and_its_save_can_be_restored(small_config, tiny, tmp_path):
    config = dataclasses.replace(small_config)
    run = save.Run(config, tiny, titles=500, width=4, directory=tmp_path / "c")
    plain, saving = run.train_for(0.1, save=False), run.train_for(0.1, save=True)
    assert plain["rate"] > 0 and "stall" not in plain
    assert saving["rate"] > 0 and saving["stall"] > 0
    assert run.checkpoints.latest_step() == run.saves == 1
    assert int(run.state.step) >= 2
    assert len(run.checkpoints.restore_arrays()["title_plays"]) == 500 + FIRST_TITLE
    run.close()
