"""Changed sessions of held-out rows, and means by position, by hand."""

import numpy as np
import pytest

from jaxrec.core.errors import InputError
from jaxrec.core.row_format import Layout
from jaxrec.evaluation import metrics
from jaxrec.evaluation.sessions import of_session, tails
from jaxrec.evaluation.sessions.of_session import SessionValues, check_session, positions, summarize
from jaxrec.reporting.tables.sessions import session_lines

KINDS = ("play", "trailer", "impression")
LAYOUT = Layout(90, 4, 1, (4, 0, 0, 0), 1, (), session=4, session_kinds=KINDS)


def rows_of(users, lengths, targets=None):
    """Return rows whose sessions have distinct titles, the newest last."""
    rows = np.zeros(len(users), LAYOUT.query_dtype())
    rows["user"] = users
    rows["target"][:, 0] = 80 if targets is None else targets
    for i, length in enumerate(lengths):
        at = slice(4 - length, 4)
        rows["session_kind"][i, at], rows["session_title"][i, at] = 1, 2 + 4 * i + np.arange(length)
        rows["session_value"][i, at], rows["session_age"][i, at] = 0.5, np.arange(length, 0, -1)
    return rows


def test_an_emptied_session_has_no_event_and_the_rest_of_the_row_stays():
    rows = rows_of([1, 1], [2, 4])
    out = tails.emptied(rows)
    assert not tails.lengths(out).any() and not out["session_title"].any() and not out["session_age"].any()
    assert tails.lengths(rows).tolist() == [2, 4] and (out["target"] == rows["target"]).all()


def test_a_shuffled_session_is_of_another_user_and_as_long():
    r = np.random.default_rng(0)
    users = np.sort(r.integers(0, 40, 300))
    rows = rows_of(users, r.integers(0, 5, 300))
    rows["session_title"] += np.where(rows["session_kind"] > 0, 1000, 0)  # titles name their row
    out, mask = tails.shuffled(rows)
    assert mask.all()
    np.testing.assert_array_equal(tails.lengths(out), tails.lengths(rows))
    length = tails.lengths(rows)
    filled = length > 0
    source = np.where(filled, (out["session_title"][:, -1] - 1002 - (length - 1)) // 4, -1)
    assert (users[source[filled]] != users[filled]).all()
    assert len(np.unique(source[filled])) == filled.sum()  # a permutation within each length
    for name in ("session_value", "session_age", "session_kind"):
        np.testing.assert_array_equal(out[name][filled], rows[name][source[filled]])
    again, _ = tails.shuffled(rows)
    assert again.tobytes() == out.tobytes()


def test_a_length_that_one_user_fills_is_not_shuffled():
    rows = rows_of([1, 1, 1, 2, 3, 4], [2, 2, 2, 2, 3, 3])
    out, mask = tails.shuffled(rows)
    assert mask.tolist() == [False] * 4 + [True] * 2
    assert out[:4].tobytes() == rows[:4].tobytes()
    np.testing.assert_array_equal(out["session_title"][4:], rows["session_title"][[5, 4]])


def test_signals_about_the_target_are_left_out_and_the_gap_is_closed():
    rows = rows_of([1, 2], [4, 2], targets=[3, 6])
    rows["session_kind"][0] = [1, 2, 1, 3]
    rows["session_title"][0] = [3, 3, 9, 3]  # a play of the target stays: it is the past of a title
    rows["session_age"][0] = [8, 6, 4, 2]
    out = tails.without_target(rows)
    assert out["session_title"][0].tolist() == [0, 0, 3, 9] and out["session_kind"][0].tolist() == [
        0,
        0,
        1,
        1,
    ]
    assert out["session_age"][0].tolist() == [0, 0, 8, 4]
    assert out[1].tobytes() == rows[1].tobytes()  # its title 6 is a play
    own = tails.target_events(rows, LAYOUT)
    assert own["trailer"] == own["impression"] == 0.5
    assert own["seconds"] == pytest.approx(np.expm1(2.0), rel=1e-3)


def test_means_are_by_position_and_users_are_their_units():
    rows = rows_of([1, 1, 2, 2, 3], [0] * 5)
    rows["session_position"] = [1, 2, 2, 5, 9]
    of = {m: np.array([1.0, 0, 1, 0, 0]) for m in metrics.METRICS}
    off = {m: np.zeros(5) for m in metrics.METRICS}
    values = SessionValues({"on": of, "off": off, "shuffled": off}, np.array([True, True, False, True, True]))
    out = summarize(rows, values)
    assert out["queries"] == {"1": 1, "2": 2, "3": 0, "4 or more": 2, "2 or more": 4}
    assert out["users"]["2 or more"] == 3
    on = out["sessions"]["on"]
    assert on["1"]["ndcg@1"] == [1.0, None] and on["3"]["ndcg@1"] == [None, None]
    # Users 1 and 2 have means 0 and 1: a difference of .5 to their mean, on two clusters.
    assert on["2"]["ndcg@1"] == [0.5, pytest.approx(1.959964 * np.sqrt(2 * 0.5) / 2, rel=1e-6)]
    assert out["differences"]["on - off"]["2 or more"]["ndcg@1"][0] == 0.25
    assert out["differences"]["on - shuffled"]["2 or more"]["ndcg@1"][0] == 0.0  # the third row is left out
    text = "\n".join(session_lines({"session": out | {"target_events": {"trailer": 0.25, "seconds": 60.0}}}))
    assert "on - off" in text and "trailer 25.0%; the newest is 60 s before the request" in text


def test_groups_of_positions():
    rows = rows_of([1] * 5, [0] * 5)
    rows["session_position"] = [1, 2, 3, 4, 70]
    (first, later), names = positions(rows)
    assert first.tolist() == [0, 1, 2, 3, 3] and later.tolist() == [-1, 0, 0, 0, 0]
    assert names == ["1", "2", "3", "4 or more", "2 or more"]


def test_a_model_without_sessions_is_refused():
    check_session((), False)
    check_session(of_session.SESSIONS, True)
    with pytest.raises(InputError, match="session=on; allowed: none, for the model reads no session"):
        check_session(("on",), False)
    with pytest.raises(InputError, match="session=own_left_out; allowed: on, off, shuffled"):
        check_session(("own_left_out",), True)
