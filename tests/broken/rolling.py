"""Lines of rolling studies: the model that serves a day, titles launched since its training, users."""

from tests.broken.line import Line

_PLAN = "tests/studies/test_rolling.py"
_LATER = "tests/evaluation/test_later_day.py"
_DAY = "tests/studies/test_day_metrics.py"

LINES = (
    Line(
        "a day is served by a model of the days before",
        "jaxrec/studies/rolling/plan.py",
        "before = [update for update in row.updates if update < day]",
        "before = [update for update in row.updates if update <= day]",
        (f"{_PLAN}::test_a_row_starts_from_its_last_model_and_models_share_day_0",),
    ),
    Line(
        "a masked model ranks new titles by the unknown row",
        "jaxrec/tasks/growth/later_catalogue.py",
        "if loaded.config.model.cold_masking_new:",
        "if False:",
        (f"{_DAY}::test_a_masked_model_ranks_new_titles_by_the_unknown_row_and_plays_of_its_training",),
    ),
    Line(
        "plays of titles are those of the training, not of the evaluated day",
        "jaxrec/tasks/growth/later_catalogue.py",
        "return replace(now, title_plays=plays, id_of_rank=id_of_rank, rank_of_id=rank_of_id)",
        "return now",
        (f"{_DAY}::test_a_masked_model_ranks_new_titles_by_the_unknown_row_and_plays_of_its_training",),
    ),
    Line(
        "a user counts once, with the plays of all days",
        "jaxrec/studies/rolling/results.py",
        "return np.bincount(index, values) / np.bincount(index)",
        "return np.bincount(index, values)",
        (f"{_PLAN}::test_differences_are_of_users_pooled_over_days",),
    ),
    Line(
        "titles that the training did not rank come by key, for their ids are in the order of plays today",
        "jaxrec/tasks/growth/later_catalogue.py",
        'by_key = now.id_of_rank[np.argsort(now.title_key[now.id_of_rank - FIRST_TITLE], kind="stable")]',
        "by_key = now.id_of_rank",
        (f"{_LATER}::test_plays_and_ranks_are_those_of_the_training_and_new_titles_come_by_key",),
    ),
    Line(
        "a dataset has grown only if its titles begin with those of the training",
        "jaxrec/tasks/growth/later_catalogue.py",
        "if any(list(now[: len(then)]) != list(then) for now, then in pairs):",
        "if False:",
        (f"{_LATER}::test_only_a_dataset_that_continues_the_training_has_grown",),
    ),
    Line(
        "the correction of ids without a title in training is not that of a new title",
        "jaxrec/evaluation/correction.py",
        "else correction.log_q_V[:known]",
        "else correction.log_q_V",
        (f"{_LATER}::test_the_correction_of_a_new_title_is_the_least_of_the_training",),
    ),
)
