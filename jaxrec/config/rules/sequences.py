"""Rules of windows and targets of sequences, beside those of every task on sequences."""

from jaxrec.config.schema import Config
from jaxrec.config.tree import require


def check_windows(config: Config) -> None:
    """Raise InputError for a share of the latest windows that is no share, or that nothing reads."""
    share, window = config.sampling.latest_share, config.sampling.window
    require(0 <= share <= 1, "sampling.latest_share", share, "be in [0, 1]")
    allowed = f"be 0.5 with sampling.window={window!r}: it is of 'mixed'"
    require(window == "mixed" or share == 0.5, "sampling.latest_share", share, allowed)


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
