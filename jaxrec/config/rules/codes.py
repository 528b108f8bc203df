"""Rules of codes of titles, and of the task that generates them."""

import math

from jaxrec.config.declarations import Codes
from jaxrec.config.schema import Config, Simulator
from jaxrec.config.tree import among, require

GENERATIVE = "generative"
CODES = "codes"  # kind of a feature
_OF_FEATURES = ("levels", "size", "vectors", "path")  # fields that a feature of kind "codes" reads
_MOST_PATHS = 2**24  # rows of the table of prefixes
_LEAST = {"levels": 1, "size": 2, "places": 1, "decoder": 1, "experts": 1, "beam": 1, "titles": 1}


def has_codes(config: Config) -> bool:
    """Return True if the model of a config generates codes of titles, or reads them as a feature."""
    return config.task.name == GENERATIVE or any(f.kind == CODES for f in config.features)


def check_codes(config: Config) -> None:
    """Raise InputError for the first invalid field of `codes`; those that nothing reads have defaults."""
    codes, default = config.codes, Codes()
    _check_features(config)
    if config.task.name != GENERATIVE:
        is_read, such = has_codes(config), f"be {{!r}} with task.name={config.task.name!r}"
        for name, value in vars(default).items():
            set_to = getattr(codes, name)
            allowed = f"{such.format(value)}: codes are of the task {GENERATIVE!r}"
            require(set_to == value or (is_read and name in _OF_FEATURES), f"codes.{name}", set_to, allowed)
    for name, least in _LEAST.items():
        require(getattr(codes, name) >= least, f"codes.{name}", getattr(codes, name), f"be at least {least}")
    if isinstance(config.source, Simulator) and has_codes(config):
        check_room(codes, config.source.titles)
    if config.task.name != GENERATIVE:
        return
    window = config.model.experts[0].max_len
    allowed = f"be at most model.experts[0].max_len={window}"
    require(codes.places <= window, "codes.places", codes.places, allowed)
    _check_sessions(config)
    such = f"with task.name={GENERATIVE!r}"
    for key, value, wanted, why in (
        ("next_item.loss", config.next_item.loss, "softmax", "its loss is over all codes"),
        ("next_item.personalised", config.next_item.personalised, False, "its positions weigh alike"),
        ("next_item.temperature", config.next_item.temperature, 1.0, "its logits have no divisor"),
        ("sampling.stochastic_length", config.sampling.stochastic_length, 0.0, "it trains on some positions"),
    ):
        require(value == wanted, key, value, f"be {wanted!r} {such}: {why}")


def _check_features(config: Config) -> None:
    """Check the features of kind "codes": of titles, and with a table of prefixes that fits."""
    of_codes = [(i, f) for i, f in enumerate(config.features) if f.kind == CODES]
    for i, feature in of_codes:
        require(feature.where == "title", f"features[{i}].where", feature.where, "be title with kind='codes'")
    paths = config.codes.size**config.codes.levels
    allowed = f"give at most {_MOST_PATHS:,} paths size^levels with a feature of kind 'codes', not {paths:,}"
    require(not of_codes or paths <= _MOST_PATHS, "codes.levels", config.codes.levels, allowed)


def _check_sessions(config: Config) -> None:
    """Check the sessions of several titles, whose settings have their defaults for single titles."""
    codes, default = config.codes, Codes()
    window = config.model.experts[0].max_len
    require(
        codes.titles <= window, "codes.titles", codes.titles, f"be at most model.experts[0].max_len={window}"
    )
    finite = 0 < codes.gap_hours < math.inf
    require(finite, "codes.gap_hours", codes.gap_hours, "be a finite number above 0")
    if codes.titles == 1:
        for name in ("gap_hours", "reward"):
            value, wanted = getattr(codes, name), getattr(default, name)
            require(value == wanted, f"codes.{name}", value, f"be {wanted!r} with codes.titles=1: no session")
    elif codes.reward:
        require(bool(config.rewards), "codes.reward", codes.reward, "be empty: the config declares no reward")
        among("codes.reward", codes.reward, [reward.name for reward in config.rewards])


def check_room(codes: Codes, titles: int) -> None:
    """Raise InputError if there are fewer paths than titles."""
    paths = codes.size**codes.levels
    allowed = f"give at least as many paths size^levels as there are titles, {titles:,}, not {paths:,}"
    require(paths >= titles, "codes.size", codes.size, allowed)
