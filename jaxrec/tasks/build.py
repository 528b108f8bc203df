"""Which program a config asks for: of requests or of sequences."""

from jaxrec.config.schema import Config
from jaxrec.core.row_format import Layout
from jaxrec.tasks.base import Task
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.ranking import RankingTask


def build_task(
    config: Config, layout: Layout, threshold: float, steps_per_epoch: int, total_steps: int
) -> Task:  # fmt: skip
    kind = NextItemTask if layout.examples == "sequences" else RankingTask
    return kind(config, layout, threshold, steps_per_epoch, total_steps)
