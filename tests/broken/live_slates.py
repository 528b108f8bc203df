"""Lines of slates, segments and the wire of live events."""

from tests.broken.line import Line

_SEGMENTS = "tests/live_events/test_segments_of_users.py"
_SLATES = "tests/live_events/test_slates.py"
_QUALITY = "tests/live_events/test_slate_quality.py"
_LOG = "tests/live_events/test_message_log.py"
_ROUTES = "tests/service/test_live_routes.py"

LINES = (
    Line(
        "the slot of an event takes the position of a ranked title",
        "jaxrec/live_events/slates/payloads.py",
        "first_spare -= 1",
        "first_spare -= 0",
        ("tests/live_events/test_slate_payloads.py::test_a_stage_puts_the_event_into_its_slot",),
    ),
    Line(
        "a recap is shown where it is licensed alone",
        "jaxrec/live_events/slates/events.py",
        "return self.stages[stage] if region in allowed else None",
        "return self.stages[stage]",
        ("tests/live_events/test_events_file.py::test_a_recap_is_shown_where_it_is_licensed",),
    ),
    Line(
        "padding is no user of a segment",
        "jaxrec/live_events/slates/streamed.py",
        "member_BxS *= jnp.asarray(host.valid)[:, None]",
        "member_BxS *= 1.0",
        (f"{_SLATES}::test_means_over_segments_are_those_of_all_probabilities",),
    ),
    Line(
        "titles of events are in slots alone",
        "jaxrec/live_events/slates/building.py",
        "mask[of_events] = False",
        "mask[of_events] = True",
        (f"{_SLATES}::test_slates_hold_licensed_titles_once_and_slots_alone_hold_events",),
    ),
    Line(
        "a payload has the content of its name",
        "jaxrec/live_events/slates/folder.py",
        "if content_hash(content) != name:",
        "if not content:",
        (f"{_SLATES}::test_a_damaged_folder_is_refused",),
    ),
    Line(
        "a target competes where its user has watched it",
        "jaxrec/live_events/slates/quality.py",
        "inside = (title < place.shape[1]) & (title != target[query[row]])",
        "inside = title < place.shape[1]",
        (f"{_QUALITY}::test_ranks_are_those_of_the_titles_that_are_left",),
    ),
    Line(
        "a slate ends after its titles",
        "jaxrec/live_events/slates/quality.py",
        "kept & (position <= titles)",
        "kept & (position <= titles + 1)",
        (f"{_QUALITY}::test_ranks_are_those_of_the_titles_that_are_left",),
    ),
    Line(
        "a centroid is the mean of all vectors so far",
        "jaxrec/live_events/segments/kmeans.py",
        "count += of_batch",
        "count = of_batch",
        (f"{_SEGMENTS}::test_clusters_are_separate_blobs",),
    ),
    Line(
        "a user whose rows go on in the next block has one query",
        "jaxrec/live_events/segments/training_users.py",
        'np.append(part["user"][1:] != part["user"][:-1], False)',
        'np.append(part["user"][1:] != part["user"][:-1], True)',
        (f"{_SEGMENTS}::test_each_training_user_has_the_query_of_the_last_row",),
    ),
    Line(
        "void messages leave the log",
        "jaxrec/live_events/wire/message_log.py",
        "if message not in kept]",
        "if not kept]",
        (f"{_LOG}::test_void_messages_are_deleted_and_positions_are_never_used_again",),
    ),
    Line(
        "a refused change writes nothing",
        "jaxrec/live_events/wire/message_log.py",
        'cursor.execute("ROLLBACK")',
        'cursor.execute("COMMIT")',
        (f"{_LOG}::test_a_change_that_is_refused_in_the_middle_writes_nothing",),
    ),
    Line(
        "what is after the end is withheld",
        "jaxrec/service/live/stream.py",
        "return stage == ENDED and (message is None or message.state != ENDED)",
        "return False",
        (f"{_ROUTES}::test_what_is_after_the_end_is_withheld_until_a_message_states_it",),
    ),
    Line(
        "a planned end reveals nothing",
        "jaxrec/service/live/stream.py",
        "message = in_force(self._messages.get(event, ()), time.time())",
        'message = in_force(self._messages.get(event, ()), float("inf"))',
        (f"{_ROUTES}::test_what_is_after_the_end_is_withheld_until_a_message_states_it",),
    ),
    Line(
        "devices refresh at different times",
        "jaxrec/service/live/slates.py",
        "random.uniform(1 - _JITTER, 1 + _JITTER)",
        "1.0",
        (f"{_ROUTES}::test_a_slate_has_its_hash_as_etag_and_a_jittered_age",),
    ),
)
