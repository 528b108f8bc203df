"""Lines of sessions: their events, their inputs, and their evaluation."""

from tests.broken.line import Line

_EVENTS = "tests/data/sessions/test_session_events.py"
_ROWS = "tests/data/sessions/test_session_rows.py"
_MODEL = "tests/models/encoders/test_session.py"
_INPUTS = "tests/tasks/test_session_inputs.py"
_TAILS = "tests/evaluation/sessions/test_session_tails.py"
_BY_HAND = f"{_EVENTS}::test_a_session_ends_after_a_gap_since_the_end_of_the_last_event"

LINES = (
    Line(
        "a session lasts until the end of its last play",
        "jaxrec/data/sessions/events.py",
        "end[:plays] += np.maximum(log.viewed, 0)",
        "end[:plays] += 0",
        (_BY_HAND,),
    ),
    Line(
        "the latest end of a user is no other user's",
        "jaxrec/data/sessions/events.py",
        "offset = user * len(values)",
        "offset = np.zeros(len(user), np.int64)",
        (f"{_EVENTS}::test_random_sessions_are_those_of_a_loop_over_events",),
    ),
    Line(
        "the stored events of a session are its last ones",
        "jaxrec/data/sessions/events.py",
        "ranges(state.end - length, length)",
        "ranges(state.first, length)",
        (_BY_HAND,),
    ),
    Line(
        "histories end where the session begins",
        "jaxrec/data/examples/histories.py",
        "return Past(np.minimum(start, past.start), past.first, state.begin)",
        "return past",
        (_BY_HAND,),
    ),
    Line(
        "requests have the sessions of their signals",
        "jaxrec/serving/requests.py",
        "sessions = SessionEvents(log, records, declared",
        "sessions = SessionEvents(log, records[:0], declared",
        (f"{_ROWS}::test_rows_of_raw_histories_and_signals_are_the_rows_of_the_dataset",),
    ),
    Line(
        "events attend to no later event",
        "jaxrec/models/encoders/session.py",
        "mask_BxTxT = causal_mask(owner_BxT)",
        "mask_BxTxT = owner_BxT[:, :, None] == owner_BxT[:, None, :]",
        (f"{_MODEL}::test_events_attend_to_events_before_them_alone",),
    ),
    Line(
        "padding of a session is not attended to",
        "jaxrec/models/encoders/session.py",
        "jnp.where(inputs.tail.kind > 0, rows_B[:, None], B)",
        "jnp.where(inputs.tail.kind >= 0, rows_B[:, None], B)",
        (f"{_MODEL}::test_the_vector_reads_each_field_of_an_event_and_not_what_is_padding",),
    ),
    Line(
        "outputs of packed rows go to their example",
        "jaxrec/models/encoders/session.py",
        "newest_B[:, None] - back_M[None], N",
        "back_M[None], N",
        (f"{_MODEL}::test_outputs_of_packed_rows_are_moved_to_their_examples",),
    ),
    Line(
        "an intent is no padding and no unknown category",
        "jaxrec/models/sessions/intent.py",
        "jnp.arange(self.categories) >= FIRST_TITLE",
        "jnp.arange(self.categories) >= 0",
        (f"{_MODEL}::test_intent_is_a_distribution_over_known_categories",),
    ),
    Line(
        "the intent is the first category of the next title",
        "jaxrec/tasks/heads.py",
        "first_BxKx1 = labels.y[..., :1]",
        "first_BxKx1 = labels.y[..., -1:]",
        (f"{_INPUTS}::test_the_intent_learns_the_first_category_of_the_next_title",),
    ),
    Line(
        "events of other kinds are not read",
        "jaxrec/tasks/inputs/session.py",
        "(kind[..., None] == jnp.asarray(kinds)).any(-1)",
        "kind > 0",
        (f"{_INPUTS}::test_kinds_that_the_model_does_not_read_become_padding",),
    ),
    Line(
        "a shuffled session is another user's",
        "jaxrec/evaluation/sessions/tails.py",
        "shift = most[begin]",
        "shift = 0 * most[begin] + 1",
        (f"{_TAILS}::test_a_shuffled_session_is_of_another_user_and_as_long",),
    ),
    Line(
        "a play of the target is no event of its own",
        "jaxrec/evaluation/sessions/tails.py",
        'rows["session_kind"] > _PLAY',
        'rows["session_kind"] > 0',
        (f"{_TAILS}::test_signals_about_the_target_are_left_out_and_the_gap_is_closed",),
    ),
)
