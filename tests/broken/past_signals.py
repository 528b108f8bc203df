"""Lines of signals that are features of histories: the join, the rows, the model, serving."""

from tests.broken.line import Line

_VALUES = "tests/data/signals/test_past_values.py"
_HISTORIES = "tests/data/runners/test_history_signals.py"
_SCORES = "tests/tasks/test_past_signals.py"

LINES = (
    Line(
        "events at the time of the request are no part of its history",
        "jaxrec/data/signals/past_values.py",
        "self._timeline.first(group, time[at])",
        "self._timeline.first(group, time[at] + 1)",
        (
            f"{_SCORES}::test_events_from_the_request_on_change_no_score",
            f"{_VALUES}::test_values_are_those_of_the_events_strictly_before_the_request",
            f"{_VALUES}::test_values_of_random_logs_equal_a_loop_over_events",
        ),
    ),
    Line(
        "a title without an event before the request has no value",
        "jaxrec/data/signals/past_values.py",
        "is_past = end > begin",
        "is_past = end >= begin",
        (f"{_VALUES}::test_values_are_those_of_the_events_strictly_before_the_request",),
    ),
    Line(
        "events are of the title of the play, by its row",
        "jaxrec/data/signals/past_values.py",
        "row_of_rank[log.rank]",
        "log.rank",
        (f"{_VALUES}::test_values_of_random_logs_equal_a_loop_over_events",),
    ),
    Line(
        "a history is as of the request, not as of the play",
        "jaxrec/data/examples/histories.py",
        "signals.before(event, past.time[row])",
        "signals.before(event, log.time[event])",
        (
            "tests/data/examples/test_impressions.py"
            "::test_a_history_has_the_signals_strictly_before_the_exposure",
        ),
    ),
    Line(
        "seconds of one event do not wrap around",
        "jaxrec/data/signals/past_values.py",
        "np.minimum(self._value, _MOST_SECONDS)",
        "self._value",
        (f"{_VALUES}::test_seconds_out_of_range_do_not_wrap_around",),
    ),
    Line(
        "no event differs from an event of value 0",
        "jaxrec/models/layers/history_encoder.py",
        "present.astype(values.dtype)",
        "jnp.ones_like(values)",
        ("tests/models/layers/test_feature_encoders.py::test_a_signal_is_a_value_and_a_presence",),
    ),
    Line(
        "a model reads its own signal of those in rows",
        "jaxrec/models/layers/history_encoder.py",
        "self.signals.index(name)",
        "0",
        ("tests/models/layers/test_feature_encoders.py::test_a_signal_is_a_value_and_a_presence",),
    ),
    Line(
        "served histories have the signals of their columns",
        "jaxrec/serving/requests.py",
        "records, _ = sort_events(records, log.hash, len(self._config.signals))",
        "records, _ = sort_events(records[:0], log.hash, len(self._config.signals))",
        (f"{_HISTORIES}::test_rows_of_raw_histories_are_the_rows_of_the_dataset",),
    ),
    Line(
        "a signal about users is no feature of a title",
        "jaxrec/config/rules/data.py",
        'require(signal.about == "title", f"{key}.name",',
        'require(True, f"{key}.name",',
        ("tests/config/test_signal_rules.py::test_a_wrong_feature_of_histories_is_named_in_one_line",),
    ),
)
