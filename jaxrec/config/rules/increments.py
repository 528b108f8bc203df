"""Rules of the data of a day: first and last day, replay, one category, an earlier dataset, capacity."""

from datetime import date

from jaxrec.config.rules.examples import parse_only
from jaxrec.config.schema import Config
from jaxrec.config.tree import require
from jaxrec.core.errors import InputError
from jaxrec.core.paths import scheme_of


def check_increments(config: Config) -> None:
    """Raise InputError for days that are no days or out of order, and for fields that need another one."""
    data = config.data
    days = {
        name: _day(name, getattr(data, name)) for name in ("since", "until", "validation_from", "test_from")
    }
    require(0 <= data.replay <= 1, "data.replay", data.replay, "be in [0, 1]")
    require(
        not data.replay or bool(data.since),
        "data.replay",
        data.replay,
        "be 0 without data.since: none is older",
    )
    require(data.capacity >= 1, "data.capacity", data.capacity, "be at least 1")
    first, last = days["since"], days["until"]
    if first and last:
        require(first < last, "data.since", data.since, f"be before until={data.until!r}")
    if data.split == "time":
        start, end = days["validation_from"], days["test_from"]
        if first and start:
            allowed = f"be before validation_from={data.validation_from!r}: else no target is for training"
            require(first < start, "data.since", data.since, allowed)
        if last and end:
            allowed = f"be after test_from={data.test_from!r}: else no target is for the test"
            require(last > end, "data.until", data.until, allowed)
    if data.continues:
        try:
            scheme_of(data.continues)
        except InputError as error:
            raise InputError(f"data.continues={error}") from None
        allowed = "be another folder than data.directory: a dataset cannot continue itself"
        require(data.continues != data.directory, "data.continues", data.continues, allowed)
    if data.only:
        _check_only(config)


def _day(name: str, text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"data.{name}={text!r} must be a date, as '2024-01-31', or empty") from None


def _check_only(config: Config) -> None:
    only = config.data.only
    name, _ = parse_only(only)
    places = ("user", "context") if config.rows == "ranking" else ("user",)
    named = [f for f in config.features if f.name == name and f.kind == "category" and f.where in places]
    categories = [f.name for f in config.features if f.kind == "category" and f.where in places]
    allowed = f"name a category of {' or '.join(places)}: {', '.join(categories) or 'features hold none'}"
    require(bool(named), "data.only", only, allowed)
