"""Rules of the trunk and the cross network that several heads share."""

from jaxrec.config.rules.declared.heads import pair_heads
from jaxrec.config.schema import Config
from jaxrec.config.tree import require


def check_cross(config: Config) -> None:
    """Raise InputError if there can be no cross network of `model.cross` layers."""
    model = config.model
    require(model.cross >= 0, "model.cross", model.cross, "be at least 0")
    rank = model.cross_rank
    require(rank >= 0, "model.cross_rank", rank, "be at least 0")
    if not model.cross:
        require(not rank, "model.cross_rank", rank, "be 0 with model.cross=0: there is no cross layer")
        return
    allowed = f"be 0 with task.name={config.task.name!r}: it has no heads on user and title"
    require(config.rows == "ranking", "model.cross", model.cross, allowed)
    allowed = f"be 0 with model.head={model.head!r}: a dot product has no first layer"
    require(model.head == "matcher", "model.cross", model.cross, allowed)
    allowed = f"be 0 with model.trunk={model.trunk!r}: heads of a trunk read its experts alone"
    require(model.trunk == "shared", "model.cross", model.cross, allowed)
    require(len(pair_heads(config)) > 0, "model.cross", model.cross, "be 0 without a head on pairs")


def check_trunk(config: Config) -> None:
    """Raise InputError for the first setting of the trunk that does not fit the heads or the task."""
    model = config.model
    for name in ("trunk_experts", "trunk_width", "trunk_levels"):
        require(getattr(model, name) >= 1, f"model.{name}", getattr(model, name), "be at least 1")
    require(model.trunk_levels <= 2, "model.trunk_levels", model.trunk_levels, "be 1 or 2")
    one = model.trunk_levels == 1 or model.trunk == "ple"
    require(one, "model.trunk_levels", model.trunk_levels, f"be 1 with model.trunk={model.trunk!r}")
    if model.trunk == "shared":
        return
    allowed = f"be shared with task.name={config.task.name!r}: it has a single score"
    require(config.rows == "ranking", "model.trunk", model.trunk, allowed)
    allowed = f"be shared with model.head={model.head!r}: a dot product has no trunk"
    require(model.head == "matcher", "model.trunk", model.trunk, allowed)
    heads = len(pair_heads(config))
    require(
        heads > 0, "model.trunk", model.trunk, "be shared without a head on pairs: they alone mix experts"
    )
    allowed = "be shared or mmoe with a single head: an expert of its own is one more shared expert there"
    require(heads > 1 or model.trunk != "ple", "model.trunk", model.trunk, allowed)
