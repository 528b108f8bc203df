"""Lines of signals: readers, cleaning, order, routing, digests."""

from tests.broken.line import Line

_EVENTS = "tests/data/signals/test_signal_events.py"
_PREPARED = "tests/data/runners/test_signal_preparation.py"
_READ = "tests/sources/test_signals.py"

LINES = (
    Line(
        "a missing number of a column is no event",
        "jaxrec/sources/tabular/signals.py",
        "value.fill_nan(None).fill_null(0) != 0",
        "value.fill_null(0) != 0",
        (f"{_READ}::test_missing_values_of_parquet_are_no_events",),
    ),
    Line(
        "an empty text is no invalid event",
        "jaxrec/sources/table.py",
        '("categories", "flag", "text", "free text")',
        '("categories", "flag", "free text")',
        (f"{_READ}::test_missing_values_of_parquet_are_no_events",),
    ),
    Line(
        "equal values have equal bytes",
        "jaxrec/data/signals/cleaning.py",
        "chunk.value[good] + np.float32(0)",
        "chunk.value[good]",
        (f"{_EVENTS}::test_the_order_of_events_changes_neither_the_sorted_events_nor_their_hash",),
    ),
    Line(
        "ties of events are in the order of kind, value and text",
        "jaxrec/data/signals/records.py",
        "order = np.lexsort(columns[::-1])",
        "order = np.lexsort(columns[2::-1])",
        (f"{_EVENTS}::test_the_order_of_events_changes_neither_the_sorted_events_nor_their_hash",),
    ),
    Line(
        "events of users without plays are left out",
        "jaxrec/data/signals/records.py",
        '    records = records[users[at] == records["user"]]\n',
        "",
        (f"{_EVENTS}::test_the_order_of_events_changes_neither_the_sorted_events_nor_their_hash",),
    ),
    Line(
        "partitions are small with the events of signals",
        "jaxrec/data/events/partitions.py",
        "np.where(plays > 0, plays + others, 0)",
        "plays",
        (f"{_PREPARED}::test_bytes_do_not_depend_on_cores_partitions_and_order",),
    ),
    Line(
        "a lost event of a signal is an error",
        "jaxrec/data/runners/stages.py",
        '    check_count(f"events of signals of partition {number}", len(signals), '
        "int(stats.signal_events[number]))\n",
        "",
        (f"{_PREPARED}::test_a_lost_or_duplicated_event_is_an_error",),
    ),
    Line(
        "a dataset without signals keeps its digest",
        "jaxrec/config/serialization.py",
        ") if declared}",
        ")}",
        ("tests/config/test_signal_rules.py::test_signals_enter_a_digest_where_they_are_declared",),
    ),
)
