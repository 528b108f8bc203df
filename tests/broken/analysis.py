"""Lines of the description of a dataset."""

from tests.broken.line import Line

_AUC = "tests/analysis/test_feature_auc.py"
_DESCRIBE = "tests/analysis/test_describe.py"
_VARIANCE = "tests/analysis/test_explained_variance.py"

LINES = (
    Line(
        "ties count half in an AUC",
        "jaxrec/evaluation/labels/estimators.py",
        "(np.cumsum(below) - below / 2)).sum()",
        "np.cumsum(below)).sum()",
        (f"{_AUC}::test_an_auc_by_hand", f"{_AUC}::test_an_auc_is_a_share_of_pairs"),
    ),
    Line(
        "the rate of a category is that of other users",
        "jaxrec/analysis/feature_auc.py",
        "    fitted = ids[used & fit[:, None]]",
        "    row, _ = np.nonzero(used)\n    fitted = ids[used]",
        (f"{_AUC}::test_categories_are_scored_by_their_rate_among_other_users",),
    ),
    Line(
        "a row is predicted from other rows",
        "jaxrec/analysis/explained_variance.py",
        "        fit = fold != i\n",
        "        fit = fold == fold\n",
        (f"{_VARIANCE}::test_noise_is_explained_by_nothing",),
    ),
    Line(
        "means of few rows are shrunken",
        "jaxrec/analysis/explained_variance.py",
        "np.maximum(sizes + within / between, 1e-12)",
        "np.maximum(sizes, 1)",
        (f"{_VARIANCE}::test_shares_of_a_sum_add_up",),
    ),
    Line(
        "an unknown label is neither positive nor negative in the AUC of a feature",
        "jaxrec/analysis/description.py",
        "return category_auc(columns[known], positive[known], fit[known])",
        "return category_auc(columns, positive, fit)",
        (f"{_DESCRIBE}::test_a_column_that_copies_a_later_label_is_flagged",),
    ),
    Line(
        "a feature from the threshold on is flagged",
        "jaxrec/analysis/description.py",
        "if area >= LEAK and not is_early]",
        "if area > 1]",
        (f"{_DESCRIBE}::test_a_column_that_copies_a_later_label_is_flagged",),
    ),
    Line(
        "the targets in memory are bounded",
        "jaxrec/analysis/targets.py",
        "        if total >= most:\n            break\n",
        "",
        (f"{_DESCRIBE}::test_targets_in_memory_are_bounded",),
    ),
)
