"""Lines of daily datasets: what they count, which targets they hold, ids that stay, ids without a title."""

from tests.broken.line import Line

_DAYS = "tests/data/increments/test_daily_datasets.py"
_GAPS = "tests/tasks/test_title_gaps.py"
_GROWTH = "tests/training/test_daily_growth.py"

LINES = (
    Line(
        "the shapes of a day's queries do not depend on its histories",
        "jaxrec/evaluation/scorers.py",
        "jax.process_count() == 1 and not self._task.layout.has_gaps",
        "jax.process_count() == 1",
        (f"{_GROWTH}::test_batches_of_a_later_day_have_the_shapes_of_the_day_before",),
    ),
    Line(
        "packed rows of a chain are rounded up",
        "jaxrec/data/loading/packing.py",
        "min(-(-rows // step) * step, shard_size)",
        "min(rows, shard_size)",
        ("tests/data/loading/test_packing.py::test_coarse_rows_are_equal_for_days_of_similar_histories",),
    ),
    Line(
        "the log ends at `until`",
        "jaxrec/data/runners/local.py",
        "(cut(chunk, self.end) for chunk in self.source.interactions())",
        "self.source.interactions()",
        (f"{_DAYS}::test_the_log_after_until_changes_no_byte",),
    ),
    Line(
        "signals end at `until`",
        "jaxrec/data/runners/local.py",
        "clean_signals(cut(chunk, self.end), config.signals",
        "clean_signals(chunk, config.signals",
        (f"{_DAYS}::test_counts_before_until_are_those_of_a_log_that_ends",),
    ),
    Line(
        "titles of a log exist from their first event on",
        "jaxrec/data/increments/log_end.py",
        "return has_event if titles.of_log else None",
        "return None",
        (f"{_DAYS}::test_the_log_after_until_changes_no_byte",),
    ),
    Line(
        "features of titles to come count for nothing",
        "jaxrec/data/increments/ranking.py",
        "columns.titles if present is None else encode_titles(titles, config, earlier, present)",
        "columns.titles",
        (f"{_DAYS}::test_a_title_is_in_the_catalogue_from_its_launch",),
    ),
    Line(
        "older targets are of the training alone",
        "jaxrec/data/increments/selection.py",
        "((split == TRAIN) & (drawn < self.replay))",
        "(drawn < self.replay)",
        (f"{_DAYS}::test_a_share_of_older_targets_is_replayed",),
    ),
    Line(
        "known titles keep their ids",
        "jaxrec/data/increments/catalogue.py",
        "id_of_rank = find(old, key[order]) + FIRST_TITLE",
        "id_of_rank = find(old[::-1], key[order]) + FIRST_TITLE",
        (f"{_DAYS}::test_ids_and_statistics_of_the_earlier_dataset_stay",),
    ),
    Line(
        "means and deviations stay",
        "jaxrec/data/events/title_features.py",
        "known[f.name].moments if known else moments.finish()",
        "moments.finish()",
        (f"{_DAYS}::test_ids_and_statistics_of_the_earlier_dataset_stay",),
    ),
    Line(
        "plays before `since` are no targets of sequences",
        "jaxrec/data/examples/next_item.py",
        '"label_known", "selected", "shown")  # of',
        '"label_known", "title", "shown")  # of',
        (f"{_DAYS}::test_sequences_mark_the_targets_since_a_day",),
    ),
    Line(
        "the softmax has no ids without a title",
        "jaxrec/tasks/next_item.py",
        "negatives, log_q, titles, sets),",
        "negatives, log_q, None, sets),",
        (f"{_GAPS}::test_unused_rows_are_in_no_loss_and_get_no_gradient",),
    ),
    Line(
        "no id without a title is drawn as a negative",
        "jaxrec/tasks/negative_sampling.py",
        "    if pool.ranked is not None:\n        return pool.ranked.id_V",
        "    if pool.titles < 0:\n        return pool.ranked.id_V",
        (f"{_GAPS}::test_unused_rows_are_in_no_loss_and_get_no_gradient",),
    ),
    Line(
        "no id without a title is ranked",
        "jaxrec/evaluation/scorers.py",
        "titles_V = task.candidates(table)",
        "titles_V = None",
        (f"{_GAPS}::test_unused_rows_are_in_no_ranking_of_the_catalogue",),
    ),
    Line(
        "a title that vanished is unknown in a history",
        "jaxrec/serving/requests.py",
        "title=np.where(has_rank[c.title], c.title, -1)",
        "title=c.title",
        (f"{_GAPS}::test_a_title_that_vanished_is_not_recommended_and_not_read",),
    ),
    Line(
        "moments of the titles of a new day are 0",
        "jaxrec/checkpoints/warm_start.py",
        "rows = np.where(table.row_map.source[:, None] < 0, missing, table.rows)",
        "rows = np.where(table.row_map.source[:, None] < 0, missing + 1, table.rows)",
        (f"{_GROWTH}::test_a_day_with_40_new_titles_starts_as_a_state_made_by_hand",),
    ),
)
