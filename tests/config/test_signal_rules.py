"""The rules of declared signals, one wrong value each, and their place in digests."""

import json
from dataclasses import replace

import pytest

from jaxrec.config.schema import (
    Config,
    Data,
    Feature,
    FileFormat,
    KuaiRand,
    Objective,
    Sampling,
    Signal,
    Simulator,
    Tables,
    Tfds,
)
from jaxrec.config.schema import Mix as Shares
from jaxrec.config.serialization import digest, from_json, run_differences, to_json
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError

TITLE = Feature("title_id", "category", "title", 4)
TABLES = Tables("log.csv", "titles.csv")
THUMB = Signal("thumb", "sign", column="thumb")


def of_tables(*signals: Signal) -> Config:
    return Config(source=TABLES, features=(TITLE,), signals=signals)


def line(config: Config) -> str:
    with pytest.raises(InputError) as error:
        check(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "signals, message",
    [
        (
            (Signal("a b", column="x"),),
            "signals[0].name='a b' must be letters, digits and '_', no digit first",
        ),
        ((Signal("", column="x"),), "signals[0].name='' must be letters, digits and '_', no digit first"),
        (
            (Signal("play", column="x"),),
            "signals[0].name='play' must not be 'play', the name of the log's plays",
        ),
        ((THUMB, THUMB), "signals[1].name='thumb' must be unlike the signals before it"),
        ((Signal("a", "seconds", column="x", unit=0.0),), "signals[0].unit=0.0 must be above 0"),
        (
            (Signal("a", "number", column="x", unit=60.0),),
            "signals[0].unit=60.0 must be 1 with value='number': only seconds have a unit",
        ),
        ((Signal("a"),), "signals[0].column='' must name a column, unless signals[0].table is set"),
        (
            (Signal("a", column="x", table="t.csv"),),
            "signals[0].column='x' must be empty where signals[0].table='t.csv': events come from a column "
            "or a table of their own",
        ),
        ((Signal("a", column="x|"),), "signals[0].column='x|' must name one on each side of '|'"),
        (
            (Signal("a", "number", column="*"),),
            "signals[0].value='number' must be event with column='*': every row is an event without a value",
        ),
        (
            (Signal("a", "often", column="x"),),
            "signals[0].value='often' must be one of event, seconds, number, ",
        ),
        ((Signal("a", about="page", column="x"),), "signals[0].about='page' must be one of title, user"),
        (tuple(Signal(f"s{i}", column="x") for i in range(128)), "must hold at most 127 signals, not 128"),
    ],
)
def test_a_wrong_signal_is_named_in_one_line(signals, message):
    assert message in line(of_tables(*signals))


OF_HISTORY = Feature("thumb", "number", "interaction", 4)


def test_a_signal_about_titles_is_a_feature_of_histories():
    config = of_tables(THUMB)
    check(replace(config, features=(TITLE, OF_HISTORY)))
    assert digest(replace(config, features=(TITLE, OF_HISTORY))) != digest(config)


@pytest.mark.parametrize(
    "signals, feature, message",
    [
        ((), OF_HISTORY, "features[1].name='thumb' must be one of completion, sessions, age"),
        ((THUMB,), replace(OF_HISTORY, name="thumbs"),
         "features[1].name='thumbs' must be one of completion, sessions, age, thumb; did you mean thumb?"),
        ((THUMB,), replace(OF_HISTORY, kind="category"),
         "features[1].kind='category' must be number, as of every interaction"),
        ((THUMB,), replace(OF_HISTORY, available="after"), "features[1].available='after' must be request: "),
        ((Signal("thumb", about="user", column="x"),), OF_HISTORY,
         "features[1].name='thumb' must not be a signal about 'user': the positions of a history are titles"),
        ((Signal("thumb", "text", column="x"),), OF_HISTORY,
         "features[1].name='thumb' must not be a signal of text: an interaction is a number"),
    ],
)  # fmt: skip
def test_a_wrong_feature_of_histories_is_named_in_one_line(signals, feature, message):
    assert line(replace(of_tables(*signals), features=(TITLE, feature))).startswith(message)


def test_a_signal_that_the_source_cannot_give_is_refused():
    kuairand = Config(source=KuaiRand("folder"), features=(TITLE,))
    check(replace(kuairand, signals=(Signal("like", column="is_like"), Signal("shown", column="*"))))
    wrong = line(replace(kuairand, signals=(Signal("like", column="is_liked"),)))
    assert wrong.startswith("signals[0].column='is_liked' must be one of *, is_click, is_like, ")
    assert wrong.endswith("did you mean is_like?")
    wrong = line(replace(kuairand, signals=(Signal("like", column="is_like", table="x.csv"),)))
    assert wrong == (
        "signals[0].table='x.csv' must be empty: the signals of a KuaiRand source are columns of its logs"
    )
    wrong = line(replace(kuairand, signals=(Signal("like", "text", column="is_like"),)))
    assert wrong.endswith("the columns of a KuaiRand source hold no text")
    ratings = Config(
        source=Tfds("movielens"), features=(TITLE,), signals=(THUMB,),
        objective=Objective(personalised=False, regression=0.0),
        sampling=Sampling(Shares(0.0, 0.5, 0.3, 0.2)),
    )  # fmt: skip
    wrong = line(ratings)
    assert wrong == "signals[0].name='thumb' must not be declared: a Tfds source gives no signals"


@pytest.mark.parametrize(
    "signal, message",
    [
        (
            Signal("thumbs", "sign"),
            ".name='thumbs' must be one of thumb, rating, list_add, impression, trailer; did you mean thumb?",
        ),
        (Signal("thumb"), ".value='event' must be sign: a Simulator source generates 'thumb'"),
        (
            Signal("trailer", "number"),
            ".value='number' must be seconds: a Simulator source generates 'trailer'",
        ),
        (
            Signal("list_add", about="user"),
            ".about='user' must be title: the signals of a Simulator source are about titles",
        ),
        (
            Signal("rating", "number", column="stars"),
            ".column='stars' must be empty: a Simulator source generates its signals",
        ),
        (
            Signal("impression", table="shown.csv"),
            ".table='shown.csv' must be empty: a Simulator source generates its signals",
        ),
        (
            Signal("trailer", "seconds", unit=60.0),
            ".unit=60.0 must be 1: a Simulator source generates seconds",
        ),
    ],
)
def test_signals_of_the_simulated_service(signal, message):
    assert line(Config(features=(TITLE,), signals=(signal,))) == f"signals[0]{message}"
    check(Config(features=(TITLE,), signals=(Signal("thumb", "sign"), Signal("trailer", "seconds"))))


def test_newer_fields_of_the_simulator_enter_a_digest_where_they_are_set():
    """The digest at the defaults is that of the code before these fields."""
    config = Config(features=(TITLE,))
    base = digest(config)
    assert base == "4dab3297baa7e6e98772910d40220c8191040328c35749d554a88cf6361c0cd5"
    old = to_json(config)
    knobs = (
        "habit", "surprise", "thumbs", "leniency", "ratings", "lists", "impressions_logged",
        "test_impressions_logged", "trailers", "launches", "novelty", "trend", "countries", "country_taste",
        "unlicensed", "mood_moves", "regimes", "search", "similar", "kinship",
    )  # fmt: skip
    changed = {
        digest(replace(config, source=Simulator(**{name: 2 if name == "countries" else 0.5})))
        for name in knobs
    }
    assert len(changed | {base}) == 1 + len(knobs)
    assert digest(replace(config, data=Data(truth_queries=7))) not in changed | {base}
    for name in knobs:
        del old["source"][name]
    for name in ("truth_queries", "validation_truth_queries", "served", "request_window_seconds"):
        del old["data"][name]
    assert from_json(old) == config


def test_the_format_of_signals_tables_is_checked():
    source = replace(TABLES, signals_format=FileFormat(quote="ab"))
    assert line(Config(source=source, features=(TITLE,))).startswith("source.signals_format.quote='ab' must")


def test_signals_enter_a_digest_where_they_are_declared():
    """The digest without signals is that of the code before there were any."""
    without = of_tables()
    assert digest(without) == "8d6aacc4bf7a91bc7ee51c54d7cfc69abec1c9e8a8495a039f9d4329b499528d"
    assert digest(replace(without, source=replace(TABLES, signals_format=FileFormat(";")))) != digest(without)
    digests = {
        digest(of_tables(*signals))
        for signals in ((), (THUMB,), (replace(THUMB, name="thumbs"),), (replace(THUMB, about="user"),))
    }
    assert len(digests) == 4
    config = of_tables(THUMB)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_config_that_was_written_before_signals_is_read():
    config = of_tables()
    old = to_json(config)
    del old["signals"], old["source"]["signals_format"], old["source"]["columns"]["value"]
    assert from_json(old) == config
    assert run_differences(old, to_json(config)) == {}
    changed = run_differences(old, to_json(of_tables(THUMB)))
    assert [key.split("[")[0].split(".")[0] for key in changed] == ["signals"] * len(changed) and changed
