"""The rules of what features may read: outcomes of a request, offline configs, digests."""

import json
from dataclasses import replace

import pytest

from jaxrec.config.rules.declared.availability import check_ranks_titles
from jaxrec.config.schema import (
    Columns,
    Config,
    Feature,
    KuaiRand,
    Mix,
    Objective,
    Sampling,
    Signal,
    Simulator,
    Tables,
    Tfds,
)
from jaxrec.config.serialization import digest, from_json, run_differences, to_json
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError

TITLE = Feature("title_id", "category", "title", 4)
TABLES = Tables("log.csv", "titles.csv", "users.csv", Columns(seconds="watched|seconds_viewed"))
KUAIRAND = KuaiRand("folder")
ALSO = replace(TABLES, columns=Columns(outcomes=("rewatched", "mean_rating")))
RATINGS = dict(
    objective=Objective(personalised=False, regression=0.0), sampling=Sampling(Mix(0, 0.5, 0.3, 0.2))
)


def config_of(name, source, where="context", available="request", **fields) -> Config:
    feature = Feature(name, "number", where, 4, available=available)
    return Config(source=source, features=(TITLE, feature), **fields)


def line(config: Config) -> str:
    with pytest.raises(InputError) as error:
        check(config)
    assert "\n" not in str(error.value)
    return str(error.value)


OUTCOMES = {
    "seconds": (config_of("seconds_viewed", TABLES), "source.columns.seconds"),
    "other seconds": (config_of("watched", TABLES), "source.columns.seconds"),
    "two names": (config_of("wait|watched", TABLES), "source.columns.seconds"),
    "signal": (
        config_of("thumbs", TABLES, signals=(Signal("a", table="a.csv"), Signal("b", column="thumb|thumbs"))),
        "signals[1].column",
    ),
    "list": (config_of("rewatched", ALSO), "source.columns.outcomes"),
    "list of titles": (config_of("mean_rating", ALSO, "title"), "source.columns.outcomes"),
    "list of users": (config_of("mean_rating", ALSO, "user"), "source.columns.outcomes"),
    "undeclared signal": (config_of("long_view", KUAIRAND), "the columns of a KuaiRand source"),
    "watch time": (config_of("play_time_ms", KUAIRAND), "the columns of a KuaiRand source"),
    "rating": (config_of("user_rating", Tfds("movielens"), **RATINGS), "the columns of a Tfds source"),
}


@pytest.mark.parametrize("config, source", OUTCOMES.values(), ids=OUTCOMES)
def test_an_outcome_is_no_feature_of_a_request(config, source):
    name = config.features[1].name
    assert line(config) == (
        "features[1].available='request' must be after in a config with offline=True, or the feature "
        f"{name!r} left out: it is an outcome (by {source}), unknown when the title is requested"
    )
    after = replace(config, features=(TITLE, replace(config.features[1], available="after")))
    assert line(after) == (
        f"features[1].available='after' must be request: {name!r} is known after the request, and only "
        "offline=True allows that"
    )
    check(replace(after, offline=True))


@pytest.mark.parametrize(
    "name, source, where",
    [
        ("device", TABLES, "context"),
        ("tab", KUAIRAND, "context"),
        ("duration_ms", KUAIRAND, "context"),
        ("runtime_minutes", TABLES, "title"),
        ("watched", Simulator(), "context"),
        ("completion", TABLES, "interaction"),
    ],
)
def test_what_is_known_at_a_request_is_a_feature(name, source, where):
    check(config_of(name, source, where))
    shown = (Signal("shown", column="*"),) if not isinstance(source, Simulator) else ()
    check(config_of(name, source, where, offline=True, signals=shown))


def test_wrong_values_are_named_in_one_line():
    of_past = config_of("completion", TABLES, "interaction", "after", offline=True)
    assert line(of_past) == (
        "features[1].available='after' must be request: 'completion' of a play before the request is known "
        "by then"
    )
    assert line(config_of("device", TABLES, available="later")).startswith(
        "features[1].available='later' must be one of request, after"
    )
    empty = replace(TABLES, columns=Columns(outcomes=("a", "")))
    assert line(config_of("device", empty)) == "source.columns.outcomes[1]='' must not be empty"


def test_an_offline_config_ranks_no_titles():
    check_ranks_titles(Config(name="a"))
    with pytest.raises(
        InputError, match=r"the run 'a' has offline=True: .* allowed: a run with offline=False"
    ):
        check_ranks_titles(Config(name="a", offline=True))


def test_availability_enters_a_digest_where_it_is_set():
    """The digests of features and columns at their defaults are those of the code before."""
    device = config_of("device", Tables("log.csv", "titles.csv"))
    assert digest(device) == "f77a84ba56f168ef4dd1f4b9d226b29b603cab9bc91e79e034ce50b4e56e398c"
    assert digest(replace(device, offline=True)) == digest(device)
    after = config_of("device", Tables("log.csv", "titles.csv"), available="after", offline=True)
    listed = replace(device, source=Tables("log.csv", "titles.csv", columns=Columns(outcomes=("x",))))
    assert len({digest(config) for config in (device, after, listed)}) == 3
    assert from_json(json.loads(json.dumps(to_json(after)))) == after


def test_a_config_that_was_written_before_availability_is_read():
    config = config_of("device", TABLES)
    old = to_json(config)
    del old["offline"], old["source"]["columns"]["outcomes"]
    for feature in old["features"]:
        del feature["available"]
    assert from_json(old) == config
    assert run_differences(old, to_json(config)) == {}
    assert run_differences(old, to_json(replace(config, offline=True))) == {"offline": (False, True)}
