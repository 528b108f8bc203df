"""Lines of preparation and loading."""

from tests.broken.line import Line

LINES = (
    # ------------------------------------------------------------ data
    Line(
        "the last target is the test's",
        "jaxrec/data/events/splits.py",
        "out[(from_end == 0) & (count[user] > least)] = TEST",
        "out[(from_end == 0) & (count[user] > least)] = VALIDATION",
        ("tests/data/examples/test_next_item_examples.py::test_split_by_last",),
    ),
    Line(
        "a split by time begins at midnight",
        "jaxrec/data/events/splits.py",
        'np.searchsorted(edges, time, side="right")',
        'np.searchsorted(edges, time, side="left")',
        (
            "tests/data/examples/test_next_item_examples.py::test_split_by_time",
            "tests/data/examples/test_ranking_examples.py::test_a_users_targets_in_three_splits",
        ),
    ),
    Line(
        "popularity does not count held-out events",
        "jaxrec/data/events/splits.py",
        "out = time < first[user]",
        "out = time <= first[user]",
        ("tests/data/examples/test_next_item_examples.py::test_popularity_counts_the_training_events",),
    ),
    Line(
        "completion is clipped",
        "jaxrec/data/events/cleaning.py",
        "return np.clip(milliseconds / _milliseconds(runtime_minutes), 0.0, 1.0)",
        "return milliseconds / _milliseconds(runtime_minutes)",
        ("tests/data/events/test_cleaning.py",),
    ),
    Line(
        "of duplicates the one viewed longest is kept",
        "jaxrec/data/events/cleaning.py",
        "-viewed[rows], group]",
        "viewed[rows], group]",
        ("tests/data/events/test_cleaning.py",),
    ),
    Line(
        "the range of times is half open",
        "jaxrec/data/events/cleaning.py",
        "(chunk.time >= latest)",
        "(chunk.time > latest)",
        ("tests/data/events/test_cleaning.py",),
    ),
    Line(
        "a history has each title's latest play before the query",
        "jaxrec/data/events/event_log.py",
        "live = following[event] >= start[pending][query]",
        "live = following[event] > start[pending][query]",
        ("tests/data/examples/test_ranking_examples.py::test_last_plays_equal_a_loop",),
    ),
    Line(
        "a title is abandoned by its completion before the query",
        "jaxrec/data/examples/histories.py",
        'rows["history_abandoned"][at] = states.completion[event] < abandon_threshold',
        'rows["history_abandoned"][at] = states.total[event] < abandon_threshold',
        (
            "tests/data/examples/test_ranking_examples.py::"
            "test_history_is_strictly_earlier_as_of_the_query_with_each_title_once",
        ),
    ),
    Line(
        "no hard negative is one of the next targets",
        "jaxrec/data/examples/ranking.py",
        "live &= ~(log.rank[event][:, None] == targets[row]).any(axis=1)",
        "live &= True",
        ("tests/data/examples/test_ranking_examples.py::test_next_targets_are_no_hard_negatives",),
    ),
    Line(
        "negatives of a query are distinct",
        "jaxrec/data/examples/negatives.py",
        "outside = np.flatnonzero(image >= limit.take(jobs))",
        "outside = np.flatnonzero(image > limit.take(jobs))",
        ("tests/data/examples/test_negatives.py",),
    ),
    Line(
        "each next title has its own frozen list",
        "jaxrec/data/examples/ranking.py",
        "salt = 1 + l * layout.num_targets + k",
        "salt = 1 + l * layout.num_targets + 0 * k",
        (
            "tests/data/examples/test_ranking_examples.py::"
            "test_lists_follow_table_2_and_each_next_title_has_its_own",
        ),
    ),
    Line(
        "hard columns rotate over the real hard negatives",
        "jaxrec/tasks/ranking_inputs.py",
        "rotated = (epoch * counts[0] + j) % jnp.maximum(n_hard, 1)",
        "rotated = (epoch * counts[0] + j) % width",
        ("tests/tasks/test_ranking_inputs.py::test_hard_columns_rotate_over_real_hard_negatives",),
    ),
    Line(
        "abandoned titles are removed",
        "jaxrec/tasks/ranking_inputs.py",
        'kept = (titles != PAD) & (rows["history_abandoned"] == 0)',
        "kept = titles != PAD",
        ("tests/tasks/test_ranking_inputs.py::test_abandoned_titles_are_replaced_by_older_titles",),
    ),
    Line(
        "a shorter window holds the latest titles of a packed history",
        "jaxrec/data/loading/packing.py",
        "oldest = starts[0] - shard_of_example * (self.rows[0] * width) + shown_counts[0] - n",
        "oldest = starts[0] - shard_of_example * (self.rows[0] * width)",
        ("tests/data/loading/test_packing.py::test_packed_histories_equal_unpacked_ones",),
    ),
    Line(
        "the order of data depends on the epoch",
        "jaxrec/data/loading/batches.py",
        "blocks = _generator(self._seed, epoch).permutation(self._rows.blocks)",
        "blocks = _generator(self._seed).permutation(self._rows.blocks)",
        ("tests/data/loading/test_batches.py::test_the_order_of_blocks_differs_between_epochs",),
    ),
    Line(
        "evaluation keeps the tail",
        "jaxrec/data/loading/batches.py",
        "return -(-self._rows.rows // self._batch)",
        "return self._rows.rows // self._batch",
        ("tests/data/loading/test_batches.py::test_evaluation_keeps_the_tail",),
    ),
    # ------------------------------------------------------------ features by id
    Line(
        "categories of titles are by id",
        "jaxrec/data/storage/writer.py",
        "wide[first:] = categories[order]",
        "wide[first:] = categories",
        ("tests/data/events/test_vocabulary.py::test_every_title_id_has_the_features_of_its_title",),
    ),
    Line(
        "numbers of titles are by id",
        "jaxrec/data/storage/writer.py",
        "tall[first:] = numbers[order]",
        "tall[first:] = numbers",
        ("tests/data/events/test_vocabulary.py::test_every_title_id_has_the_features_of_its_title",),
    ),
    Line(
        "a row has the features of its user",
        "jaxrec/data/runners/partition_job.py",
        "users.categories[at[known]], users.numbers[at[known]]",
        "users.categories[at[known] - 1], users.numbers[at[known]]",
        ("tests/data/events/test_vocabulary.py::test_every_row_has_the_features_of_its_user",),
    ),
    Line(
        "ids of categories are sorted",
        "jaxrec/data/events/vocabulary.py",
        "values = sorted(self._code)\n",
        "values = list(self._code)\n",
        ("tests/data/events/test_vocabulary.py",),
    ),
    Line(
        "codes of a worker are those of all workers",
        "jaxrec/data/events/vocabulary.py",
        "np.append(own.codes_of(other.values()), np.int32(-1))",
        "np.append(np.arange(len(other.values())), np.int32(-1))",
        ("tests/data/events/test_vocabulary.py::test_chunks_encoded_apart_are_joined",),
    ),
    Line(
        "a missing number is the mean",
        "jaxrec/data/events/vocabulary.py",
        "np.where(np.isfinite(scaled), scaled, 0.0)",
        "np.where(np.isfinite(scaled), scaled, -1.0)",
        ("tests/data/events/test_vocabulary.py",),
    ),
    Line(
        "a missing code is unknown",
        "jaxrec/data/events/vocabulary.py",
        "remap = np.full(len(values) + 1, UNKNOWN, np.int32)",
        "remap = np.full(len(values) + 1, UNKNOWN + 1, np.int32)",
        ("tests/data/events/test_vocabulary.py",),
    ),
    Line(
        "the first values of a list are kept",
        "jaxrec/data/events/title_features.py",
        "inside = at < offsets[1:, None]",
        "inside = at <= offsets[1:, None]",
        ("tests/data/events/test_vocabulary.py::test_a_list_keeps_its_first_values",),
    ),
    Line(
        "a title without values is unknown",
        "jaxrec/data/events/title_features.py",
        "padded[np.diff(offsets) == 0, 0] = UNKNOWN",
        "padded[np.diff(offsets) == 0, 0] = 0",
        ("tests/data/events/test_vocabulary.py::test_a_list_keeps_its_first_values",),
    ),
)
