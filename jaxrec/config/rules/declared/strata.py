"""Rules of the strata by which examples are weighed."""

import math

from jaxrec.config.schema import Config
from jaxrec.config.tree import among, require


def check_strata(config: Config) -> None:
    """Raise InputError unless the strata are the values of a category of the user."""
    strata, power = config.sampling.strata, config.sampling.strata_power
    require(math.isfinite(power), "sampling.strata_power", power, "be a finite number")
    if not strata:
        allowed = "be 1 with an empty sampling.strata: there is nothing to weigh by"
        require(power == 1, "sampling.strata_power", power, allowed)
        return
    allowed = f"be empty with task.name={config.task.name!r}: rows of sequences hold no features of users"
    require(config.rows == "ranking", "sampling.strata", strata, allowed)
    names = [f.name for f in config.features if f.where == "user" and f.kind == "category"]
    allowed = "be empty: no feature has kind='category' and where='user'"
    require(bool(names), "sampling.strata", strata, allowed)
    among("sampling.strata", strata, names)
