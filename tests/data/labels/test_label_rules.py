"""Rules of labels: values worked by hand for each rule, at the borders of windows."""

import numpy as np
import pytest

from jaxrec.config.declarations import Label
from jaxrec.config.rules.declared.labels import AT_REQUEST
from jaxrec.core import registry
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Lists
from jaxrec.data.labels.discovery import _count_below
from jaxrec.data.labels.extraction import extract
from jaxrec.data.labels.tables import NEVER, PLAY, Anchors, Events, LabelTitles

HOUR = 3_600_000
SIGNALS = ("thumb", "trailer")
LATE = 10_000 * HOUR
# Titles 0, 1 and 2 of 10, 100 and no minutes. Genres: {1, 2}, {2}, none.
TITLES = LabelTitles(
    np.array([10.0, 100.0, np.nan]), {"genre": Lists(np.array([1, 2, 2]), np.array([0, 2, 3, 3]))}
)


def table(rows) -> Events:
    """Return events of rows (user, title, hour, signal or "play", value), sorted."""
    kinds = {"play": PLAY} | {name: i for i, name in enumerate(SIGNALS)}
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
    user, title = (np.array(columns[i], np.int64) for i in range(2))
    time = np.array([round(hour * HOUR) for hour in columns[2]], np.int64)
    kind = np.array([kinds[name] for name in columns[3]], np.int8)
    events = Events(user, title, time, kind, np.array(columns[4], np.float32))
    return events.take(np.lexsort((time, title, user)))


def labels_of(rule, anchors, rows=(), end=LATE, titles=TITLES, **fields):
    """Return y and known, as lists, and the hours at which the label is final.

    Args:
        rule: Name of the rule.
        anchors: Rows (user, title, hour).
        rows: Rows of `table`.
        end: End of what the split may see, one or one for each anchor, in milliseconds.
        titles: The catalogue.
        fields: Further fields of the label.
    """
    user, title, hour = zip(*anchors, strict=True)
    time = np.array([round(h * HOUR) for h in hour], np.int64)
    plays = table([row for row in rows if row[3] == "play"])
    events = table([row for row in rows if row[3] != "play"])
    labels = [Label("label", rule, **fields)]
    values = extract(
        Anchors(np.array(user), np.array(title), time), plays, events, titles, labels, end, SIGNALS
    )["label"]
    final = [at if at == NEVER else at / HOUR for at in values.available_at.tolist()]
    return values.y.tolist(), values.known.tolist(), final


def play(hour, seconds, title=0, user=7):
    return user, title, hour, "play", seconds


def thumb(hour, value=1.0, title=0, user=7):
    return user, title, hour, "thumb", value


def test_a_window_holds_its_beginning_and_not_its_end():
    anchor = [(7, 0, 10)]
    for hour, expected in ((10, 1), (33.999, 1), (9.999, 0), (34, 0)):
        assert labels_of("happened", anchor, [thumb(hour)], signal="thumb") == ([expected], [True], [34])
    for other in (thumb(11, title=1), thumb(11, user=8), (7, 0, 11, "trailer", 1.0), play(11, 60)):
        assert labels_of("happened", anchor, [other], signal="thumb")[0] == [0]


def test_count_and_seconds_are_sums_over_the_window():
    rows = [play(10, 0.1), play(11, 0.2), play(12, 30_000), play(40, 5.0), thumb(11)]
    assert labels_of("count", [(7, 0, 10)], rows) == ([3], [True], [34])
    y, known, _ = labels_of("seconds", [(7, 0, 10), (7, 1, 10)], rows)
    assert y == [float(np.float32(30_000.3)), 0] and known == [True, True]


def test_many_seconds_are_summed_to_the_millisecond():
    """In float32 the sum is wrong by minutes."""
    n = 200_000
    time = np.arange(n)
    plays = Events(
        np.zeros(n, int), np.zeros(n, int), time, np.full(n, PLAY, np.int8), np.full(n, 7.001, np.float32)
    )
    anchors = Anchors(np.array([0]), np.array([0]), np.array([0]))
    labels = [Label("label", "seconds")]
    values = extract(anchors, plays, table([]), TITLES, labels, LATE)["label"]
    assert values.y.tolist() == [1_400_200.0]


def test_the_last_value_is_unknown_without_events():
    rows = [thumb(10, 1.0), thumb(12, -1.0), thumb(40, 1.0)]
    assert labels_of("last", [(7, 0, 9), (7, 1, 9)], rows, signal="thumb") == (
        [-1, 0],
        [True, False],
        [33, 33],
    )
    # Of events at one time the largest value, whatever their order.
    for values in ((1.0, -1.0), (-1.0, 1.0)):
        rows = [thumb(10, value) for value in values]
        assert labels_of("last", [(7, 0, 9)], rows, signal="thumb")[0] == [1]


def test_a_positive_value_is_a_thumb_up_and_unknown_without_a_thumb():
    rows = [thumb(10, 1.0), thumb(12, -1.0), thumb(13, 1.0, title=2)]
    anchors = [(7, 0, 9), (7, 1, 9), (7, 2, 9)]
    assert labels_of("positive", anchors, rows, signal="thumb")[:2] == ([0, 0, 1], [True, False, True])


def test_completion_is_of_the_summed_seconds_and_clipped():
    rows = [play(10, 150), play(11, 151), play(12, 600, title=1), play(12, 60, title=2)]
    anchors = [(7, 0, 10), (7, 1, 10), (7, 2, 10), (7, -1, 10), (8, 0, 10)]
    y, known, _ = labels_of("completion", anchors, rows)
    assert y == [float(np.float32(301 / 600)), float(np.float32(0.1)), 0, 0, 0]
    assert known == [True, True, False, False, True]
    assert labels_of("completion", [(7, 0, 10)], [play(10, 601)])[0] == [1]
    assert labels_of("completion", [(7, 0, 10)], [play(10, np.nan)])[1] == [False]


def test_at_least_holds_at_the_threshold():
    """The completion is compared before it is rounded to float32, in which .9 is below .9 in float64."""
    for seconds, expected in ((540, 1), (539.999, 0)):
        assert labels_of("at_least", [(7, 0, 10)], [play(10, seconds)], at=0.9)[:2] == ([expected], [True])
    assert labels_of("at_least", [(7, 2, 10)], [play(10, 60, title=2)], at=0.0)[1] == [False]


def test_the_last_anchor_before_an_event_owns_it():
    anchors = [(7, 0, 10), (7, 0, 12), (7, 0, 12), (7, 0, 20), (7, 1, 11), (8, 0, 11)]
    rows = [thumb(10), thumb(11.9), thumb(12), thumb(19), thumb(20)]
    y, known, final = labels_of("count", anchors, rows, signal="thumb")
    assert y == [2, 2, 2, 1, 0, 0]  # anchors of one time share their events
    assert known == [True] * 6 and final == [34, 36, 36, 44, 35, 35]
    # A film seen in two plays: neither completes it, but it is complete within a day of the first.
    film = [play(10, 300), play(15, 300)]
    assert labels_of("at_least", [(7, 0, 10), (7, 0, 15)], film, at=0.9)[0] == [0, 0]
    assert labels_of("quick", [(7, 0, 10), (7, 0, 15)], film, at=0.9)[0] == [1, 0]
    assert labels_of("quick", [(7, 0, 10)], film, at=0.9, hours=5)[0] == [0]


def test_the_order_of_anchors_changes_nothing():
    anchors = [(8, 0, 11), (7, 0, 12), (7, 1, 11), (7, 0, 10), (7, -1, 3)]
    rows = [thumb(10), thumb(12), thumb(13), thumb(12, title=-1)]
    y, known, final = labels_of("count", anchors, rows, signal="thumb")
    assert y == [0, 2, 0, 1, 0] and known == [True] * 4 + [False] and final == [35, 36, 35, 34, 27]


def test_a_label_is_unknown_whose_window_ends_after_the_end():
    rows = [thumb(11), thumb(14)]
    for end, y, known in ((34, 2, True), (33.999, 2, False), (14, 1, False), (11, 0, False), (9, 0, False)):
        result = labels_of("count", [(7, 0, 10)], rows, round(end * HOUR), signal="thumb")
        assert result == ([y], [known], [34])  # what follows the end is not counted
    ends = np.array([34, 12]) * HOUR
    result = labels_of("count", [(7, 0, 10), (7, 0, 10)], rows, ends, signal="thumb")
    assert result == ([2, 1], [True, False], [34, 34])


def test_a_positive_label_is_not_final_before_a_negative_one():
    for rows in ([], [thumb(10)]):
        assert labels_of("happened", [(7, 0, 10)], rows, 33 * HOUR, signal="thumb")[1:] == ([False], [34])


def test_discovery_is_of_genres_and_distinct_titles(monkeypatch):
    lists = Lists(np.array([1, 2, 3, 4, 1]), np.array([0, 1, 2, 3, 4, 5, 5]))  # one genre each, the last none
    titles = LabelTitles(np.full(6, 10.0), {"genre": lists})
    many = [play(hour, 60, title) for hour, title in enumerate((0, 1, 2, 1, 2, 1, 3))]
    monkeypatch.setattr("jaxrec.data.labels.discovery.LAST_TITLES", 3)

    def discovered(title, hour, rows=many):
        y, known, final = labels_of(
            "discovery", [(7, title, hour)], rows, hour * HOUR, titles, feature="genre"
        )
        assert final == [hour]  # nothing that comes later matters
        return y[0] if known[0] else None

    assert discovered(4, 0) is None and discovered(4, 0, []) is None  # no earlier play
    assert discovered(5, 9) is None  # no genre
    assert discovered(4, 1) == 0 and discovered(1, 1) == 1
    assert discovered(4, 6) == 0  # titles 1 and 2 alone lie between, however often
    assert discovered(4, 7) == 1  # 1, 2 and 3 are the last three
    assert discovered(1, 7) == 0
    y, known, _ = labels_of("discovery", [(7, 0, 9), (7, 1, 9)], [play(1, 60, 1)], feature="genre")
    assert (y, known) == ([0, 0], [True, True])  # one shared genre of two is enough


def test_smaller_values_of_a_prefix_are_counted():
    values = np.array([5, 0, 7, 3, 3, 8, 1])
    prefix, bound = np.meshgrid(np.arange(8), np.arange(10))
    expected = [np.count_nonzero(values[:p] < b) for p, b in zip(prefix.flat, bound.flat, strict=True)]
    assert _count_below(values, prefix.ravel(), bound.ravel()).tolist() == expected


def test_a_title_continues_that_was_begun_and_not_finished():
    begun, finished = play(8, 539), play(9, 540)
    anchor = [(7, 0, 10)]
    assert labels_of("continues", anchor, [begun]) == ([1], [True], [10])
    assert labels_of("continues", anchor, [begun, finished])[0] == [0]
    assert labels_of("continues", anchor, [finished])[0] == [0]
    for none in ([], [play(10, 60)], [play(9, 60, title=1)], [play(9, 60, user=8)]):
        assert labels_of("continues", anchor, none)[:2] == ([0], [True])
    assert labels_of("continues", [(7, 2, 10)], [play(9, 60, title=2)])[1] == [False]
    assert labels_of("continues", anchor, [begun], 9 * HOUR)[1] == [False]


def test_a_user_returned_in_the_second_half_of_the_window():
    for hour, expected in ((21.999, 0), (22, 1), (33.999, 1), (34, 0)):
        assert labels_of("returned", [(7, -1, 10)], [play(hour, 1, title=2)]) == ([expected], [True], [34])
    assert labels_of("returned", [(7, 0, 10)], [play(23, 1, user=8), thumb(23)])[0] == [0]
    # All requests before the play count it.
    assert labels_of("returned", [(7, 0, 10), (7, 0, 11)], [play(24, 1)])[0] == [1, 1]


def test_a_play_is_switched_off_where_it_is_abandoned_and_nothing_follows():
    off = play(11, 29)
    anchor = [(7, 0, 10)]
    assert labels_of("switched_off", anchor, [off]) == ([1], [True], [34])
    assert labels_of("switched_off", anchor, [off, thumb(11)])[0] == [1]  # of the play's own time
    for later in (play(12, 1, title=2), thumb(11.001, title=-1), thumb(33.999)):
        assert labels_of("switched_off", anchor, [off, later])[:2] == ([0], [True])
    for other in (play(34, 1), thumb(12, user=8), play(10.5, 60, title=1)):
        assert labels_of("switched_off", anchor, [off, other])[:2] == ([1], [True])
    for rows in ([], [play(11, 30)], [play(11, np.nan)], [play(9, 1)]):
        assert labels_of("switched_off", anchor, rows)[1] == [False]


def test_no_anchors_and_times_near_the_limits_of_int64():
    none = np.empty(0, np.int64)
    result = extract(
        Anchors(none, none, none), table([thumb(1)]), table([]), TITLES, [Label("label", "count")], 0
    )["label"]
    assert [len(column) for column in result] == [0, 0, 0]
    last = 2**63 - 1
    anchors = Anchors(np.array([1, 1]), np.array([0, 0]), np.array([last - 5, -(2**63)]))
    times = np.array([-(2**63), last - 2])
    events = Events(np.array([1, 1]), np.array([0, 0]), times, np.zeros(2, np.int8), np.ones(2, np.float32))
    labels = [Label("label", "count", "thumb")]
    y, known, final = extract(anchors, table([]), events, TITLES, labels, last, SIGNALS)["label"]
    assert y.tolist() == [1, 1] and known.tolist() == [False, True]
    assert final.tolist() == [NEVER, 24 * HOUR - 2**63]


def test_unsorted_events_are_refused():
    sorted_table = table([thumb(1), thumb(2)])
    with pytest.raises(ValueError, match="must be sorted"):
        events = sorted_table.take(np.array([1, 0]))
        anchors = Anchors(np.array([7]), np.array([0]), np.array([0]))
        extract(anchors, table([]), events, TITLES, [Label("label", "count", "thumb")], LATE, SIGNALS)


@pytest.mark.parametrize(
    "returned, message",
    [
        ((np.zeros(2), np.ones(1, bool), np.zeros(1)), "shapes"),
        ((np.array([np.inf]), np.ones(1, bool), np.zeros(1)), "must be finite"),
    ],
)
def test_wrong_arrays_of_an_own_rule_are_one_line(monkeypatch, returned, message):
    monkeypatch.setitem(registry.LABEL_RULES, "own", "jaxrec.data.labels.rules:own")
    monkeypatch.setattr("jaxrec.data.labels.rules.own", lambda *_: returned, raising=False)
    with pytest.raises(InputError, match=f"rule 'own' of label 'label': .*{message}"):
        labels_of("own", [(7, 0, 10)])


def test_rules_that_are_final_at_the_request_are_named():
    for rule in registry.LABEL_RULES:
        feature = {"feature": "genre"} if rule == "discovery" else {}
        final = labels_of(rule, [(7, 0, 10)], [play(10, 60)], **feature)[2]
        assert final == [10 if rule in AT_REQUEST else 34]
