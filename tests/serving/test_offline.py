"""Offline runs: commands that rank titles refuse them, and a training ends without a test."""

import json
import shutil
from dataclasses import replace

import pytest

from jaxrec import serving
from jaxrec.core.errors import InputError
from jaxrec.serving.recommender import Recommender
from jaxrec.tasks import loading
from jaxrec.training import trainer
from tests.bad_inputs.command import run_command
from tests.bad_inputs.configs import TINY

LINE = "the run 'tiny' has offline=True: its model reads what is known after a request, so it ranks no titles"
HISTORIES = "user_id,title_id,time,seconds_viewed\nann,1,1600000000000,60\n"


@pytest.fixture
def offline_run(tiny_run, monkeypatch):
    """The tiny run, whose config is read as that of an offline run."""
    read = loading.from_run_json
    monkeypatch.setattr(loading, "from_run_json", lambda tree: replace(read(tree), offline=True))
    return tiny_run / "run"


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate",),
        ("evaluate", "--lists=enabled"),
        ("evaluate", "--lists=catalogue"),
        ("recommend", "--histories=h.csv"),
        ("export", "--out=exported"),
    ],
    ids=" ".join,
)
def test_a_command_that_ranks_titles_refuses_an_offline_run(offline_run, tmp_path, command):
    (tmp_path / "h.csv").write_text(HISTORIES)
    result = run_command(command[0], f"--checkpoint={offline_run}", *command[1:], folder=tmp_path)
    assert result.status == 2 and len(result.error_lines) == 1, result
    assert LINE in result.error_lines[0] and not result.has_traceback
    assert [path.name for path in tmp_path.iterdir()] == ["h.csv"]


def test_a_recommender_of_an_offline_run_is_refused(offline_run, recommender_of_checkpoint):
    with pytest.raises(InputError, match=LINE):
        Recommender(loading.load_checkpoint(offline_run, "best"), recommender_of_checkpoint.correction)


def test_an_export_of_an_offline_run_is_not_served(export_folder, tmp_path):
    folder = shutil.copytree(export_folder, tmp_path / "export")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["offline"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=LINE):  # first: a server that starts would not stop
        serving.load(folder)
    result = run_command("serve", "--export=export", folder=tmp_path)
    assert result.status == 2 and len(result.error_lines) == 1, result
    assert LINE in result.error_lines[0]


def test_a_training_of_an_offline_config_ends_without_a_test(tiny_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "train", lambda *args, **kwargs: 7)
    arguments = ("--workdir=w", f"--config.data.directory={tiny_directory}", "--config.offline=true")
    result = run_command("train", f"--config={TINY}", *arguments, "--json", folder=tmp_path)
    assert result.status == 0, result
    out = json.loads(result.out)
    assert (out["name"], out["offline"], out["step"]) == ("tiny", True, 7)
    assert not (tmp_path / "w" / "test.json").exists()
