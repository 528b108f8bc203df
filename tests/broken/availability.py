"""Lines of what a model may read: features, offline runs, outcomes of rows."""

from tests.broken.line import Line

_RULES = "tests/config/test_availability.py"
_OUTCOMES = "tests/tasks/test_outcomes.py"
_OFFLINE = "tests/serving/test_offline.py"

LINES = (
    Line(
        "an outcome is no feature of a request",
        "jaxrec/config/rules/declared/availability.py",
        'require(is_known or available == "after",',
        'require(True or available == "after",',
        (f"{_RULES}::test_an_outcome_is_no_feature_of_a_request",),
    ),
    Line(
        "the columns of signals are outcomes",
        "jaxrec/config/rules/declared/availability.py",
        "if signal.column != EVERY_ROW:",
        "if signal.column == EVERY_ROW:",
        (f"{_RULES}::test_an_outcome_is_no_feature_of_a_request",),
    ),
    Line(
        "features of after are for offline configs",
        "jaxrec/config/rules/declared/availability.py",
        'require(config.offline or available == "request",',
        'require(True or available == "request",',
        (f"{_RULES}::test_an_outcome_is_no_feature_of_a_request",),
    ),
    Line(
        "the availability of a request keeps its digest",
        "jaxrec/config/serialization.py",
        "if value != later.get(name)}",
        "}",
        (f"{_RULES}::test_availability_enters_a_digest_where_it_is_set",),
    ),
    Line(
        "an offline run is not evaluated",
        "jaxrec/evaluation/evaluator.py",
        "    check_ranks_titles(loaded.config)\n",
        "",
        (f"{_OFFLINE}::test_a_command_that_ranks_titles_refuses_an_offline_run",),
    ),
    Line(
        "an offline run gets no requests",
        "jaxrec/serving/requests.py",
        "        check_ranks_titles(config)\n",
        "",
        (f"{_OFFLINE}::test_an_export_of_an_offline_run_is_not_served",),
    ),
    Line(
        "an offline training ends without a test",
        "jaxrec/train.py",
        "    if config.offline and not label_heads(config):\n",
        "    if False:\n",
        (f"{_OFFLINE}::test_a_training_of_an_offline_config_ends_without_a_test",),
    ),
    Line(
        "a model reads past completions, not those of the targets",
        "jaxrec/tasks/ranking_inputs.py",
        'after(Outcome(columns.pop("completion"), ',
        'after(Outcome(columns.pop("completion") + 0 * rows["target_completion"][:1, :1], ',
        (f"{_OUTCOMES}::test_outcomes_change_no_score_of_candidate_lists",),
    ),
    Line(
        "a window of the next item holds no target",
        "jaxrec/tasks/next_item_inputs.py",
        "inputs, target = title[:, :-1], jnp.where",
        "inputs, target = title[:, 1:], jnp.where",
        (f"{_OUTCOMES}::test_the_inputs_of_a_training_step_hold_no_outcome_of_the_targets",),
    ),
)
