"""Old names and values of config fields: in JSON, on the command line, in Python; removed fields; digests."""

import json
import sys

import pytest

from jaxrec.config import Data, Expert, Model, NextItem, Optimizer, Train, migrations, serialization
from jaxrec.config.loading import load_config
from jaxrec.config.schema import Config
from jaxrec.config.serialization import digest, from_json, from_run_json, run_differences, to_json
from jaxrec.config.tree import choices, fields_of
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError


def old_json(config):
    """Return the JSON of a config as it was written before the fields were renamed."""

    def rename(value):
        if isinstance(value, dict):
            return {old.get(name, name): rename(inner) for name, inner in value.items()}
        return [rename(element) for element in value] if isinstance(value, list) else value

    names = {}
    for cls, renamed in migrations.RENAMED.items():
        names[cls] = {new: old for old, new in renamed.items()}
    tree = to_json(config)
    old = {new: name for inverse in names.values() for new, name in inverse.items()}
    old.pop("features"), old.pop("encoder"), old.pop("checkpoint")  # stand for other things in other sections
    tree = rename(tree)
    model = tree["model"]
    model["reads"] = model.pop("features")
    for expert in model["experts"]:
        expert["kind"] = expert.pop("encoder")
    tree["evaluate"]["which"] = tree["evaluate"].pop("checkpoint")
    tree["data"]["examples"] = {"ranking": "requests", "next_item": "sequences"}[tree.pop("task")["name"]]
    return tree


@pytest.mark.parametrize(
    "spec", ["configs/tiny.py", "configs/smoe.py:paper", "configs/sequences.py:simulated"]
)
def test_json_with_old_names_gives_the_same_config(spec):
    config = load_config(spec)
    old = old_json(config)
    assert {"history", "abandon_below", "examples"} <= old["data"].keys() and "next_title" in old
    assert {"window", "layers", "kind"} <= old["model"]["experts"][0].keys()
    assert from_json(json.loads(json.dumps(old))) == config
    assert from_json(to_json(config)) == config


# Recorded before the fields were renamed, with the datasets that they name.
@pytest.mark.parametrize(
    "spec, recorded",
    [
        ("configs/tiny.py", "cb640e3cd2ac11c1be2bab46a5a688de2c6a50e1280630574cf63312e53364cc"),
        ("configs/smoe.py:small", "11689cb9e4546e67530ce31e3bd62af87bbba454fb48f09d138e5c25b479c26c"),
        (
            "configs/sequences.py:simulated",
            "41a020765579e1eb595bed8e5236faafce5fc735bad045d0556e22cd6c8432f5",
        ),
    ],
)
def test_digests_are_those_of_before_the_renaming(spec, recorded):
    assert digest(load_config(spec)) == recorded


def test_python_configs_take_old_keywords_and_assignments(capsys):
    migrations._noted.clear()
    data = Data(abandon_below=0.1, history=16)
    assert (data.abandon_threshold, data.max_history) == (0.1, 16)
    assert Expert(window=5, layers=1) == Expert(5, 1)
    train = Train()
    train.length = "3 epochs"
    assert train.duration == "3 epochs" and vars(train).keys() == fields_of(Train).keys()
    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        "config: data.abandon_below is now data.abandon_threshold",
        "config: data.history is now data.max_history",
        "config: model.experts[i].window is now model.experts[i].max_len",
        "config: model.experts[i].layers is now model.experts[i].num_layers",
        "config: train.length is now train.duration",
    ]


def test_an_old_value_is_the_value_of_today(capsys):
    migrations._noted.clear()
    today = load_config("configs/tiny.py")
    tree = to_json(today)
    tree["next_item"]["negatives_shared_by"] = "place"
    assert from_json(tree) == today
    old = to_json(today)
    old["next_title"] = {"shared": "place"}
    del old["next_item"]
    assert from_json(old) == today
    assert run_differences(tree, to_json(today)) == {}
    assert capsys.readouterr().err == ""  # JSON is read without a note
    assert NextItem(negatives_shared_by="place").negatives_shared_by == "position"
    today.next_item.negatives_shared_by = "sequence"
    today.next_item.negatives_shared_by = "place"  # a key of the command line is assigned so too
    assert today.next_item.negatives_shared_by == "position"
    NextItem("softmax", 128, "uniform", "sequence")
    note = "config: next_item.negatives_shared_by='place' is now 'position'\n"
    assert capsys.readouterr().err == note  # once


def test_an_unknown_value_is_refused():
    tree = to_json(load_config("configs/tiny.py"))
    tree["next_item"]["negatives_shared_by"] = "slot"
    message = r"^next_item\.negatives_shared_by='slot' must be one of position, sequence$"
    with pytest.raises(InputError, match=message):
        from_json(tree)


def test_every_new_value_is_allowed_and_no_old_one_is():
    for cls, renamed in migrations.RENAMED_VALUES.items():
        for name, values in renamed.items():
            allowed = choices(cls, name)
            assert set(values.values()) <= set(allowed) and not set(values) & set(allowed)


def test_the_old_kind_of_examples_names_the_task(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from jaxrec.config import *\ndef get_config():\n    return Config(data=Data(examples='sequences'))\n"
    )
    config = load_config(str(path))
    assert config.task.name == "next_item" and "_task_name" not in vars(config.data)


def test_arguments_with_old_names():
    arguments = [
        "train", "--config=c.py", "--config.data.history=8", "--config.model.experts[0].window=4",
        "--noconfig.model.two_tables", "--config.data.examples=sequences",
        "--config.optimizer.lazy=false", "--config.next_title.log_q", "--workdir=data.history",
    ]  # fmt: skip
    assert migrations.upgrade_arguments(arguments) == [
        "train", "--config=c.py", "--config.data.max_history=8", "--config.model.experts[0].max_len=4",
        "--noconfig.model.untied_item_embeddings", "--config.task.name=next_item",
        "--config.next_item.logq_correction", "--workdir=data.history",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "take",
    [
        lambda: migrations.upgrade_arguments(["--config.optimizer.lazy=true"]),
        lambda: migrations.upgrade({"optimizer": {"lazy": True}}),
        lambda: Optimizer(lazy=True),
    ],
    ids=["command line", "JSON", "Python"],
)
def test_a_removed_field_in_use_is_refused_by_name(take):
    with pytest.raises(InputError, match=r"^optimizer\.lazy=True must be False: other values were removed$"):
        take()


def test_a_removed_field_at_its_default_is_dropped():
    assert migrations.upgrade({"optimizer": {"lazy": False, "decay_spares": "nothing"}}) == {"optimizer": {}}
    assert migrations.upgrade({"data": {"rows": "one"}}) == {"data": {}}
    assert vars(Optimizer(lazy=False)).keys() == fields_of(Optimizer).keys()


def set_attention(value):
    model = Model()
    model.attention_impl = value


@pytest.mark.parametrize("value", ["cudnn", "broadcast"])
@pytest.mark.parametrize(
    "take",
    [
        lambda value: migrations.upgrade_arguments([f"--config.model.attention_impl={value}"]),
        lambda value: migrations.upgrade_arguments([f"--config.model.attention={value}"]),
        lambda value: from_json({"model": {"attention_impl": value}}),
        lambda value: from_json({"model": {"attention": value}}),
        lambda value: Model(attention_impl=value),
        lambda value: Model(attention=value),
        set_attention,
    ],
    ids=["command line", "old key", "JSON", "old JSON", "Python", "old Python", "assignment"],
)
def test_a_removed_value_is_refused_by_name(take, value):
    allowed = "auto, einsum, dot_product, pallas"
    message = f"^model.attention_impl='{value}' must be one of {allowed}: it was removed$"
    with pytest.raises(InputError, match=message):
        take(value)


@pytest.mark.parametrize("name", ["attention_impl", "attention"])
def test_a_run_with_a_removed_value_of_what_changes_no_result_is_read(name, capsys):
    config = load_config("configs/tiny.py")
    tree = to_json(config)
    del tree["model"]["attention_impl"]
    tree["model"][name] = "cudnn"
    assert from_run_json(tree) == config
    line = f"config: model.{name}='cudnn' was removed; the default is read"
    assert capsys.readouterr().err.splitlines() == [line]
    assert run_differences(tree, to_json(config)) == {}
    assert capsys.readouterr().err.splitlines() == [line]
    assert tree["model"][name] == "cudnn" and migrations.without_removed_values({"model": 1}) == {"model": 1}


def test_every_removed_value_is_of_a_field_that_changes_no_result():
    free = {f"model.{name}" for name in serialization._FREE["model"]}
    for cls, fields in migrations.REMOVED_VALUES.items():
        for name, values in fields.items():
            assert f"{migrations._KEYS[cls]}{name}" in free
            assert not set(values) & set(choices(cls, name))


def test_every_new_name_is_a_field_and_no_old_one_is():
    for cls, renamed in migrations.RENAMED.items():
        assert set(renamed.values()) <= fields_of(cls).keys()
        assert not set(renamed) & fields_of(cls).keys()
    assert "jaxrec.config.migrations" in sys.modules and Config().task.name == "ranking"


def test_a_config_from_before_the_seen_protocols_is_read_and_resumes():
    old = to_json(load_config("configs/tiny.py"))
    del old["evaluate"]["seen"]
    config = from_json(old)
    assert config.evaluate.seen == "all"
    config.evaluate.seen = "stored"  # changes the evaluation alone
    assert run_differences(old, to_json(config)) == {}
    assert digest(config) == digest(load_config("configs/tiny.py"))
    config.evaluate.seen = "filtered"
    with pytest.raises(InputError, match=r"evaluate\.seen='filtered' must be one of all, stored, kept"):
        check(config)
