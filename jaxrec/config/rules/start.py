"""Rules of a start from another run: what is taken, trained, anchored and distilled."""

from jaxrec.config.schema import Config, Start
from jaxrec.config.tree import require


def check_start(config: Config) -> None:
    """Raise InputError for the first setting of `start` or `objective.distil` that does not fit."""
    start, default = config.start, Start()
    for name in ("anchor", "noise", "low_rank"):
        require(getattr(start, name) >= 0, f"start.{name}", getattr(start, name), "be at least 0")
    for name in ("take", "adapt"):
        require(
            bool(getattr(start, name)), f"start.{name}", getattr(start, name), "hold at least one pattern"
        )
    if start.low_rank:
        allowed = "be {} with start.low_rank above 0: the factors alone are trained"
        require(not start.freeze, "start.freeze", start.freeze, allowed.format("empty"))
        require(start.optimizer == "fresh", "start.optimizer", start.optimizer, allowed.format("fresh"))
    else:
        allowed = f"be {default.adapt} with start.low_rank=0"
        require(start.adapt == default.adapt, "start.adapt", start.adapt, allowed)
    _check_distil(config)
    if not start.workdir:
        for name, value in vars(default).items():
            set_to = getattr(start, name)
            require(set_to == value, f"start.{name}", set_to, f"be {value!r} with an empty start.workdir")


def _check_distil(config: Config) -> None:
    weight, start, key = config.objective.distil, config.start, "objective.distil"
    require(weight >= 0, key, weight, "be at least 0")
    if not weight:
        return
    replicated = config.model.item_table_sharding == "replicated"
    require(config.rows == "ranking", key, weight, f"be 0 with task.name={config.task.name!r}")
    require(bool(start.workdir), key, weight, "be 0 with an empty start.workdir: there is no such model")
    require(replicated, key, weight, "be 0 with model.item_table_sharding='split'")
    require(start.rows != "initial", "start.rows", start.rows, f"be mean or metadata with {key}={weight:g}")
