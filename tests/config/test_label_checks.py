"""Checks of declared labels and rewards: what is allowed, and the line for each wrong value."""

import copy
import dataclasses
from pathlib import Path

import pytest

from jaxrec.config.declarations import Label, Reward, Signal, Term
from jaxrec.config.loading import load_config
from jaxrec.config.rules.declared.labels import check_labels, check_rewards, check_rules, check_watch_times
from jaxrec.config.schema import Feature
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.registry import LABEL_RULES
from jaxrec.data.runners.run import ensure_dataset

ROOT = Path(__file__).resolve().parents[2]

SIGNALS = (
    Signal("thumb", "sign"),
    Signal("trailer", "seconds"),
    Signal("list_add"),
    Signal("comment", "text"),
    Signal("search", about="user"),
)
FEATURES = (
    Feature("genre", "categories", "title", 4, 3),
    Feature("year", "number", "title", 4),
    Feature("country", "category", "user", 4),
)
LABEL = Label("finished", "at_least", at=0.9, hours=720)
REWARD = Reward("r", (Term("finished", 2.0), Term("finished", 1, "step", at=0.5)))


def test_every_built_in_rule_may_be_declared():
    at, feature = {"at_least": 0.9, "quick": 1.0}, {"discovery": "genre"}
    labels = [Label(rule, rule, at=at.get(rule, 0), feature=feature.get(rule, "")) for rule in LABEL_RULES]
    others = [
        Label("a", "happened", "list_add"),
        Label("b", "last", "thumb", 1e-3),
        Label("c", "completion", "trailer"),
        Label("d", "returned", "search"),
        Label("e", "count", "comment"),
    ]
    check_labels([*labels, *others], SIGNALS, FEATURES)
    check_labels([], [], [])
    check_rewards([REWARD, dataclasses.replace(REWARD, name="s", unknown="filled")], [LABEL])


WRONG_LABELS = [
    ({"signal": "thumbs"}, r"signal='thumbs' must be one of play, thumb, .*; did you mean thumb\?"),
    ({"name": "a b"}, r"name='a b' must be a name of letters"),
    ({"name": ""}, r"name='' must be a name of letters"),
    ({"name": "other"}, r"name='other' must be unlike the labels before it"),
    ({"hours": 0}, r"hours=0 must be a finite number above 0"),
    ({"hours": -1.5}, r"hours=-1.5 must be a finite number above 0"),
    ({"hours": float("inf")}, r"hours=inf must be a finite number above 0"),
    ({"hours": float("nan")}, r"hours=nan must be a finite number above 0"),
    ({"at": 1.01}, r"at=1.01 must be a completion in \[0, 1\] with rule='at_least'"),
    ({"rule": "quick", "at": -0.1}, r"at=-0.1 must be a completion in \[0, 1\]"),
    ({"rule": "happened"}, r"at=0.9 must be 0 with rule='happened': only at_least and quick read it"),
    ({"feature": "genre"}, r"feature='genre' must be empty with rule='at_least': only discovery reads it"),
    ({"rule": "discovery", "at": 0}, r"feature='' must be a category feature .*: genre"),
    ({"rule": "discovery", "at": 0, "feature": "year"}, r"feature='year' must be a category feature"),
    ({"rule": "discovery", "at": 0, "feature": "country"}, r"feature='country' must be a category feature"),
    ({"signal": "thumb"}, r"signal='thumb' must be 'play' or a signal of seconds with rule='at_least'"),
    ({"rule": "continues", "at": 0, "signal": "trailer"}, r"signal='trailer' must be 'play'"),
    ({"rule": "last", "at": 0, "signal": "comment"}, r"signal='comment' must be .* not of value='text'"),
    ({"rule": "count", "at": 0, "signal": "search"}, r"signal='search' must be about titles"),
]


@pytest.mark.parametrize("changes, message", WRONG_LABELS, ids=[str(changes) for changes, _ in WRONG_LABELS])
def test_a_wrong_label_is_one_line(changes, message):
    labels = [Label("other", "count"), dataclasses.replace(LABEL, **changes)]
    with pytest.raises(InputError, match=rf"^labels\[1\]\.{message}"):
        check_labels(labels, SIGNALS, FEATURES)


def test_a_missing_rule_of_a_checkpoint_is_not_looked_up():
    label = dataclasses.replace(LABEL, rule="of_another_distribution", at=7)
    check_labels([label], SIGNALS, FEATURES)
    every = r"must be one of happened, .*switched_off"
    with pytest.raises(InputError, match=rf"^labels\[0\].rule='of_another_distribution' {every}"):
        check_rules([label])
    with pytest.raises(InputError, match=rf"^labels\[1\].rule='atleast' {every}.*; did you mean at_least\?"):
        check_rules([LABEL, dataclasses.replace(LABEL, rule="atleast")])
    with pytest.raises(InputError, match="signal='x' must be one of play"):
        check_labels([dataclasses.replace(label, signal="x")], SIGNALS, FEATURES)


@pytest.mark.parametrize(
    "labels, message",
    [
        (
            tuple(Label(f"l{i}", "count") for i in range(33)),
            r"^labels=.*at most 32 labels, not 33",
        ),
        (
            (Label("x", "seconds"),),
            r"^labels\[0\].rule='seconds' must not be of seconds for the task next_item",
        ),
    ],
)
def test_labels_that_rows_cannot_store_are_one_line(small_next_item, labels, message):
    small_next_item.labels = labels[:32] if len(labels) > 1 else (Label("x", "completion"),)
    check(small_next_item)
    small_next_item.labels = labels
    with pytest.raises(InputError, match=message):
        check(small_next_item)


@pytest.fixture
def small_next_item():
    config = load_config(f"{ROOT / 'configs/sequences.py'}:simulated")

    return config


def test_an_unknown_rule_ends_a_preparation_before_anything_is_written(tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.labels = (Label("x", "hapened"),)
    with pytest.raises(InputError, match=r"^labels\[0\].rule='hapened' must be .*did you mean happened\?"):
        ensure_dataset(config, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_ratings_have_no_watch_times():
    for rule in ("seconds", "completion", "at_least", "quick", "continues", "switched_off"):
        with pytest.raises(InputError, match=rf"labels\[0\].rule='{rule}' must not read .*: ratings"):
            check_watch_times([Label("x", rule)], "ratings")
    check_watch_times([Label("x", "count"), Label("y", "completion", "trailer")], "ratings")


def terms(**changes):
    return {"terms": (REWARD.terms[0], dataclasses.replace(REWARD.terms[1], **changes))}


WRONG_REWARDS = [
    ({"name": "2nd"}, r"name='2nd' must be a name of letters"),
    ({"name": "other"}, r"name='other' must be unlike the rewards before it"),
    ({"terms": ()}, r"terms=\(\) must hold at least one Term"),
    (terms(label="finish"), r"terms\[1\].label='finish' must be one of finished; did you mean finished\?"),
    (terms(weight=float("inf")), r"terms\[1\].weight=inf must be a finite number"),
    (terms(at=float("nan")), r"terms\[1\].at=nan must be a finite number"),
    (terms(shape="log1p"), r"terms\[1\].at=0.5 must be 0 with shape='log1p'"),
    ({"base": float("nan")}, r"base=nan must be a finite number"),
    ({"low": 5}, r"low=5 must be below high=5"),
]


@pytest.mark.parametrize(
    "changes, message", WRONG_REWARDS, ids=[str(changes) for changes, _ in WRONG_REWARDS]
)
def test_a_wrong_reward_is_one_line(changes, message):
    rewards = [dataclasses.replace(REWARD, name="other"), dataclasses.replace(REWARD, **changes)]
    with pytest.raises(InputError, match=rf"^rewards\[1\]\.{message}"):
        check_rewards(rewards, [LABEL])


def test_a_reward_without_labels_is_one_line():
    with pytest.raises(InputError, match=r"rewards\[0\].terms\[0\].label='finished' must be a label: the"):
        check_rewards([REWARD], [])
