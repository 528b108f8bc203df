"""Break important lines one by one and check that the default suite fails on each:

    python -m tests.broken [--only N ...] [--match TEXT] [--list]

The tracked files are copied to a temporary folder, where the tests of the chosen lines must pass. Then the
text of each line in turn is replaced there, and the tests of the line are run. Prints a table, "seen" where a
test failed and "NOT SEEN" where all passed, and exits with status 1 if a line is not seen. All entries take
about half an hour of a core.
tests/test_broken_lines.py keeps the table true: each text stands exactly once in its file.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.broken import LINES, ROOT, Line


def copy_tracked(to: Path) -> None:
    """Copy the repository's tracked files, as they are in the working tree."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)


def run_tests(tests: Sequence[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run tests in `folder` up to the first that fails; return the exit status and the last line printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1:] or done.stderr.strip().splitlines()[-1:] or [""]
    return done.returncode, last[0]


def first_failure(tests: Sequence[str], folder: Path, environment: dict[str, str]) -> str:
    """Return the last line of pytest where a test fails; "" where all pass."""
    status, last = run_tests(tests, folder, environment)
    return last if status else ""


def is_seen(line: Line, folder: Path, environment: dict[str, str]) -> tuple[bool, str]:
    """Break `line` in `folder`; return whether its test fails, and the last line that pytest printed."""
    path = folder / line.file
    text = path.read_text()
    if text.count(line.old) != 1:
        raise SystemExit(
            f"{line.file}: {line.old!r} stands there {text.count(line.old)} times; allowed: once"
        )
    path.write_text(text.replace(line.old, line.new))
    try:
        status, last = run_tests(line.tests, folder, environment)
    finally:
        path.write_text(text)
    # 1: a test failed. Another status is no test at all: a wrong name, an error of collection.
    return status == 1, last


def main(numbers: list[int]) -> int:
    """Break the lines of these numbers in turn; return 1 if one is not seen."""
    chosen = [(n, LINES[n]) for n in numbers]
    missed = []
    with tempfile.TemporaryDirectory(prefix="jaxrec-broken-") as name:
        folder = Path(name) / "jaxrec"
        copy_tracked(folder)
        # No bytecode: a file broken and restored within a second would be taken for the one before it.
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        unbroken = sorted({test for _, line in chosen for test in line.tests})
        if failure := first_failure(unbroken, folder, environment):
            print(f"no line is broken: a test fails without a break: {failure}")
            return 1
        for n, line in chosen:
            started = time.monotonic()
            seen, last = is_seen(line, folder, environment)
            missed += [] if seen else [n]
            print(
                f"{n:3} {'seen' if seen else 'NOT SEEN':8} {time.monotonic() - started:6.1f} s  {line.file}: "
                f"{line.guards}" + ("" if seen else f"  ({last})"), flush=True,
            )  # fmt: skip
    print(f"{len(chosen) - len(missed)} of {len(chosen)} seen" + (f"; not seen: {missed}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=int, nargs="+", default=[], metavar="N", help="numbers of lines")
    parser.add_argument("--match", default="", metavar="TEXT", help="lines whose file or name holds TEXT")
    parser.add_argument("--list", action="store_true", help="print the table and run nothing")
    options = parser.parse_args()
    numbers = [
        n
        for n, line in enumerate(LINES)
        if (not options.only or n in options.only) and options.match in f"{line.file}: {line.guards}"
    ]
    if options.list:
        for n, line in ((n, LINES[n]) for n in numbers):
            print(f"{n:3} {line.file}: {line.guards}  [{', '.join(line.tests)}]")
        sys.exit()
    sys.exit(main(numbers))
