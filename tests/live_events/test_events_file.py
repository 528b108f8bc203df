"""Events files: precedence, defaults, and each wrong value in one line."""

import numpy as np
import pytest
from event_files import event, read, schedule

from jaxrec.core.errors import InputError
from jaxrec.live_events.slates.events import STAGES, Slot, check_titles, read_events


def test_events_come_by_priority_then_start_then_id(tmp_path):
    events = [
        event("d", "d", start=19), event("c", "c", start=18), event("b", "b", start=18),
        event("a", "a", start=20, priority=1),
    ]  # fmt: skip
    assert [e.id for e in read(tmp_path, *events)] == ["a", "b", "c", "d"]


def test_stages_have_defaults_that_a_file_may_change(tmp_path):
    (plain,) = read(tmp_path, event())
    assert tuple(plain.stages) == STAGES
    assert plain.stages["pre"] == Slot(3, "coming soon", False)
    assert plain.stages["live"] == Slot(1, "live", True)
    assert plain.stages["cancelled"] is None
    (other,) = read(tmp_path, event(stages={"live": {"badge": "now"}, "ended": {"slot": 2}}))
    assert other.stages == {"live": Slot(1, "now", True), "ended": Slot(2, "recap", True)}


def test_a_recap_is_shown_where_it_is_licensed(tmp_path):
    (of_region,) = read(tmp_path, event(regions=["us", "de"], recap_regions=["us", "fr"]))
    assert of_region.slot("live", "de") and not of_region.slot("live", "fr")
    assert of_region.slot("ended", "us")
    assert not of_region.slot("ended", "de") and not of_region.slot("ended", "fr")
    (nowhere,) = read(tmp_path, event(recap_regions=[]))
    assert nowhere.slot("live", "us") and not nowhere.slot("ended", "us")


def moved(name, at):
    return event(schedule=schedule(19) | {name: {"at": at}})


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ((), r"events=\[\]; allowed: a list of at least one event"),
        ((moved("end", "2026-12-05T18:30:00Z"),), "end=2026-12-05T18:30:00Z is not after schedule.start"),
        ((moved("end", "2026-12-05T19:00:00Z"),), "schedule.end=.* is not after"),
        ((moved("pre", "2026-12-05T19:30:00Z"),), "schedule.start=.* is not after schedule.pre"),
        ((moved("start", "soon"),), "schedule.start.at='soon'; allowed: a time"),
        ((event(), event(title="other")), "two events have the id 'fight'"),
        ((event(), event("b")), "two events have the title 'fight-2026'"),
        ((event(stages={"live": {}, "half-time": {}}),), "'half-time' is no key of an event; allowed: pre"),
        ((event(stages={"pre": {}}),), "stages: live is missing"),
        ((event(stages={"live": {"slot": 41}}),), "stages.live.slot=41; allowed: 1 to 40"),
        ((event(stages={"live": {}, "pre": {"slot": 4}}),), "stages.pre.slot=4; allowed: 1 to 3"),
        ((event(stages={"live": {"slot": True}}),), "stages.live.slot=True"),
        ((event(stages={"live": {"size": 1}}),), "'size' is no key"),
        ((event(regions="us"),), "regions='us'; allowed: a list of texts"),
        ((event(priority=1.5),), "priority=1.5; allowed: a whole number"),
        ((event("Fight!"),), "id='Fight!'; allowed"),
        ((event(title=None),), "title=None; allowed"),
        (([],), r"\[\] is no object"),
        (({"id": "a", "title": 1},), "schedule is missing"),
        ((event(schedule=schedule(19) | {"pre": {"at": "2026-12-05T18:00:00Z", "tolerance_minutes": -1}}),),
         "tolerance_minutes=-1; allowed: 0 to"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(tmp_path, events, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, *events)


def test_more_slots_than_titles_are_refused(tmp_path):
    with pytest.raises(InputError, match="the 3 events a, b, c overlap; allowed: at most 2"):
        read(tmp_path, *(event(x, x, stages={"live": {}}) for x in "abc"), titles=2)
    # Events one after another do not count together.
    read(tmp_path, *(event(x, x, start=h, stages={"live": {}}) for x, h in (("a", 5), ("b", 12))), titles=1)


def test_a_title_is_of_the_catalogue_or_has_metadata(tmp_path):
    known, new, unknown = event("a", 17, metadata={}), event("b", "new"), event("c", 18, metadata={})
    check_titles(read(tmp_path, known, new), "e.json", np.array([17, 3]))
    with pytest.raises(InputError, match=r"e.json: c: title='18' is not in the model's catalogue"):
        check_titles(read(tmp_path, unknown), "e.json", np.array([17, 3]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"), (b"{", "Expecting property name"), (b"[" * 9_999, "nested too deeply"),
        (b"\xff", "invalid start byte"), (b'{"events": [NaN]}', ".*not JSON compliant"),
        (b'{"events": ["\\ud800"]}', "surrogates not allowed"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_json_is_refused(tmp_path, content, message):
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"--events=.*e.json: {message}.*; allowed: a file of JSON"):
        read_events(str(tmp_path / "e.json"), 40)
    with pytest.raises(InputError, match="No such file"):
        read_events(str(tmp_path / "none.json"), 40)
