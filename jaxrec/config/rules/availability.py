"""The rules of what a model may read: outcomes of a request are no features of the request."""

from collections.abc import Iterator

from jaxrec.config.rules.signals import EVERY_ROW
from jaxrec.config.schema import Config, Tables
from jaxrec.config.tree import require
from jaxrec.core.errors import InputError


def _outcomes(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the columns that hold outcomes of a request, each with what declares it."""
    source = config.source
    for name in source.outcome_columns:
        yield name, f"the columns of a {type(source).__name__} source"
    if isinstance(source, Tables):
        yield from ((name, "source.columns.seconds") for name in source.columns.seconds.split("|"))
        yield from ((name, "source.columns.outcomes") for name in source.columns.outcomes)
    for i, signal in enumerate(config.signals):
        if signal.column != EVERY_ROW:
            yield from ((name, f"signals[{i}].column") for name in signal.column.split("|"))


def check_availability(config: Config) -> None:
    """Raise InputError for the first feature that a model must not read.

    The features of interactions are of plays before the request, as of the request: no outcome of it.
    """
    if isinstance(config.source, Tables):
        for i, name in enumerate(config.source.columns.outcomes):
            require(bool(name), f"source.columns.outcomes[{i}]", name, "not be empty")
    outcomes = dict(_outcomes(config))
    for i, feature in enumerate(config.features):
        key, name, available = f"features[{i}]", feature.name, feature.available
        if feature.where == "interaction":
            allowed = f"be request: {name!r} of a play before the request is known by then"
            require(available == "request", f"{key}.available", available, allowed)
            continue
        for column in name.split("|"):
            allowed = (
                f"be after in a config with offline=True, or the feature {name!r} left out: it is an outcome "
                f"(by {outcomes.get(column)}), unknown when the title is requested"
            )
            is_known = column not in outcomes
            require(is_known or available == "after", f"{key}.available", available, allowed)
        allowed = f"be request: {name!r} is known after the request, and only offline=True allows that"
        require(config.offline or available == "request", f"{key}.available", available, allowed)


def check_ranks_titles(config: Config) -> None:
    """Raise InputError for a run whose model must not rank titles."""
    if config.offline:
        raise InputError(
            f"the run {config.name!r} has offline=True: its model reads what is known after a request, so it "
            "ranks no titles; allowed: a run with offline=False"
        )
