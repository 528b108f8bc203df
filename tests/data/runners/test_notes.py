"""Tests of notes on well-formed but wrong data, of reasons for empty splits, and of changed source files."""

import json
from pathlib import Path

import pytest

from jaxrec.config.schema import Columns, Config, Data, Feature, Tables
from jaxrec.core.errors import InputError
from jaxrec.data.runners.run import ensure_dataset
from jaxrec.data.storage.dataset import MANIFEST

UNITS = "check source.columns.seconds_unit and source.columns.runtime_unit"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tables(titles=200, users=120, plays=14, runtime=60, prefix="u", power=1):
    """Write the users' plays of a catalogue; play n has (97 n modulo 3600) seconds."""
    rows = "".join(f"t{i},{runtime}\n" for i in range(titles))
    Path("titles.csv").write_text("title_id,runtime_minutes\n" + rows)
    log = [
        f"u{n // plays},t{n**power * 37 % titles},{1_600_000_000 + n * 5000},{n * 97 % 3600}\n"
        for n in range(users * plays)
    ]
    Path("log.csv").write_text("user_id,title_id,time,seconds_viewed\n" + "".join(log))
    Path("users.csv").write_text("user_id,segment\n" + "".join(f"{prefix}{u},a\n" for u in range(users)))


def config(users=False, **data):
    features = (Feature("title_id", "category", "title", 8),)
    if users:
        features += (Feature("segment", "category", "user", 8),)
    pools = {"hard": 4, "trending": 4, "tailing": 4, "random": 4, "negatives": 10}
    return Config(
        source=Tables("log.csv", "titles.csv", "users.csv" if users else "", Columns(time_unit="s")),
        features=features,
        data=Data(**({"train_share": 0.6, "validation_share": 0.2} | pools | data)),
    )


def manifest(directory):
    return json.loads(Path(directory, MANIFEST).read_text())


def notes(config, directory="d"):
    ensure_dataset(config, directory)
    return manifest(directory)["notes"]


def test_plays_longer_than_the_runtime_are_noted_with_their_number(folder):
    tables()
    assert notes(config()) == []
    tables(runtime=1)  # hours in place of minutes: a play above 120 s is longer than twice the runtime
    long = sum(n * 97 % 3600 > 120 for n in range(1680))
    # With equal completions the made log's users are copies of one another, which the audit notes too.
    assert notes(config(), "hours")[:1] == [
        f"{long:,} of 1,680 plays ({long / 1680:.1%}) are longer than twice the title's runtime and have "
        f"completion 1: {UNITS}"
    ]


def test_a_users_table_that_matches_nobody_is_noted(folder):
    tables(prefix="user-")
    [note] = notes(config(users=True))
    assert note.startswith("none of 120 users of the log is in the users table")
    tables()
    assert notes(config(users=True), "matched") == []


def test_examples_left_out_for_want_of_titles_are_noted(folder):
    tables(titles=26, power=2)  # squares modulo 26: users differ in how many titles they played
    note = notes(config())[0]
    lost = manifest("d")["counts"]["train examples with too few titles left"]
    total = lost + manifest("d")["splits"]["train"]["examples"]
    assert 0 < lost < total
    assert note == (
        f"{lost:,} of {total:,} train examples are left out: too few titles are left that the user never "
        "played; an example needs 16 titles for the pools (data.hard=4, data.trending=4, data.tailing=4, "
        "data.random=4)"
    )


def reason(config):
    with pytest.raises(InputError) as error:
        ensure_dataset(config, "bad")
    return str(error.value)


def test_the_reason_of_an_empty_split(folder):
    empty = "source: no {} example is left; allowed: at least one in every split; reason: {}"
    tables(runtime=3600)  # seconds in place of minutes
    assert reason(config()) == empty.format(
        "train", "all 1,680 plays have a completion below data.abandon_threshold=0.05: " + UNITS
    )
    tables(titles=10)
    assert "an example needs 16 titles for the pools" in reason(config())
    tables(plays=1)
    assert "no user has two titles" in reason(config())
    tables(users=2)
    assert "none of 2 users is drawn for it, with data.train_share=0.6" in reason(config())
    tables()
    dates = {"split": "time", "validation_from": "2021-01-01", "test_from": "2021-02-01"}
    assert reason(config(**dates)) == empty.format(
        "validation", "no user has a target from data.validation_from=2021-01-01 to data.test_from=2021-02-01"
    )


def test_a_log_that_changed_is_refused_and_one_that_moved_is_not(folder):
    tables()
    ensure_dataset(config(), "d")
    before = manifest("d")
    ensure_dataset(config(), "d")
    with open("log.csv", "a") as file:
        file.write("u1,t1,1600000001,5\n")
    changed = r"^dataset d: was prepared from files that have changed: log\.csv had .* bytes now; allowed"
    with pytest.raises(InputError, match=changed):
        ensure_dataset(config(), "d")
    tables()  # the same content with another date
    ensure_dataset(config(), "d")
    ensure_dataset(config(), "again")
    assert manifest("again")["fingerprint"] == before["fingerprint"]
    (folder / "log.csv").unlink()
    ensure_dataset(config(), "d")


def test_a_user_with_many_plays_is_noted(folder):
    """One key stands for 400 plays beside 120 users of 14 each: 19.2% of the log, and 23 times the mean."""
    tables()
    with Path("log.csv").open("a") as log:
        log.writelines(f"robot,t{n % 200},{1_700_000_000 + n * 5000},{n * 97 % 3600}\n" for n in range(400))
    note = notes(config())[0]
    assert note.startswith("one user has 400 of 2,080 plays (19.2%), 23 times the mean: ")
