"""Lines of rolling studies: the model that serves a day, titles launched since its training, users."""

from tests.broken.line import Line

_PLAN = "tests/studies/test_rolling.py"
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
        "jaxrec/studies/rolling/day_metrics.py",
        "if loaded.config.model.cold_masking_new:",
        "if False:",
        (f"{_DAY}::test_a_masked_model_ranks_new_titles_by_the_unknown_row_and_plays_of_its_training",),
    ),
    Line(
        "plays of titles are those of the training, not of the evaluated day",
        "jaxrec/studies/rolling/day_metrics.py",
        "return replace(now, title_plays=plays, id_of_rank=id_of_rank, rank_of_id=rank_of_id)",
        "return now",
        (f"{_DAY}::test_a_masked_model_ranks_new_titles_by_the_unknown_row_and_plays_of_its_training",),
    ),
    Line(
        "a user counts once, with the plays of all days",
        "jaxrec/studies/rolling/results.py",
        "of_users = np.bincount(index, difference.mean(axis=0)) / count",
        "of_users = np.bincount(index, difference.mean(axis=0))",
        (f"{_PLAN}::test_differences_are_of_users_pooled_over_days",),
    ),
)
