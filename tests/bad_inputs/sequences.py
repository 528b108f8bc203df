"""Door "configs and flags": settings of windows and targets of sequences."""

from pathlib import Path

from tests.bad_inputs.case import Case
from tests.bad_inputs.configs import TINY, nothing

SEQUENCES = str(Path(__file__).resolve().parents[2] / "configs" / "sequences.py")
GENERATIVE = str(Path(SEQUENCES).with_name("onerec.py"))


def value(
    key: str, content: str, text: str, config: str = f"{SEQUENCES}:simulated", more: tuple[str, ...] = ()
) -> Case:
    """Return a case of one value on the command line, of a config of sequences; `more` are further flags."""
    command = ("train", "--config", config, "--workdir", "w", f"--config.{key}={content}", *more)
    return Case(f"{key}={content} of {Path(config).name}", nothing, command, text)


CASES = [
    value("model.attention_span", "5", "model.attention_span=5 must divide model.experts[0].max_len=32"),
    value("model.attention_span", "-8", "model.attention_span=-8 must be at least 0"),
    value("model.attention_span", "64", "model.attention_span=64 must divide model.experts[0].max_len=32"),
    value(
        "model.experts[0].encoder",
        "gru4rec",
        "model.attention_span=8 must be 0 with encoder='gru4rec': block-local are sasrec, hstu, ligr",
        more=("--config.model.attention_span=8",),
    ),
    value("model.attention_span", "7", "model.attention_span=7 must be 0 with task.name='ranking'", TINY),
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
