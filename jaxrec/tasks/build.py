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

    Args:
        config: The run's config.
        layout: Layout of the dataset's rows.
        threshold: Mean completion of the training targets, in [0, 1].
        steps_per_epoch: Number of steps that read every training row once.
        total_steps: Number of steps of the whole run.

    Raises:
        InputError: The rows are not those that the task trains on.
    """
    entry = TASKS[config.task.name]
    if layout.rows != entry.rows:
        raise InputError(
            f"task.name={config.task.name!r} trains on {entry.rows} rows, "
            f"but the dataset holds {layout.rows} rows"
        )
    if not layout.has_candidates and entry.rows == "ranking":
        raise InputError(
            "data.examples='impressions': no head trains on the labels of exposures; allowed: 'requests', or "
            "the commands prepare and describe"
        )
    task: type[Task] = resolve(entry.target)
    return task(config, layout, threshold, steps_per_epoch, total_steps)
