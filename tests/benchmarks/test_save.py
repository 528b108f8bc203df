"""The save benchmark: what its figures are of, on a run small enough to be watched."""

import dataclasses

import numpy as np
import pytest

from benchmarks import save
from jaxrec.core.ids import FIRST_TITLE, TITLE_ID


def test_a_larger_catalogue_keeps_the_datasets_ids(tiny):
    layout, arrays = save.enlarged(tiny.layout, tiny.arrays, 1_000, 16)
    assert layout.titles == 1_000 + FIRST_TITLE
    (title_id,) = (f for f in layout.features if f.name == TITLE_ID)
    assert (title_id.size, title_id.width) == (layout.titles, 16)
    assert layout.row_dtype() == tiny.layout.row_dtype()
    before = vars(tiny.arrays)
    for name, array in vars(arrays).items():
        assert len(array) - len(before[name]) == 1_000 + FIRST_TITLE - tiny.layout.titles, name
        assert np.array_equal(array[: len(before[name])], before[name], equal_nan=array.dtype.kind == "f")
    assert save.enlarged(tiny.layout, tiny.arrays, 10, 16) == (tiny.layout, tiny.arrays)


def test_the_cost_is_of_the_same_rounds_spells():
    class Spells:
        bytes = 12

        def spell(self, seconds, save):
            self.round = getattr(self, "round", -1) + (not save)
            plain = (50.0, 100.0, 200.0)[self.round]  # the first is warm-up
            found = {"rate": plain * (0.97 if save else 1.0), "unfinished": 0.5 if save else 0.0}
            return found | ({"stall": 0.1 * self.round} if save else {})

    found = save.measured(Spells(), spell=20.0, rounds=2)
    assert found["cost_seconds"] == pytest.approx({"median": 0.6, "least": 0.6, "most": 0.6})
    assert found["drop_at_one_a_minute"]["median"] == pytest.approx(0.01)
    assert found["stall_seconds"] == pytest.approx([0.1, 0.2]) and found["unfinished_seconds"] == 0.5
    assert found["examples_per_second"] == {"median": 150.0, "least": 100.0, "most": 200.0}


def test_a_spell_trains_and_its_save_can_be_read(tiny_config, tiny, tmp_path):
    config = dataclasses.replace(tiny_config)
    run = save.Run(config, tiny, titles=500, width=4, directory=tmp_path / "c")
    plain, saving = run.spell(0.1, save=False), run.spell(0.1, save=True)
    assert plain["rate"] > 0 and "stall" not in plain
    assert saving["rate"] > 0 and saving["stall"] > 0
    assert run.checkpoints.latest_step() == run.saves == 1
    assert int(run.state.step) >= 2
    assert len(run.checkpoints.restore_arrays()["title_plays"]) == 500 + FIRST_TITLE
    run.close()
