"""The stock: undamaged inputs, made once."""

import shutil
from pathlib import Path

import numpy as np

from jaxrec.evaluation import per_user
from jaxrec.evaluation.metrics import METRICS
from tests.bad_inputs.case import Stock, content_of
from tests.bad_inputs.command import run_command
from tests.bad_inputs.service import write

ROOT = Path(__file__).resolve().parents[2]


def make_stock(
    folder: Path, trained: Path | None = None, dataset: Path | None = None, export: Path | None = None
) -> Stock:
    """Make what is missing of the stock in a folder, and return it.

    Args:
        folder: Where to write.
        trained: Workdir of a training of configs/tiny.py; None: it is trained here.
        dataset: Its dataset.
        export: Its export.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = folder / "tables"
    if not (tables / "out").exists():
        tables.mkdir()
        write(tables)
        _succeed("prepare", "--config", "own.py", "--out", "out", folder=tables)
    run = folder / "run"
    if not run.exists():
        _make_run(run, trained, folder)
    if export is None and not (folder / "export").exists():
        _succeed(
            "export", f"--checkpoint={run}", "--out=export", "--platforms=cpu", "--max_k=20", folder=folder
        )
    return Stock(dataset or folder / "dataset", run, export or folder / "export", content_of(tables / "out"))


def _make_run(run: Path, trained: Path | None, folder: Path) -> None:
    """Copy a trained run, or train one, and add results by user."""
    if trained is None:
        data = f"--config.data.directory={folder / 'dataset'}"
        _succeed("train", f"--config={ROOT / 'configs/tiny.py'}", "--workdir=trained", data, folder=folder)
        trained = folder / "trained"
    shutil.copytree(trained, run)
    users = np.arange(83)
    values = {f"{name}/{metric}": (users % 7) / 7 for name in ("enabled", "disabled") for metric in METRICS}
    ranks = {name: (users % 9 + 1).astype(np.uint16) for name in ("enabled", "disabled")}
    per_user.write(run, per_user.encode("eval-test-best", {"user": users} | values, {"user": users} | ranks))
    shutil.copy(run / "test.json", run / "eval-test-best.json")


def _succeed(*arguments: str, folder: Path) -> None:
    result = run_command(*arguments, folder=folder)
    assert result.status == 0, result.err[-3000:]
