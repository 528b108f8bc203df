"""A case of the corpus: an input, a command on it, and the answer that is right."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bad_inputs.command import Result, run_command

SAME = "the dataset of the stock tables"  # expected in place of a text


class Stock(NamedTuple):
    """Undamaged inputs that cases copy.

    Attributes:
        dataset: The tiny dataset.
        run: Workdir of a training on it, evaluated with --per-user.
        export: Export of the run.
        content: That of the dataset of the stock tables.
    """

    dataset: Path = Path()
    run: Path = Path()
    export: Path = Path()
    content: str = ""

    def copy(self, name: str, to: Path) -> Path:
        """Copy a folder of the stock and return its path."""
        return Path(shutil.copytree(getattr(self, name), to / name))


def content_of(dataset: Path) -> str:
    """Return a digest of the rows and arrays of a dataset."""
    digest = hashlib.sha256()
    for path in sorted(dataset.glob("*[!n]")):  # all but the manifest, which has the names of the sources
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class Case(NamedTuple):
    """One input.

    Attributes:
        name: What is wrong, or unusual.
        make: Called with an empty folder, and the stock.
        command: Name and arguments of the command, which runs in the folder.
        text: For status 0: a part of the output, or SAME; else a part of the one line.
        status: Exit status.
        slow: Left out of the short form.
    """

    name: str
    make: Callable[[Path, Stock], None]
    command: tuple[str, ...]
    text: str
    status: int = 2
    slow: bool = False


def fault_of(case: Case, folder: Path, stock: Stock) -> str:
    """Run a case; return what is wrong with the answer, "" where it is right."""
    case.make(folder, stock)
    result = run_command(*case.command, folder=folder)
    fault = _fault(case, result, folder, stock)
    return fault and f"{fault}\nstatus {result.status}\n{result.out[-1500:]}\n{result.err[-1500:]}"


def _fault(case: Case, result: Result, folder: Path, stock: Stock) -> str:
    if result.has_traceback:
        return "a traceback"
    if result.status != case.status:
        return f"status {result.status} in place of {case.status}"
    if case.status == 0:
        if case.text is SAME:
            return "" if content_of(folder / "out") == stock.content else "another dataset"
        return "" if case.text in result.out + result.err else f"no {case.text!r} in the output"
    if len(result.error_lines) != 1 or not result.err.rstrip().splitlines()[-1].startswith("error: "):
        return f"{len(result.error_lines)} lines of error in place of one"
    return "" if case.text in result.error_lines[0] else f"no {case.text!r} in the line"
