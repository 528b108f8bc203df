"""The stock: undamaged inputs, made once."""

from pathlib import Path

from tests.bad_inputs.case import Stock, content_of
from tests.bad_inputs.command import run_command
from tests.bad_inputs.service import write

ROOT = Path(__file__).resolve().parents[2]


def make_stock(folder: Path, trained: Path | None = None, dataset: Path | None = None) -> Stock:
    """Make what is missing of the stock in a folder, and return it.

    Args:
        folder: Where to write.
        trained: Workdir of a training of configs/tiny.py; None: it is trained here.
        dataset: Its dataset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = folder / "tables"
    if not (tables / "out").exists():
        tables.mkdir()
        write(tables)
        _succeed("prepare", "--config", "own.py", "--out", "out", folder=tables)
    content = content_of(tables / "out")
    return Stock(dataset or folder / "dataset", trained or folder / "run", folder / "export", content)


def _succeed(*arguments: str, folder: Path) -> None:
    result = run_command(*arguments, folder=folder)
    assert result.status == 0, result.err[-3000:]
