"""Rules of windows and targets of sequences, beside those of every task on sequences."""

import math

from jaxrec.config.heads import label_heads
from jaxrec.config.schema import Config
from jaxrec.config.tree import require
from jaxrec.core.registry import BLOCK_LOCAL_ENCODERS


def check_windows(config: Config) -> None:
    """Raise InputError for a share of the latest windows that is no share, or that nothing reads."""
    share, window = config.sampling.latest_share, config.sampling.window
    require(0 <= share <= 1, "sampling.latest_share", share, "be in [0, 1]")
    allowed = f"be 0.5 with sampling.window={window!r}: it is of 'mixed'"
    require(window == "mixed" or share == 0.5, "sampling.latest_share", share, allowed)


def check_attention_span(config: Config) -> None:
    """Raise InputError for a span that the encoder does not have or that leaves a part chunk."""
    span, key = config.model.attention_span, "model.attention_span"
    require(span >= 0, key, span, "be at least 0")
    if not span:
        return
    allowed = f"be 0 with task.name={config.task.name!r}: it is of tasks on sequences"
    require(config.rows == "next_item", key, span, allowed)
    expert = config.model.experts[0]
    allowed = f"be 0 with encoder={expert.encoder!r}: block-local are {', '.join(BLOCK_LOCAL_ENCODERS)}"
    require(expert.encoder in BLOCK_LOCAL_ENCODERS, key, span, allowed)
    allowed = f"divide model.experts[0].max_len={expert.max_len}"
    require(expert.max_len % span == 0, key, span, allowed)


def check_delay_hours(config: Config) -> None:
    """Raise InputError for delays that no score can have, or of a task without times of plays."""
    hours, key = config.evaluate.delay_hours, "evaluate.delay_hours"
    allowed = f"be empty with task.name={config.task.name!r}: rows of sequences hold times"
    require(config.rows == "next_item" or not hours, key, hours, allowed)
    allowed = "be empty with next_item.weight=0: such a model ranks no titles"
    require(config.next_item.weight > 0 or not hours, key, hours, allowed)
    for i, value in enumerate(hours):
        require(0 <= value < math.inf, f"{key}[{i}]", value, "be a finite number, at least 0")
        require(hours.index(value) == i, f"{key}[{i}]", value, "be unlike the delays before it")


def check_projection(config: Config) -> None:
    """Raise InputError for projections of outputs and titles that no score has."""
    width, key = config.model.project, "model.project"
    require(width >= 0, key, width, "be at least 0")
    if not width:
        return
    allowed = f"be 0 with task.name={config.task.name!r}: projections are of next_item and preference"
    require(config.task.name in ("next_item", "preference"), key, width, allowed)
    allowed = "be 0 with model.output_maps=True: its matrices are of the model's width"
    require(not config.model.output_maps, key, width, allowed)


def check_title_weight(config: Config) -> None:
    """Raise InputError for a weight of the next titles that is no weight, or that leaves nothing to learn."""
    weight, key = config.next_item.weight, "next_item.weight"
    require(0 <= weight < math.inf, key, weight, "be a finite number, at least 0")
    allowed = f"be 1 with task.name={config.task.name!r}: it is of the task next_item"
    require(config.task.name == "next_item" or weight == 1, key, weight, allowed)
    allowed = "be 1 without objective.heads: it is a weight beside theirs"
    require(weight == 1 or any(head.weight for head in config.objective.heads), key, weight, allowed)
    allowed = "be above 0 without a head of a label or a reward: nothing else measures the model"
    require(bool(weight or label_heads(config)), key, weight, allowed)


def check_horizon(config: Config) -> None:
    """Raise InputError for the first setting of several targets of a position that is out of range."""
    objective = config.next_item
    hours = objective.horizon_hours
    require(hours >= 0, "next_item.horizon_hours", hours, "be at least 0")
    half_life = objective.half_life_hours
    require(half_life > 0, "next_item.half_life_hours", half_life, "be above 0")
    require(objective.most >= 1, "next_item.most", objective.most, "be at least 1")
    allowed = f"be 0 with task.name={config.task.name!r}: next_item alone has several targets of a position"
    is_next_item = config.task.name == "next_item"
    require(is_next_item or not hours, "next_item.horizon_hours", hours, allowed)
