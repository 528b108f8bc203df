"""Lines of losses against sets of targets."""

from tests.broken.line import Line

_FILE = "jaxrec/losses/target_sets.py"
_LOOP = "tests/losses/test_target_sets.py::test_the_loss_of_a_set_equals_a_loop_over_its_targets"

LINES = (
    Line(
        "no target of a set is a negative",
        _FILE,
        "(negatives >= FIRST_TITLE) & is_other",
        "negatives >= FIRST_TITLE",
        (f"{_LOOP}[sampled_softmax]",),
    ),
    Line(
        "an absent target has no weight",
        _FILE,
        "weight = jnp.where(present, weight, 0.0)",
        "weight = weight + 0.0",
        (f"{_LOOP}[softmax]",),
    ),
)
