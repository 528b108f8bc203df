"""Lines of declared heads, blends, and the studies of heads."""

from tests.broken.line import Line

_TERMS = "tests/losses/test_label_terms.py"
_HEADS = "tests/tasks/test_head_labels.py"
_WHOLE = "tests/end_to_end/test_label_heads.py"

LINES = (
    Line(
        "the term of a head is over the share of known entries",
        "jaxrec/losses/label_terms.py",
        "return value.sum(-1) / jnp.maximum(c.present.sum(-1), 1) / inputs.head.share",
        "return value.sum(-1) / jnp.maximum(c.present.sum(-1), 1)",
        (f"{_TERMS}::test_pair_bce_is_the_labelled_sum_over_the_share_of_known_entries",),
    ),
    Line(
        "unknown labels of candidates add nothing",
        "jaxrec/losses/label_terms.py",
        "there = jnp.concatenate([c.present, negative], axis=1) & known[:, : loss.shape[1]]",
        "there = jnp.concatenate([c.present, negative], axis=1)",
        (f"{_TERMS}::test_pair_bce_is_the_labelled_sum_over_the_share_of_known_entries",),
    ),
    Line(
        "the label of a head weighs its ranking",
        "jaxrec/losses/label_terms.py",
        "weight = inputs.weight * inputs.label * jnp.where(known, y, 0.0) / inputs.head.share",
        "weight = inputs.weight * inputs.label / inputs.head.share",
        (f"{_TERMS}::test_a_positive_weighs_as_much_as_its_label_in_rankings",),
    ),
    Line(
        "drawn titles count in the share of known entries",
        "jaxrec/tasks/heads.py",
        "share = (share + negatives) / (1 + negatives)",
        "pass",
        (f"{_HEADS}::test_share_of_known_entries_and_drawn_titles",),
    ),
    Line(
        "drawn titles of a label may be unknown",
        "jaxrec/tasks/heads.py",
        'drawn = pair and all(label.of_drawn == "zero" for label in labels)',
        "drawn = pair",
        (f"{_HEADS}::test_share_of_known_entries_and_drawn_titles",),
    ),
    Line(
        "a blend adds log probabilities",
        "jaxrec/models/heads.py",
        "nn.log_sigmoid(value) if term.head in logits else value",
        "value",
        ("tests/models/test_ranker.py::test_a_blend_is_the_weighted_sum_of_log_probabilities_and_values",),
    ),
    Line(
        "a blend of a page leaves other requests to the default head",
        "jaxrec/models/heads.py",
        "total = jnp.where(served_BxP[:, i, None], total, score(page.otherwise))",
        "pass",
        (f"{_WHOLE}::test_a_blend_of_a_page_orders_the_queries_of_its_value",),
    ),
    Line(
        "a page is that of the named value",
        "jaxrec/tasks/heads.py",
        "own_id = FIRST_VALUE + values.index(value)",
        "own_id = FIRST_VALUE + 1 + values.index(value)",
        (f"{_WHOLE}::test_a_blend_of_a_page_orders_the_queries_of_its_value",),
    ),
    Line(
        "a blend has a correction of its own",
        "jaxrec/evaluation/correction.py",
        'return workdir / f"correction-{head}-{zlib.crc32(blend.encode()):08x}.npz"',
        "return workdir / _FILE",
        (f"{_WHOLE}::test_a_blend_orders_lists_and_the_catalogue",),
    ),
    Line(
        "a reader takes the value that the run chose its best step by",
        "jaxrec/checkpoints/documents.py",
        "for name in (BEST, *_OLD_BEST)",
        "for name in reversed(_OLD_BEST)",
        (
            "tests/checkpoints/test_checkpointer.py"
            "::test_a_reader_takes_the_best_step_of_the_metric_that_the_run_chose_by",
        ),
    ),
    Line(
        "each seed of a study with folds tests another fold",
        "jaxrec/studies/plan.py",
        "(seed - study.base.train.seed) % study.folds + 1",
        "1",
        ("tests/studies/test_label_claims.py::test_each_seed_of_a_study_with_folds_tests_another_fold",),
    ),
)
