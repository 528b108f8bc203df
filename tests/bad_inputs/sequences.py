"""Door "configs and flags": settings of windows and targets of sequences."""

from pathlib import Path

from tests.bad_inputs.case import Case
from tests.bad_inputs.configs import nothing

SEQUENCES = str(Path(__file__).resolve().parents[2] / "configs" / "sequences.py")
GENERATIVE = str(Path(SEQUENCES).with_name("onerec.py"))


def value(key: str, content: str, text: str, config: str = f"{SEQUENCES}:simulated") -> Case:
    """Return a case of one value on the command line, of a config of sequences."""
    command = ("train", "--config", config, "--workdir", "w", f"--config.{key}={content}")
    return Case(f"{key}={content} of {Path(config).name}", nothing, command, text)


CASES = [
    value("next_item.horizon_hours", "-1", "next_item.horizon_hours=-1.0 must be at least 0"),
    value("next_item.half_life_hours", "0", "next_item.half_life_hours=0.0 must be above 0"),
    value("next_item.most", "0", "next_item.most=0 must be at least 1"),
    value("next_item.most", "100", "next_item.most=100 must be at most 64"),
    value(
        "sampling.latest_share", "0.7", "sampling.latest_share=0.7 must be 0.5 with sampling.window='latest'"
    ),
    value("sampling.latest_share", "1.5", "sampling.latest_share=1.5 must be in [0, 1]"),
    value("sampling.window", "mixt", "sampling.window='mixt' must be one of latest, random, mixed"),
    value(
        "next_item.horizon_hours",
        "24",
        "next_item.horizon_hours=24.0 must be 0 with task.name='generative'",
        f"{GENERATIVE}:tiny",
    ),
]
