"""Construction of the task that a config names."""

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.registry import TASKS, resolve
from jaxrec.core.row_format import Layout
from jaxrec.tasks.base import Task


def build_task(
    config: Config, layout: Layout, threshold: float, steps_per_epoch: int, total_steps: int
) -> Task:
    """Return the task `config.task.name` on rows of `layout`.

    Raises:
        InputError: where the rows are not those that the task trains on.
    """
    entry = TASKS[config.task.name]
    if layout.rows != entry.rows:
        raise InputError(
            f"task.name={config.task.name!r} trains on {entry.rows} rows, "
            f"but the dataset holds {layout.rows} rows"
        )
    task: type[Task] = resolve(entry.target)
    return task(config, layout, threshold, steps_per_epoch, total_steps)
