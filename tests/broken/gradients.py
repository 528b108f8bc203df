"""Lines of strata and of the gradients of heads."""

from tests.broken.line import Line

_STRATA = "tests/data/loading/test_strata.py"
_GRADIENTS = "tests/evaluation/test_gradients.py"

LINES = (
    Line(
        "the mean weight of the training rows is 1",
        "jaxrec/data/loading/strata.py",
        "np.where(there, weight / mean, 1.0)",
        "np.where(there, weight, 1.0)",
        (f"{_STRATA}::test_weights_by_hand",),
    ),
    Line(
        "an example weighs as its stratum in the loss",
        "jaxrec/losses/ranking.py",
        "lambda value: value * batch.weight",
        "lambda value: value",
        (f"{_STRATA}::test_an_example_weighs_as_its_stratum_in_the_total_and_in_each_term",),
    ),
    Line(
        "an evaluation weighs as the training did",
        "jaxrec/tasks/loading.py",
        'meta.get("strata", ())',
        "()",
        (f"{_STRATA}::test_a_checkpoint_keeps_the_counts",),
    ),
    Line(
        "a head's own expert is not shared",
        "jaxrec/models/trunks.py",
        "last = np.arange(experts + own).repeat(width) < experts",
        "last = np.arange(experts + own).repeat(width) >= 0",
        ("tests/models/test_trunks.py::test_columns_that_several_heads_share_on_one_level",),
    ),
    Line(
        "gradients of heads are of what several heads read",
        "jaxrec/models/trunks.py",
        "at not in own",
        'at != "retrieval"',
        (f"{_GRADIENTS}::test_statistics_are_those_of_a_gradient_for_each_head",),
    ),
)
