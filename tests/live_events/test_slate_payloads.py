"""Payloads by hand, their schema, and the composition of several events on a device."""

import jsonschema
import pytest
from event_files import event, read

from jaxrec.core.live.composition import compose
from jaxrec.live_events.slates.payloads import SCHEMA, content_hash, encode, payload

RANKED = [*"abcdefg"]


@pytest.fixture
def fight(tmp_path):
    return read(tmp_path, event(title="F", regions=["us", "de"], recap_regions=["us"]))[0]


@pytest.mark.parametrize(
    ("stage", "region", "titles", "spare"),
    [
        ("pre", "us", "abFcd", "efg"),
        ("live", "us", "Fabcd", "efg"),
        ("delayed", "de", "Fabcd", "efg"),
        ("ended", "us", "Fabcd", "efg"),
        ("ended", "de", "abcde", "fg"),
        ("cancelled", "us", "abcde", "fg"),
        ("live", "fr", "abcde", "fg"),
    ],
)
def test_a_stage_puts_the_event_into_its_slot(fight, stage, region, titles, spare):
    document = payload(RANKED, 5, fight, stage, region)
    jsonschema.validate(document, SCHEMA)
    assert document["titles"] == [*titles] and document["spare"] == [*spare]
    assert [slot["title"] for slot in document["slots"]] == (["F"] if "F" in titles else [])


def test_the_time_of_a_delayed_event_comes_with_the_message(fight):
    times = {s: payload(RANKED, 5, fight, s, "us")["slots"][0]["time_from"] for s in ("pre", "delayed")}
    assert times == {"pre": "schedule", "delayed": "message"}


def test_equal_slates_are_one_payload(fight):
    """The content has neither segment, nor stage, nor region, nor time."""
    same = [
        payload(RANKED, 5, fight, *key) for key in (("cancelled", "us"), ("cancelled", "de"), ("ended", "de"))
    ]
    assert len({content_hash(encode(document)) for document in same}) == 1
    assert content_hash(encode(payload(RANKED, 5, fight, "live", "us"))) != content_hash(encode(same[0]))


def slate(titles, spare="", **slots):
    return {
        "titles": [*titles], "spare": [*spare], "slots": [{"title": t, "slot": n} for t, n in slots.items()]
    }  # fmt: skip


def test_a_device_leaves_out_watched_titles_and_fills_up_with_spare_ones():
    assert compose([slate("Fabc", "de", F=1)], watched="ad") == [*"Fbce"]
    assert compose([slate("Fabc", "d", F=1)], watched="abF") == [*"Fcd"]


def test_two_events_share_a_slate_by_precedence():
    first, second = slate("Fabc", "de", F=1), slate("Gabc", "de", G=1)
    assert compose([first, second]) == [*"FGab"]
    assert compose([second, first]) == [*"GFab"]
    assert compose([slate("abFc", "d", F=3), slate("abGc", "d", G=3)]) == [*"abFG"]
    assert compose([slate("abcF", "d", F=4), slate("abcG", "d", G=4)]) == [*"abGF"]


def test_more_slots_than_positions_are_refused():
    with pytest.raises(ValueError, match="2 slots do not fit a slate of 1 titles"):
        compose([slate("F", F=1), slate("G", G=1)])
    with pytest.raises(ValueError, match="no slate"):
        compose([])
