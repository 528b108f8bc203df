"""A title table split over devices, by the commands: trained on four devices, evaluated on fewer."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import environment, run

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.models.layers import sharded_embedding
from jaxrec.tasks.loading import CHECKPOINTS, load_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def type_in(*arguments, devices):
    return run("-m", *arguments, env=environment(devices))


@pytest.fixture(scope="module")
def trained(tiny_directory, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("split") / "run"
    edits = {"data.directory": tiny_directory, "model.item_table_sharding": "split"}
    done = type_in(
        "jaxrec.train", "--config=tests/end_to_end/small.py", f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in edits.items()), devices=4,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


@pytest.mark.slow
def test_its_evaluation_is_equal_on_any_number_of_devices(trained):
    saved = json.loads((trained / "test.json").read_text())
    of_catalogue = []
    for devices in (1, 2):
        done = type_in(
            "jaxrec.evaluate", f"--checkpoint={trained}", "--lists=enabled,disabled,catalogue", "--json",
            devices=devices,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        printed = json.loads(done.stdout)
        # Scores differ in the last bits, with which a tie may turn.
        for name in ("enabled", "disabled"):
            assert printed["lists"][name] == pytest.approx(saved["lists"][name], abs=0.005)
        of_catalogue.append(printed["catalogue"]["model"])
    assert of_catalogue[0] == pytest.approx(of_catalogue[1], abs=0.005)


def test_the_checkpoint_does_not_depend_on_the_devices(trained, tiny):
    with Checkpointer(trained / CHECKPOINTS) as checkpoints:
        assert "devices" not in json.dumps(checkpoints.restore_meta("last"))
    loaded = load_checkpoint(trained, "last")
    table = loaded.params["title"]["title_id"]["dealt"]
    assert table.shape == sharded_embedding.shape(tiny.layout.num_titles, 8)
    rows = np.asarray(sharded_embedding.in_order(jax.device_get(table), tiny.layout.num_titles))
    assert (np.abs(rows[2:]).max(axis=1) > 0).all()  # every title has a row of its own
    left = np.asarray(sharded_embedding.in_order(jax.device_get(table), 1024))[tiny.layout.num_titles :]
    assert (left == 0).all()  # and nothing leads to the others


def test_a_wrong_number_of_devices_is_one_line(trained):
    done = type_in("jaxrec.evaluate", f"--checkpoint={trained}", devices=3)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line == (
        "error: model.item_table_sharding='split' must be replicated on 3 devices: "
        "rows are sharded over a power of two, 1024 at most"
    )
