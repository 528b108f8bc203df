"""The rules of what a model may read: outcomes of a request are no features of the request."""

from collections.abc import Iterator

from jaxrec.config.heads import TITLE, labels_read
from jaxrec.config.rules.declared.signals import EVERY_ROW
from jaxrec.config.schema import Config, Feature, Tables
from jaxrec.config.tree import among, require
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
        if feature.where == "label":
            _check_label(key, feature, config)
        for column in name.split("|") if feature.where != "label" else ():
            allowed = (
                f"be after in a config with offline=True, or the feature {name!r} left out: it is an outcome "
                f"(by {outcomes.get(column)}), unknown when the title is requested"
            )
            is_known = column not in outcomes
            require(is_known or available == "after", f"{key}.available", available, allowed)
        allowed = f"be request: {name!r} is known after the request, and only offline=True allows that"
        require(config.offline or available == "request", f"{key}.available", available, allowed)


def _check_label(key: str, feature: Feature, config: Config) -> None:
    """Check a feature that is a label of the target."""
    labels = [label.name for label in config.labels]
    require(bool(labels), f"{key}.where", feature.where, "not be label: the config declares none")
    among(f"{key}.name", feature.name, labels)
    require(feature.kind == "number", f"{key}.kind", feature.kind, "be number, as of every label")
    allowed = "be after in a config with offline=True: a label is an outcome"
    require(feature.available == "after", f"{key}.available", feature.available, allowed)


def check_observed_labels(config: Config) -> None:
    """Raise InputError unless labels that a model reads are early ones of the only title it is about.

    A model that reads labels of the target predicts later labels of this target. A drawn title has none of
    its own, and a label that is final no earlier than the predicted one gives the answer away.
    """
    observed = {feature.name for feature in config.observed_labels}
    if not observed:
        return
    why = "with features of where='label', which are labels of the first target alone"
    for name in ("ctr", "ranking", "retrieval"):
        weight = getattr(config.objective, name)
        require(not weight, f"objective.{name}", weight, f"be 0 {why}")
    next_k, requests = config.sampling.next_k, config.data.examples == "requests"
    require(next_k == 1, "sampling.next_k", next_k, f"be 1 {why}")
    longest = max(label.hours for label in config.labels if label.name in observed)
    for i, head in enumerate(config.objective.heads):
        for label in labels_read(head.of, config) if not head.of.startswith(TITLE) else ():
            where = f"objective.heads[{i}].of"
            allowed = f"read labels of more than {longest:g} hours, those that features hold"
            require(label.hours > longest, where, head.of, f"{allowed}; {label.name!r} has {label.hours:g}")
            allowed = f"read labels with of_drawn='unknown' {why}"
            require(not requests or label.of_drawn == "unknown", where, head.of, allowed)


def check_ranks_titles(config: Config) -> None:
    """Raise InputError for a run whose model must not rank titles."""
    if config.offline:
        raise InputError(
            f"the run {config.name!r} has offline=True: its model reads what is known after a request, so it "
            "ranks no titles; allowed: a run with offline=False"
        )
    if not config.next_item.weight:
        raise InputError(
            f"the run {config.name!r} has next_item.weight=0: its titles have no loss, so it ranks none; "
            "allowed: a run with a weight above 0"
        )
