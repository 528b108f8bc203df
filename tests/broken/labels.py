"""Lines of labels, rewards and entry points."""

from tests.broken.line import Line

_RULES = "tests/data/labels/test_label_rules.py"

_STORED = "tests/data/examples/test_stored_labels.py"

LINES = (
    Line(
        "training labels end where validation begins",
        "jaxrec/data/labels/of_targets.py",
        "ends = np.minimum(ends, np.append(edges, log_end)[split])",
        "pass",
        (f"{_STORED}::test_labels_of_a_split_end_where_later_splits_begin",),
    ),
    Line(
        "training labels end at the user's first held-out target",
        "jaxrec/data/labels/of_targets.py",
        "ends[earlier] = np.minimum(ends, first[user])[earlier]",
        "pass",
        (
            f"{_STORED}::test_labels_of_a_split_end_where_later_splits_begin",
            f"{_STORED}::test_a_query_of_sequences_has_the_label_of_its_target",
        ),
    ),
    Line(
        "a row holds the labels of its own next titles",
        "jaxrec/data/examples/ranking.py",
        "at = np.searchsorted(query, upcoming[row, k])",
        "at = np.searchsorted(query, upcoming[row, 0])",
        (f"{_STORED}::test_rows_hold_the_labels_of_all_next_titles",),
    ),
    Line(
        "absent targets are no entries of a label",
        "jaxrec/data/labels/counts.py",
        'present = rows["target" if "target" in (rows.dtype.names or ()) else "title"] > 0',
        'present = rows["target" if "target" in (rows.dtype.names or ()) else "title"] >= 0',
        (f"{_STORED}::test_counts_are_those_of_the_targets_of_training_rows",),
    ),
    Line(
        "a dataset with other labels is another dataset",
        "jaxrec/config/serialization.py",
        '("signals", config.signals), ("labels", config.labels),',
        '("signals", config.signals),',
        ("tests/data/runners/test_signal_preparation.py::test_labels_are_described_from_the_rows",),
    ),
    Line(
        "an event belongs to the last anchor before it",
        "jaxrec/data/labels/windows.py",
        "np.minimum(self.available_at(label), self._next_anchor())",
        "self.available_at(label)",
        (f"{_RULES}::test_the_last_anchor_before_an_event_owns_it",),
    ),
    Line(
        "no window of a label reaches past the end of what the split may see",
        "jaxrec/data/labels/windows.py",
        "timeline.next(first, group, np.minimum(until, self.observed.end)))",
        "timeline.next(first, group, until))",
        (f"{_RULES}::test_a_label_is_unknown_whose_window_ends_after_the_end",),
    ),
    Line(
        "a label that is not final at the end is unknown",
        "jaxrec/data/labels/extraction.py",
        "known = defined & (available_at <= windows.observed.end) & (available_at < NEVER)",
        "known = defined & (available_at < NEVER)",
        (
            f"{_RULES}::test_a_label_is_unknown_whose_window_ends_after_the_end",
            f"{_RULES}::test_a_positive_label_is_not_final_before_a_negative_one",
        ),
    ),
    Line(
        "no thumb is not a thumb down",
        "jaxrec/data/labels/rules.py",
        "    known = has_event.copy()",
        "    known = np.ones_like(has_event)",
        (f"{_RULES}::test_the_last_value_is_unknown_without_events",),
    ),
    Line(
        "seconds of a label are summed in whole milliseconds",
        "jaxrec/data/labels/timeline.py",
        "before = np.zeros(len(values) + 1, np.int64)",
        "before = np.zeros(len(values) + 1, np.float32)",
        (f"{_RULES}::test_many_seconds_are_summed_to_the_millisecond",),
    ),
    Line(
        "discovery looks back to distinct titles",
        "jaxrec/data/labels/discovery.py",
        "fewer[open_] = count < limit",
        "fewer[open_] = False",
        (f"{_RULES}::test_discovery_is_of_genres_and_distinct_titles",),
    ),
    Line(
        "a threshold of a reward is rounded like the labels",
        "jaxrec/core/rewards.py",
        "xp.asarray(term.at, y.dtype)",
        "xp.asarray(term.at, xp.float32)",
        ("tests/core/test_rewards.py::test_shapes",),
    ),
    Line(
        "a new field of a reward keeps its version",
        "jaxrec/core/rewards.py",
        "for field, x in values if x != field.default",
        "for field, x in values",
        ("tests/core/test_rewards.py::test_a_new_field_and_the_order_of_fields_keep_versions",),
    ),
    Line(
        "an entry point has no name of a built-in rule",
        "jaxrec/core/registry.py",
        'raise InputError(f"{_place(own[name])} must not have the name of a built-in one")',
        "pass",
        ("tests/core/test_entry_points.py::test_a_name_of_a_built_in_rule_is_one_line",),
    ),
    Line(
        "a thumb down is not positive",
        "jaxrec/data/labels/rules.py",
        "return y > 0, known, available_at",
        "return y != 0, known, available_at",
        (
            "tests/data/labels/test_label_rules.py::test_a_positive_value_is_a_thumb_up_and_unknown_without_a_thumb",
        ),
    ),
)
