"""Progress of preparation: one bar per stage on a terminal, stage names elsewhere."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn


@contextlib.contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show the stages of a preparation on standard error.

    Yields:
        `report(stage, done, total)`; `total` is 0 where it is not known. On a terminal each stage has a bar
        with its rate and the time left; elsewhere the name of each stage is printed once.
    """
    tasks: dict[str, TaskID] = {}
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
                if bars.disable:
                    print(stage, file=sys.stderr, flush=True)
            bars.update(tasks[stage], completed=done)

        yield report
