"""Construction of the task that a config names."""

from jaxrec.config.schema import Config
from jaxrec.core.registry import TASKS, resolve
from jaxrec.core.row_format import Layout
from jaxrec.tasks.base import Task


def build_task(
    config: Config, layout: Layout, threshold: float, steps_per_epoch: int, total_steps: int
) -> Task:
    """Return the task `("next_item" if layout.examples == "sequences" else "ranking")` on rows of `layout`."""
    name = "next_item" if layout.examples == "sequences" else "ranking"
    task: type[Task] = resolve(TASKS[name].target)
    return task(config, layout, threshold, steps_per_epoch, total_steps)
