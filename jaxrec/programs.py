"""Which program a config asks for: of requests or of sequences."""

from jaxrec.config import Config
from jaxrec.schema import Layout
from jaxrec.sequence_step import SequenceProgram
from jaxrec.step import Program
from jaxrec.training import Training


def make(
    config: Config, layout: Layout, threshold: float, steps_per_epoch: int, total_steps: int
) -> Training:  # fmt: skip
    kind = SequenceProgram if layout.examples == "sequences" else Program
    return kind(config, layout, threshold, steps_per_epoch, total_steps)
