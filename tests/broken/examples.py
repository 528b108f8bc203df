"""Lines of exposures as rows and of folds of users."""

from tests.broken.line import Line

_ROWS = "tests/data/examples/test_impressions.py"

LINES = (
    Line(
        "exposures without an earlier play own events",
        "jaxrec/data/examples/impressions.py",
        "    exposures = _exposures(log, labels)\n",
        "    exposures = _exposures(log, labels)\n"
        "    exposures = exposures.at(np.flatnonzero(exposures.start > exposures.first))\n",
        (f"{_ROWS}::test_a_row_has_the_title_the_completion_and_the_labels_of_its_exposure",),
    ),
    Line(
        "the history of an exposure is strictly earlier",
        "jaxrec/data/examples/impressions.py",
        "plays.first(group, time), plays.begin(group)",
        "plays.first(group, time + 1), plays.begin(group)",
        (f"{_ROWS}::test_a_history_is_strictly_before_the_exposure_as_of_its_time",),
    ),
    Line(
        "the context of an exposure is that of its own row of the log",
        "jaxrec/data/examples/impressions.py",
        "np.where(after > at, np.append(order, -1)[at], -1)",
        "np.append(order, -1)[at]",
        (f"{_ROWS}::test_the_context_is_that_of_the_play_at_the_same_time",),
    ),
    Line(
        "all users outside of a fold are divided by the shares",
        "jaxrec/data/events/users.py",
        "share * (count - 1)",
        "share * count",
        ("tests/data/events/test_folds.py::test_folds_test_each_user_once",),
    ),
    Line(
        "datasets without exposures keep their digests",
        "jaxrec/config/serialization.py",
        '"test_from", "examples", "fold", "truth_queries", "served",',
        '"test_from", "fold", "truth_queries", "served",',
        ("tests/config/test_availability.py::test_availability_enters_a_digest_where_it_is_set",),
    ),
)
