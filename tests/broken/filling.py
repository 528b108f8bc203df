"""Lines of early labels as input, and of predictions in place of unknown labels."""

from tests.broken.line import Line

_FILL = "tests/end_to_end/test_fill.py"
_ROWS = "tests/tasks/test_filled_labels.py"
_RULES = "tests/config/test_observed_labels.py"

LINES = (
    Line(
        "a label is filled where the labels that the model reads are known",
        "jaxrec/analysis/rewritten/filling.py",
        "present = present & label_is_known(known, i)",
        "pass",
        (f"{_FILL}::test_the_second_target_is_predicted_from_its_own_row",),
    ),
    Line(
        "target k is predicted from its own labels",
        "jaxrec/analysis/rewritten/filling.py",
        "alone[name] = rows[name][:, k : k + 1] if of_targets else rows[name]",
        "alone[name] = rows[name][:, :1] if of_targets else rows[name]",
        (f"{_FILL}::test_the_second_target_is_predicted_from_its_own_row",),
    ),
    Line(
        "a filled dataset is that of one checkpoint",
        "jaxrec/analysis/rewritten/rewriting.py",
        'if is_there and read_manifest(folder / MANIFEST)["digest"] != own:',
        "if False:",
        (f"{_FILL}::test_the_same_content_is_left_and_other_content_refused",),
    ),
    Line(
        "the labels of a filled dataset are declared as those of the run",
        "jaxrec/analysis/rewritten/filling.py",
        'if dataset.manifest["digest"] != digest(config) and stored != own:',
        "if False:",
        (f"{_FILL}::test_another_model_is_refused_in_one_line",),
    ),
    Line(
        "an online model fills nothing",
        "jaxrec/analysis/rewritten/filling.py",
        "if not config.offline:",
        "if False:",
        (f"{_FILL}::test_another_model_is_refused_in_one_line",),
    ),
    Line(
        "predictions are no labels of an evaluation",
        "jaxrec/tasks/ranking_inputs.py",
        "label_filled=predicted if filled else None",
        "label_filled=predicted",
        (f"{_ROWS}::test_a_head_learns_from_predictions_and_evaluation_leaves_them_out",),
    ),
    Line(
        "a head learns from predictions",
        "jaxrec/config/heads.py",
        "label_known = label_known | label_filled",
        "pass",
        (f"{_ROWS}::test_a_head_learns_from_predictions_and_evaluation_leaves_them_out",),
    ),
    Line(
        "a head is divided by the share that it learns from",
        "jaxrec/tasks/heads.py",
        'prefix = FILLED if layout.filled and reads_filled(head.of, config) else ""',
        'prefix = ""',
        (f"{_ROWS}::test_the_share_of_a_head_counts_the_predictions_that_it_learns_from",),
    ),
    Line(
        "an early label is read where it is known",
        "jaxrec/tasks/ranking_inputs.py",
        "numbers += [jnp.where(known, jnp.sign(y) * jnp.log1p(jnp.abs(y)), 0.0), known.astype(jnp.float32)]",
        "numbers += [jnp.sign(y) * jnp.log1p(jnp.abs(y)), known.astype(jnp.float32)]",
        (f"{_ROWS}::test_early_labels_are_the_value_and_whether_it_is_known",),
    ),
    Line(
        "a model reads no label that is final as late as what it predicts",
        "jaxrec/config/rules/declared/availability.py",
        'require(label.hours > longest, where, head.of, f"{allowed}; {label.name!r} has {label.hours:g}")',
        "pass",
        (f"{_RULES}::test_a_wrong_use_of_an_early_label_is_one_line",),
    ),
    Line(
        "a feature that is a label leaves the dataset as it is",
        "jaxrec/config/serialization.py",
        'for f in tree["features"] if f["where"] != "label"',
        'for f in tree["features"]',
        (f"{_RULES}::test_an_offline_model_may_read_early_labels_and_shares_the_dataset",),
    ),
    Line(
        "the gain over an early label is on the same resamples",
        "jaxrec/evaluation/labels/observed.py",
        "Resampled(model.value - early.value, model.replicates - early.replicates)",
        "Resampled(model.value - early.value, model.replicates - early.value)",
        (
            "tests/evaluation/labels/test_observed.py"
            "::test_the_gain_is_the_difference_of_both_auc_on_the_known_labels",
        ),
    ),
)
