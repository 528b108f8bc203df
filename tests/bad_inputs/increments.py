"""Cases of the data of a day, of both doors that they come through: values, and an earlier dataset."""

from pathlib import Path

from tests.bad_inputs.case import Case, Stock
from tests.bad_inputs.configs import TINY, config, nothing


def _prepare(name: str, text: str, *flags: str) -> Case:
    """Return a case of a preparation of the tiny config with flags."""
    command = ("prepare", "--config", TINY, "--out", "out", *(f"--config.data.{flag}" for flag in flags))
    return Case(f"prepare {name}", nothing, command, text)


VALUE_CASES = [
    _prepare("since a day that is no date", "data.since='tomorrow' must be a date", "since=tomorrow"),
    _prepare("until a day that is no date", "data.until='2025-02-30' must be a date", "until=2025-02-30"),
    _prepare(
        "since a day after until", "data.since='2025-01-02' must be before until='2025-01-01'",
        "since=2025-01-02", "until=2025-01-01",
    ),
    _prepare(
        "since a day after the validation begins", "data.since='2025-01-01' must be before validation_from",
        "split=time", "validation_from=2024-12-20", "test_from=2025-01-03", "since=2025-01-01",
    ),
    _prepare(
        "until a day before the test begins", "data.until='2025-01-03' must be after test_from",
        "split=time", "validation_from=2024-12-20", "test_from=2025-01-03", "until=2025-01-03",
    ),
    _prepare("an empty day", "is left; allowed: at least one in every split; reason: rows are of the targets of "
             "data.since=2030-01-01 alone", "since=2030-01-01"),
    _prepare("until before the log begins", "source: no play of a training user remains", "until=2001-01-01"),
    _prepare("replay of 120%", "data.replay=1.2 must be in [0, 1]", "since=2025-01-01", "replay=1.2"),
    _prepare("replay of no older target", "data.replay=0.1 must be 0 without data.since", "replay=0.1"),
    _prepare("only without a value", "data.only='segment' must be a feature and its value", "only=segment"),
    _prepare("only of an unknown feature", "data.only='country=BR' must name a category of user or context: "
             "segment, segment2, device, hour", "only=country=BR"),
    _prepare("only of a feature of titles", "data.only='form=film' must name a category", "only=form=film"),
    _prepare("only of an unknown value", "data.only='device=fridge': device has no such value; allowed: phone, "
             "tablet, tv, web", "only=device=fridge"),
    _prepare("a capacity of 0", "data.capacity=0 must be at least 1", "capacity=0"),
    _prepare("a capacity far too large", "data.capacity=99999999 must be at most 16,777,216", "capacity=99999999"),
    _prepare("an earlier dataset that is not there", "data.continues='no-such': dataset no-such: no manifest.json",
             "continues=no-such"),
    _prepare("an earlier dataset in an unknown place", "data.continues=ftp://x/d: ftp:// is not supported", "continues=ftp://x/d"),
    _prepare("a dataset that continues itself", "data.continues='d' must be another folder than data.directory",
             "continues=d", "directory=d"),
]  # fmt: skip


def _beside(*lines: str):
    """Return a function that copies the tiny dataset, and writes the tiny config with edits."""

    def make(folder: Path, stock: Stock) -> None:
        stock.copy("dataset", folder)
        config(*lines)(folder, stock)

    return make


def _continue(name: str, text: str, *lines: str) -> Case:
    """Return a case of a preparation that continues the tiny dataset, of the tiny config with edits."""
    flags = ("--out", "out", "--config.data.continues=dataset")
    return Case(f"continue {name}", _beside(*lines), ("prepare", "--config", "configs2/c.py", *flags), text)


CONTINUED_CASES = [
    _continue(
        "rows of requests with sequences", "data.continues='dataset': holds rows of requests, not of next_item",
        "from configs import sequences",
        "s, c.task.name = sequences.get_config('simulated'), 'next_item'",
        "s.source, s.features, s.data = c.source, c.features[:1], c.data",
        "s.data.num_targets, s.data.max_history, c = 1, 32, s",
    ),
    _continue(
        "with a feature less", "data.continues='dataset': feature 11 is age (number of interaction, most=0) there "
        "and absent here", "c.features = c.features[:-1]",
    ),
    _continue(
        "with a feature of another kind", "data.continues='dataset': feature 3 is form (category of title, "
        "most=0) there and form (number of title, most=0) here", "c.features[2].kind = 'number'",
    ),
]  # fmt: skip
