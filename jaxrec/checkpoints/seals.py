"""Checksums of the files of a checkpoint, written beside them once the step is complete.

Orbax stores no hash of the values of an array. A step without checksums was written before they existed, or
its process was killed just after the step was complete; it is read without the comparison.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import logging

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import ANY_KEY, check_shape, parse_json, write_json
from jaxrec.core.paths import AnyPath, inside
from jaxrec.runtime.checksums import DamagedFileError, checksum, checksum_of, verify

CHECKSUMS = "checksums.json"  # in the folder of a step
DAMAGED = "damaged-"  # start of the name of a step that was set aside
_POLL_SECONDS = 0.01
_SMALL_ITEMS = ("meta", "metrics")
ADVICE = "give another checkpoint, or remove the folder of this step"


def seal(step: Path) -> None:
    """Write the checksums of a complete step; nothing if the step was deleted meanwhile."""
    try:
        files = sorted(path for path in step.rglob("*") if path.is_file() and path.name != CHECKSUMS)
        write_json(step / CHECKSUMS, {str(path.relative_to(step)): checksum(path) for path in files})
    except FileNotFoundError:
        logging.info("checkpoint %s: was deleted before its checksums were written", step)


def digest(step: AnyPath) -> str:
    """Return the sha256 of the checksums of a step, which no other save has; "" without checksums."""
    path = step / CHECKSUMS
    return checksum_of(path.read_bytes())["sha256"] if path.exists() else ""


def finish_and_seal(wait_until_finished: Callable[[], None], step: Path) -> None:
    """Wait until Orbax has written a step, and seal it."""
    wait_until_finished()
    if step.exists():
        seal(step)


def seal_when_complete(step: Path, closing: threading.Event) -> None:
    """Wait until Orbax has moved a step into place, then seal it.

    Args:
        step: Final folder of the step, which appears at once.
        closing: Set when no save is in progress any more.
    """
    while not step.exists() and not closing.wait(_POLL_SECONDS):
        pass
    if step.exists():
        seal(step)


def verify_step(step: Path, items: Sequence[str] = ()) -> None:
    """Compare the files of a step with their checksums.

    Args:
        step: Folder of the step.
        items: Items to compare; empty: all files.

    Raises:
        DamagedFileError: A file is missing or damaged.
    """
    path = step / CHECKSUMS
    if not path.exists():
        return
    what = f"checkpoint {step.parent}, step {step.name}"
    try:
        files = parse_json(path.read_bytes())
        check_shape(files, {ANY_KEY: {"bytes": int, "sha256": str}}, CHECKSUMS)
        selected = {n: e for n, e in files.items() if not items or n.partition("/")[0] in items}
    except (ValueError, OSError) as error:
        raise DamagedFileError(f"{what}: {CHECKSUMS} is damaged: {error}; {ADVICE}") from error
    for name, expected in selected.items():
        verify(inside(step, name), expected, f"{what}, {name.partition('/')[0]}", ADVICE)


def verify_steps(folder: Path) -> dict[int, int]:
    """Compare all files of all steps with their checksums.

    Args:
        folder: Folder of the checkpoints of a run.

    Returns:
        Step -> number of files compared; 0 for a step without checksums.

    Raises:
        DamagedFileError: A file is missing or damaged.
    """
    files = {}
    for step in sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda p: int(p.name)):
        verify_step(step)
        sealed = step / CHECKSUMS
        files[int(step.name)] = len(parse_json(sealed.read_bytes())) if sealed.exists() else 0
    return files


def set_damaged_aside(folder: Path) -> None:
    """Rename damaged steps, so that a run resumes from the newest undamaged one.

    All files of the newest undamaged step are compared, and the small ones of the steps before.

    Args:
        folder: Folder of the checkpoints of a run, which need not exist.

    Raises:
        InputError: All steps are damaged.
    """
    steps = sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name), reverse=True)
    kept = 0
    for step in steps:
        try:
            verify_step(step, _SMALL_ITEMS if kept else ())
            kept += 1
        except DamagedFileError as error:
            aside = step.with_name(f"{DAMAGED}{step.name}")
            step.rename(aside)
            logging.warning("%s; it is now called %s", str(error).rpartition(";")[0], aside.name)
    if steps and not kept:
        raise InputError(
            f"checkpoint {folder}: all {len(steps)} steps are damaged and were renamed to {DAMAGED}<step>; "
            "allowed: a new --workdir"
        )
