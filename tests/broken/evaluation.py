"""Lines of evaluation, metrics and reports."""

from tests.broken.line import Line

LINES = (
    # ------------------------------------------------------------ metrics and ranking
    Line(
        "a tie counts against the target",
        "jaxrec/evaluation/metrics.py",
        "ahead = ~(scores[..., 1:] < scores[..., :1])",
        "ahead = scores[..., 1:] > scores[..., :1]",
        ("tests/evaluation/test_metrics.py",),
    ),
    Line(
        "NDCG's discount",
        "jaxrec/evaluation/metrics.py",
        "1.0 / np.log2(1.0 + rank)",
        "1.0 / np.log2(2.0 + rank)",
        ("tests/evaluation/test_metrics.py",),
    ),
    Line(
        "the cutoff of a hit rate",
        "jaxrec/evaluation/metrics.py",
        "return (rank <= k).astype(np.float64)",
        "return (rank < k).astype(np.float64)",
        ("tests/evaluation/test_metrics.py",),
    ),
    Line(
        "ties and NaN over all titles count against the target",
        "jaxrec/evaluation/scorers.py",
        "rank_B = 1 + (rivals_BxV & ~(scores_BxV < target_score_Bx1)).sum(1)",
        "rank_B = 1 + (rivals_BxV & (scores_BxV > target_score_Bx1)).sum(1)",
        (
            "tests/evaluation/test_evaluator.py::test_equal_titles_count_against_the_target_and_are_shown_by_popularity",
        ),
    ),
    Line(
        "titles of the history are not ranked",
        "jaxrec/evaluation/scorers.py",
        "rivals_BxV &= jnp.ones_like(rivals_BxV).at[jnp.arange(B)[:, None], seen_BxL].set(False)",
        "rivals_BxV &= jnp.ones_like(rivals_BxV)",
        ("tests/evaluation/test_evaluator.py::test_ranks_among_all_titles_are_of_every_titles_score",),
    ),
    Line(
        "the catalogue is ranked by scores plus log q",
        "jaxrec/models/outputs.py",
        "return scaled + (self.log_q_V if id_BxN is None else jnp.asarray(self.log_q_V)[id_BxN])",
        "return scaled - (self.log_q_V if id_BxN is None else jnp.asarray(self.log_q_V)[id_BxN])",
        ("tests/evaluation/test_correction.py",),
    ),
    Line(
        "the share of a row's hard negatives that an epoch shows",
        "jaxrec/data/examples/sampling_density.py",
        "of_hard = np.where(filled, 0.0, real / np.maximum(num_hard, 1))",
        "of_hard = np.where(filled, 0.0, 1.0)",
        ("tests/data/examples/test_sampling_density.py",),
    ),
    Line(
        "a title played before the stored history is not ranked",
        "jaxrec/evaluation/scorers.py",
        "rivals_BxV &= ~_unpack_bits(",
        "rivals_BxV |= ~_unpack_bits(",
        ("tests/evaluation/test_evaluator.py::test_ranks_among_all_titles_are_of_every_titles_score",),
    ),
    Line(
        "popularity of 7 days ends before the day of the query",
        "jaxrec/evaluation/popularity.py",
        "[day - RECENT_DAYS, day])",
        "[day - RECENT_DAYS, day + 1])",
        ("tests/evaluation/test_popularity.py::test_popularity_of_7_days_by_hand",),
    ),
    Line(
        "a title first played at the time of a request is not seen",
        "jaxrec/data/examples/seen_titles.py",
        "    if strictly_earlier:\n",
        "    if False:\n",
        (
            "tests/data/examples/test_seen_titles.py::test_a_sequence_counts_a_title_that_precedes_the_query_at_the_same_time",
        ),
    ),
    Line(
        "item to item: the cosine's norm",
        "jaxrec/evaluation/baselines.py",
        "cosine /= np.sqrt(np.maximum(targets, 1))",
        "cosine /= np.maximum(targets, 1)",
        ("tests/evaluation/test_item_to_item.py",),
    ),
    Line(
        "an interval over seeds has n - 1 degrees of freedom",
        "jaxrec/evaluation/statistics.py",
        "half = float(scipy.stats.t.ppf(1 - LEVEL / 2, n - 1))",
        "half = float(scipy.stats.t.ppf(1 - LEVEL / 2, n))",
        ("tests/evaluation/test_statistics.py::test_statistics_over_a_few_seeds",),
    ),
    # ------------------------------------------------------------ the gate
    Line(
        "each expert has noise of its own",
        "jaxrec/models/mixture.py",
        "noise_BxE = normal((len(experts),), key_Bx2,",
        "noise_BxE = normal((1,), key_Bx2,",
        (
            "tests/models/test_mixture.py::"
            "test_eq_9_with_noise_drawn_per_expert_and_divided_by_the_temperature",
        ),
    ),
    Line(
        "the gate's temperature falls exponentially",
        "jaxrec/models/mixture.py",
        "return start * (final / start) ** progress",
        "return start + (final - start) * progress",
        ("tests/models/test_mixture.py::test_temperature_falls_exponentially_then_stays",),
    ),
    Line(
        "the gate's information about the user",
        "jaxrec/evaluation/gate_analysis.py",
        '"information": of_mean - of_each',
        '"information": of_mean',
        ("tests/evaluation/test_gate_analysis.py",),
    ),
    Line(
        "the queries of a user are one cluster of an interval",
        "jaxrec/evaluation/details/grouped_means.py",
        "residual = sums - mean[self._group_of_cell] * self._cell_sizes",
        "residual = sums - mean[self._group_of_cell]",
        ("tests/evaluation/test_details.py",),
    ),
    Line(
        "text of users is escaped in a report",
        "jaxrec/reporting/pages/elements.py",
        'return Html("" if value is None else html.escape(str(value)))',
        'return Html("" if value is None else str(value))',
        ("tests/reporting/test_pages.py::test_elements_escape_children_and_attributes",),
    ),
    Line(
        "examples of an earlier evaluation go when they are switched off",
        "jaxrec/evaluation/details/of_report.py",
        'return measured | {"examples": _examples(workdir, queries, ranked, count)}',
        "return measured",
        ("tests/end_to_end/test_commands.py::test_evaluate_writes_the_report_again_without_keys_of_users",),
    ),
    Line(
        "averaged task weights start after two epochs",
        "jaxrec/losses/task_weights.py",
        "return fixed * jnp.where(epoch < 2, 1.0, relative)",
        "return fixed * relative",
        ("tests/losses/test_task_weights.py::test_averaged_weights_by_hand",),
    ),
    # ------------------------------------------------------------ labels
    Line(
        "a tie of a positive and a negative counts half",
        "jaxrec/evaluation/labels/estimators.py",
        "above @ (np.take(total, self._first) + np.take(total, self._last)) / 2",
        "above @ np.take(total, self._first)",
        ("tests/evaluation/labels/test_estimators.py::test_auc_by_hand",),
    ),
    Line(
        "AUC in users is of pairs within users",
        "jaxrec/evaluation/labels/estimators.py",
        "np.cumsum(below) - below / 2 - earlier_users[user_of_tie]",
        "np.cumsum(below) - below / 2",
        (
            "tests/evaluation/labels/test_estimators.py::test_auc_in_users_is_weighted_by_queries_and_leaves_out_users_of_one_class",
        ),
    ),
    Line(
        "the level of a bootstrap interval",
        "jaxrec/evaluation/labels/bootstrap.py",
        "np.quantile(defined, [LEVEL / 2, 1 - LEVEL / 2])",
        "np.quantile(defined, [LEVEL, 1 - LEVEL])",
        (
            "tests/evaluation/labels/test_estimators.py::test_an_interval_covers_the_truth_and_is_as_wide_as_the_normal_one",
        ),
    ),
    Line(
        "heads that predict other labels are not compared",
        "jaxrec/evaluation/labels/differences.py",
        "np.array_equal(own.known, other.known) and np.array_equal(own.label, other.label)",
        "np.array_equal(own.known, other.known)",
        (
            "tests/evaluation/labels/test_predictions.py::test_runs_whose_queries_or_labels_differ_are_not_compared",
        ),
    ),
    Line(
        "non-inferiority over users and over seeds",
        "jaxrec/evaluation/statistics.py",
        "if all(low > -margin for",
        "if any(low > -margin for",
        ("tests/studies/test_label_claims.py::test_a_margin_makes_a_claim_of_non_inferiority",),
    ),
    Line(
        "a user's earlier labels are final by the query, also where both times are rounded down",
        "jaxrec/evaluation/labels/rates.py",
        "second - min(window, span) - 1",
        "second - min(window, span)",
        (
            "tests/evaluation/labels/test_rates.py::test_a_users_earlier_labels_are_those_that_are_final",
            "tests/evaluation/labels/test_rates.py::test_a_users_earlier_labels_equal_a_loop",
        ),
    ),
    Line(
        "unknown labels are in no rate of a title",
        "jaxrec/evaluation/labels/rates.py",
        'title = rows["target"][known]',
        'title, known = rows["target"].ravel(), np.ones_like(known)',
        ("tests/evaluation/labels/test_rates.py::test_titles_are_counted_over_all_blocks",),
    ),
    Line(
        "the logistic of both rates is fitted from the odds of independent evidence",
        "jaxrec/evaluation/labels/rates.py",
        "np.array([0.0, 1.0, 1.0])",
        "np.zeros(3)",
        (
            "tests/evaluation/labels/test_rates.py::test_predictions_take_the_best_strength_and_multiply_odds_without_validation_rows",
        ),
    ),
)
