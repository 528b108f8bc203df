"""Tests of a run that starts from another run's checkpoint: state, resumption, record, bad input."""

import copy
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxrec.checkpoints.checkpointer import Checkpointer
from jaxrec.checkpoints.seals import digest
from jaxrec.checkpoints.state_tree import slashed_leaves, with_shardings
from jaxrec.config.schema import Start
from jaxrec.config.serialization import from_run_json, run_differences, to_json
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.models.layers.sharded_embedding import row_positions
from jaxrec.runtime.mesh import replicated_sharding
from jaxrec.tasks.loading import CHECKPOINTS, START_JSON, build_task, load_checkpoint, restore_task
from jaxrec.training import starting, trainer
from jaxrec.training.starting import StartPoint, check_start, read_start
from jaxrec.training.train_state import StateInit, TrainState
from tests.stop import Stop

TITLES, SEGMENTS = "title/title_id/embedding", "user/segment/embedding"


def saved(workdir):
    """Return the arrays of the last checkpoint of a run by name."""
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        return checkpoints.restore_on_host("last", "params", "optimizer", "average", "reference", "anchored")


def start_of(task, dataset):
    return read_start(task, dataset, StateInit(task).abstract())


def task_of(config, layout):
    return build_task(config, layout, 0.5, 4, 8)


@pytest.fixture(scope="module")
def old_run(tiny_run, tmp_path_factory):
    """A copy of the tiny run, which a test may remove."""
    return shutil.copytree(tiny_run / "run", tmp_path_factory.mktemp("old") / "run")


@pytest.fixture
def config(small_config, old_run):
    """The small config with two embeddings of the tiny run, whose model is another."""
    config = copy.deepcopy(small_config)
    config.train.duration, config.train.log_seconds = "6 steps", 1e9
    config.start = Start(
        str(old_run), "last", take=(TITLES, "user/segment/*"), freeze=("user/segment/*",), optimizer="kept",
        anchor=0.1,
    )  # fmt: skip
    return config


def test_a_second_stage_stopped_and_resumed_equals_one_left_alone(
    config, tiny, old_run, tmp_path, monkeypatch
):
    # A validation takes longer to compile than the steps.
    validated = lambda run, state, *_: (state, {run.validator.metric: 0.5})  # noqa: E731
    monkeypatch.setattr(trainer._Run, "_validate", validated)
    first, checksums = saved(old_run), digest(old_run / CHECKPOINTS / "56")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert trainer.train(config, tiny, whole, Stop()) == 6
    reached = trainer.train(config, tiny, cut, Stop(2))
    assert 0 < reached < 6
    shutil.rmtree(old_run)  # a resumed run reads its own checkpoint alone
    check_start(config, cut)
    assert trainer.train(config, tiny, cut, Stop()) == 6
    expected, actual = saved(whole), saved(cut)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, actual[name], err_msg=name)

    np.testing.assert_array_equal(actual[f"params/{SEGMENTS}"], first[f"params/{SEGMENTS}"])  # under decay
    assert (actual[f"params/{TITLES}"] != first[f"params/{TITLES}"])[2:].any()
    for name in (TITLES, SEGMENTS):
        np.testing.assert_array_equal(actual[f"reference/{name}"], first[f"params/{name}"])
    anchored = {name[9:]: x for name, x in actual.items() if name.startswith("anchored/")}
    assert len(anchored) > 2
    assert all(x.all() if name in (TITLES, SEGMENTS) else not x.any() for name, x in anchored.items())
    initial = StateInit(task_of(config, tiny.layout)).init().params
    for name, value in slashed_leaves(initial).items():
        if not anchored[name].any():  # the reference is whole: a loss may compute a policy from it
            np.testing.assert_array_equal(actual[f"reference/{name}"], value)
    assert actual["optimizer/0/count"] == first["optimizer/0/count"] + 6

    record = json.loads((whole / START_JSON).read_bytes())
    assert record == json.loads((cut / START_JSON).read_bytes())
    assert len(checksums) == 64
    assert record.items() > {
        "workdir": str(old_run), "checkpoint": "last", "step": 56, "optimizer": "kept",
        "checksums": checksums,
    }.items()  # fmt: skip
    assert (record["taken"], record["frozen"], record["grown"]) == ([TITLES, SEGMENTS], [SEGMENTS], {})
    own = {name[7:] for name in actual if name.startswith("params/")}
    assert set(record["initialised"]) == own - {TITLES, SEGMENTS}
    assert "gate/mlp/out/kernel" in record["dropped"] and TITLES not in record["dropped"]

    changed = copy.deepcopy(config)
    changed.start.anchor = 0.2
    with pytest.raises(InputError, match=r"holds a run with start\.anchor=0\.1, this config has 0\.2"):
        trainer.train(changed, tiny, cut, Stop())


def grown(tiny):
    """Return a dataset with the titles and segments of the tiny dataset renumbered, one lost and two new."""
    arrays, titles = tiny.arrays, tiny.layout.num_titles - 2
    order = [*range(titles - 1, 0, -1)]  # reversed, without the first
    ids = np.array([0, 1, *(2 + i for i in order), 2, 3])  # the features of the new are those of 2 and 3
    keys = np.array([*arrays.title_key[order], *(arrays.title_key.max() + np.array([1, 2]))])
    segments = tiny.manifest["categories"]["segment"]
    categories = tiny.manifest["categories"] | {"segment": ["a new one", *segments[::-1]]}
    features = tuple(
        replace(f, size=f.size + 1) if f.name in ("title_id", "segment") else f for f in tiny.layout.features
    )
    layout = replace(tiny.layout, num_titles=titles + 3, features=features)
    made = SimpleNamespace(
        title_key=keys, title_categories=arrays.title_categories[ids], title_numbers=arrays.title_numbers[ids]
    )
    return SimpleNamespace(manifest={"categories": categories}, arrays=made), layout


@pytest.fixture
def onto_grown(tiny_config, tiny, tiny_run):
    """Return a function: the start of the tiny config, with other settings, on the grown dataset."""
    dataset, layout = grown(tiny)

    def read(sharding="replicated", ema_decay=0.0, **settings):
        config = copy.deepcopy(tiny_config)
        config.model.item_table_sharding, config.optimizer.ema_decay = sharding, ema_decay
        config.start = Start(str(tiny_run / "run"), **settings)
        check(config)
        return start_of(task_of(config, layout), dataset).values

    return read


def test_all_parameters_and_moments_of_a_run_on_a_grown_dataset(onto_grown, tiny, tiny_run):
    settings = {"which": "last", "optimizer": "kept", "rows": "initial", "anchor": 1.0}
    values, old = onto_grown(ema_decay=0.9, **settings), saved(tiny_run / "run")
    titles = tiny.layout.num_titles
    source = np.array([0, 1, *range(titles - 1, 2, -1)])
    for name in ("params", "optimizer/0/mu", "optimizer/0/nu", "average", "reference"):
        of = "params" if name in ("average", "reference") else name
        value, before = values[f"{name}/{TITLES}"], old[f"{of}/{TITLES}"]
        np.testing.assert_array_equal(value[:-2], before[source])
        assert np.isnan(value[-2:]).all() if of == "params" else (value[-2:] == 0).all()
        np.testing.assert_array_equal(values[f"{name}/gate/mlp/out/kernel"], old[f"{of}/gate/mlp/out/kernel"])
        segments = old[f"{of}/{SEGMENTS}"]
        np.testing.assert_array_equal(values[f"{name}/{SEGMENTS}"][3:], segments[:1:-1])
    assert values["optimizer/0/count"] == 56
    anchored = values[f"anchored/{TITLES}"]
    assert anchored[:-2].all() and not anchored[-2:].any()  # new rows have no anchor


def test_a_split_table_starts_as_a_replicated_one(onto_grown):
    settings = {"which": "last", "optimizer": "kept", "noise": 0.1}
    whole, split = onto_grown(**settings), onto_grown("split", **settings)
    assert len(whole) == len(split)
    for name, value in whole.items():
        if name.endswith(f"/{TITLES}"):
            sharded = split[name.replace("embedding", "dealt")]
            np.testing.assert_array_equal(sharded[row_positions(len(value))], value)
        else:
            np.testing.assert_array_equal(split[name], value)
    assert np.isfinite(whole[f"params/{TITLES}"]).all()


def test_a_fresh_optimizer_starts_from_the_moving_average(tiny_config, tiny, tiny_run, monkeypatch):
    """The parameters for evaluation: those of the average, where the run kept one."""
    params = saved(tiny_run / "run")
    average = {f"average/{name[7:]}": x + 1 for name, x in params.items() if name.startswith("params/")}
    both = params | average

    def restore(self, which, *fields):
        return {name: x for name, x in both.items() if name.startswith(fields)}

    monkeypatch.setattr(Checkpointer, "restore_on_host", restore)
    config = copy.deepcopy(tiny_config)
    config.optimizer.ema_decay = 0.9
    for optimizer, of_params in (("fresh", "average"), ("kept", "params")):
        config.start = Start(str(tiny_run / "run"), "last", optimizer=optimizer)
        values = start_of(task_of(config, tiny.layout), tiny).values
        np.testing.assert_array_equal(values[f"params/{TITLES}"], both[f"{of_params}/{TITLES}"])
        np.testing.assert_array_equal(values[f"average/{TITLES}"], both[f"average/{TITLES}"])


def test_a_vocabulary_without_a_common_key_is_logged(tiny_config, tiny, tiny_run, monkeypatch):
    """Keys may be numbers in one log and text in the other."""
    lines = []
    monkeypatch.setattr(starting.logging, "warning", lambda text, *args: lines.append(text % args))
    config = copy.deepcopy(tiny_config)
    config.start = Start(str(tiny_run / "run"))
    arrays = replace(tiny.arrays, title_key=tiny.arrays.title_key.astype(str))
    values = start_of(
        task_of(config, tiny.layout), SimpleNamespace(manifest=tiny.manifest, arrays=arrays)
    ).values[f"params/{TITLES}"]
    assert [line for line in lines if "start" in line] == [
        f"start.workdir={tiny_run / 'run'}: no key of {TITLES} is the same in both runs: all rows are new"
    ]
    assert np.isfinite(values).all()


def test_values_are_placed_where_there_are_some():
    state = TrainState(
        {"a": jax.numpy.array([1.0, 2.0]), "b": jax.numpy.array([3.0])}, (), *([jax.numpy.int32(0)] * 3)
    )
    point = StartPoint({"params/a": np.array([np.nan, 5.0])}, {})
    placed = point.apply(state)
    np.testing.assert_array_equal(placed.params["a"], [1, 5])
    np.testing.assert_array_equal(placed.params["b"], [3])
    assert placed.params["a"].dtype == np.float32 and point.values == {}


def test_a_config_and_a_checkpoint_from_before_there_were_starts(tiny_run):
    loaded = load_checkpoint(tiny_run / "run", "last")
    assert loaded.config.start == Start()
    tree = json.loads((tiny_run / "run/config.json").read_bytes())
    old = {key: value for key, value in tree.items() if key != "start"}
    assert from_run_json(old).start == Start()
    assert run_differences(old, to_json(loaded.config)) == {}
    with Checkpointer(tiny_run / "run" / CHECKPOINTS) as checkpoints:
        task = restore_task(loaded.config, checkpoints.restore_meta("last"))
        abstract = StateInit(task).abstract()
        assert abstract.reference == () and "reference" not in {
            n.split("/")[0] for n in slashed_leaves(abstract)
        }
        checkpoints.restore("last", with_shardings(abstract, replicated_sharding()))


@pytest.mark.parametrize("settings, text", [
    ({"workdir": "none"}, r"^checkpoint .*none/checkpoints: no such directory"),
    ({"take": ("gaet/*",)}, r"^start\.take\[0\]='gaet/\*' must match a parameter of start\.workdir="),
    ({"freeze": ("title/*", "gaet/*")}, r"^start\.freeze\[1\]='gaet/\*' must match a parameter of this"),
    ({"take": ("*",)}, r"^start\.workdir=.*: \S+ is \(.*\) in the checkpoint, but \(.*\) in this run;"),
])  # fmt: skip
def test_what_does_not_fit_is_one_line_before_anything_is_written(
    settings, text, small_config, tiny, tiny_run, tmp_path
):
    config = copy.deepcopy(small_config)
    config.start = Start(**{"workdir": str(tiny_run / "run"), "take": (TITLES,)} | settings)
    with pytest.raises(InputError, match=text) as error:
        trainer.train(config, tiny, tmp_path / "run", Stop())
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_start_from_a_best_checkpoint_that_does_not_exist(small_config, tiny_run, tmp_path):
    shutil.copytree(tiny_run / "run" / CHECKPOINTS, tmp_path / "old" / CHECKPOINTS)
    for path in (tmp_path / "old" / CHECKPOINTS).glob("*/metrics"):
        shutil.rmtree(path)
    config = copy.deepcopy(small_config)
    config.start = Start(str(tmp_path / "old"))
    with pytest.raises(InputError, match="which='best' does not exist"):
        check_start(config, tmp_path / "run")
    config.start.which = "last"
    check_start(config, tmp_path / "run")


@pytest.mark.parametrize("settings, text", [
    ({"which": "newest"}, "start.which='newest' must be one of best, last"),
    ({"optimizer": "new"}, "start.optimizer='new' must be one of fresh, kept"),
    ({"rows": "zero"}, "start.rows='zero' must be one of initial, mean, metadata"),
    ({"anchor": -1.0}, "start.anchor=-1.0 must be at least 0"),
    ({"noise": -1.0}, "start.noise=-1.0 must be at least 0"),
    ({"take": ()}, "start.take=() must hold at least one pattern"),
    ({"workdir": "", "freeze": ("*",)}, "start.freeze=('*',) must be () with an empty start.workdir"),
    ({"workdir": "", "anchor": 0.1}, "start.anchor=0.1 must be 0.0 with an empty start.workdir"),
])  # fmt: skip
def test_settings_that_are_refused(settings, text, small_config):
    config = copy.deepcopy(small_config)
    config.start = Start(**{"workdir": "old"} | settings)
    with pytest.raises(InputError) as error:
        check(config)
    assert str(error.value) == text
