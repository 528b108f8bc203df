"""The walk-through of docs/live-slates.md, on the trained tiny run in the place of its first command."""

import re
import shlex
import shutil
from pathlib import Path

import commands
import pytest

from jaxrec.live_events.slates.folder import read_manifest
from jaxrec.live_events.wire.message_log import MessageLog

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def walk():
    block = re.search(r"```bash\n(.*?)```", (ROOT / "docs/live-slates.md").read_text(), re.DOTALL)[1]
    return [shlex.split(line)[1:] for line in block.splitlines()]


@pytest.mark.slow  # test_slates, test_slate_quality and bad_inputs have the commands one by one
def test_the_walk_through_has_five_commands_that_run(walk, tiny_run, tmp_path):
    train, *rest = walk
    assert len(walk) == 5 and train[:2] == ["-m", "jaxrec.train"]
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs/live_events.json", tmp_path / "configs")
    shutil.copytree(tiny_run / "run", tmp_path / "runs/live")
    printed = [commands.run(*words, cwd=tmp_path) for words in rest]
    for done in printed:
        assert done.returncode == 0, done.stderr[-3000:]
    slates, quality, pre, start = (done.stdout for done in printed)
    assert "of 16 segments (kmeans:16) for fight" in slates
    assert "kappa 16" in quality and "delivered (kmeans:16)" in quality and "user slates" in quality
    assert pre == "fight: pre now, message 1.1\n" and start == "fight: live now, message 1.2\n"
    assert read_manifest(tmp_path / "runs/live-slates")["regions"] == ["de", "us"]
    with MessageLog(tmp_path / "live.sqlite") as log:
        assert [m.state for _, m in log.since(0)] == ["pre", "live"]
    assert (tmp_path / "runs/live-quality").is_dir() and not (
        tmp_path / "runs/live/eval-test-best.json"
    ).exists()
