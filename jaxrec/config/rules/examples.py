"""The rules of what a dataset's rows are of: requests or exposures, what was shown, users, one category."""

import re

from jaxrec.config.rules.post import PREFERENCE
from jaxrec.config.schema import Config, Data, Simulator
from jaxrec.config.tree import require

IMPRESSION = "impression"  # name of the signal whose events are exposures
_MOST_FOLDS = 1000
_NO_NEGATIVES = "an exposure has no negatives"


def parse_fold(fold: str) -> tuple[int, int]:
    """Return number and count of a fold: "2/5" gives (2, 5).

    Raises:
        InputError: The text is no such fraction, or no fold from 1 to the count.
    """
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", fold)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    allowed = f"be a fold of 2 to {_MOST_FOLDS:,}, from '1/5' to '5/5' of five, or empty"
    require(1 <= number <= count and 2 <= count <= _MOST_FOLDS, "data.fold", fold, allowed)
    return number, count


def parse_only(only: str) -> tuple[str, str]:
    """Return the feature and the value of `data.only`: "country=BR" gives ("country", "BR").

    Raises:
        InputError: The text is not of that form.
    """
    name, equals, value = only.partition("=")
    require(bool(name and equals and value), "data.only", only, "be a feature and its value, as 'country=BR'")
    return name, value


def training_share(data: Data) -> float:
    """Return the share of the users whose examples are for training; 1 unless users are split."""
    if data.split != "users":
        return 1.0
    if not data.fold:
        return data.train_share
    count = parse_fold(data.fold)[1]
    return (1 - 1 / count) * data.train_share / (data.train_share + data.validation_share)


def check_fold(config: Config) -> None:
    """Raise InputError unless data.fold is empty, or tests each user in one fold."""
    fold, source = config.data.fold, config.source
    if not fold:
        return
    parse_fold(fold)
    split = config.data.split
    require(split == "users", "data.fold", fold, f"be empty with data.split={split!r}: folds are of users")
    if isinstance(source, Simulator):
        allowed = "be 0 with data.fold: a user is tested in one fold"
        require(not source.test_only_users, "source.test_only_users", source.test_only_users, allowed)


def check_impressions(config: Config) -> None:
    """Raise InputError for what rows of exposures cannot have."""
    data, objective = config.data, config.objective
    if data.examples != "impressions":
        return
    with_it = "with data.examples='impressions'"
    allowed = f"be 'requests' where task.name is {config.task.name!r}: exposures are rows of the task ranking"
    require(config.rows == "ranking", "data.examples", data.examples, allowed)
    shown = [signal for signal in config.signals if (signal.name, signal.about) == (IMPRESSION, "title")]
    allowed = f"be 'requests' unless signals hold Signal({IMPRESSION!r}) about titles: its events are rows"
    require(bool(shown), "data.examples", data.examples, allowed)
    require(data.split != "last", "data.split", data.split, f"be 'users' or 'time' {with_it}")
    allowed = f"be 1 {with_it}: a row has one title"
    require(data.num_targets == 1, "data.num_targets", data.num_targets, allowed)
    for name in ("ctr", "ranking", "retrieval"):
        weight = getattr(objective, name)
        require(not weight, f"objective.{name}", weight, f"be 0 {with_it}: {_NO_NEGATIVES}")
    for i, feature in enumerate(config.features if not shown[0].column else ()):
        where = f"features[{i}].where"
        allowed = f"be title, user or interaction {with_it} unless the signal is a column of the log"
        require(feature.where != "context", where, feature.where, f"{allowed}: a table has no such columns")


def check_served(config: Config) -> None:
    """Raise InputError for served titles without impressions, or in rows that hold none."""
    data = config.data
    if not data.served:
        window, allowed = data.request_window_seconds, "be 0 with data.served=0: no impression is joined"
        require(not window, "data.request_window_seconds", window, allowed)
        return
    name = config.task.name
    allowed = f"be 0 where task.name is {name!r}: titles are served at requests, or at plays of a policy"
    require(config.rows == "ranking" or name == PREFERENCE, "data.served", data.served, allowed)
    allowed = "be 0 with data.examples='impressions': an exposure has no negatives"
    require(data.examples == "requests", "data.served", data.served, allowed)
    shown = any((signal.name, signal.about) == (IMPRESSION, "title") for signal in config.signals)
    allowed = f"be 0 unless signals hold Signal({IMPRESSION!r}) about titles: its events are what was served"
    require(shown, "data.served", data.served, allowed)
