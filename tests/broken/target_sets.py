"""Lines of the model of long histories: sets of targets, windows, block-local attention, delays."""

from tests.broken.line import Line

_FILE = "jaxrec/losses/target_sets.py"
_PLAYS = "jaxrec/tasks/inputs/later_plays.py"
_OF_PLAYS = "tests/tasks/test_later_plays.py"
_BLOCKS = "jaxrec/models/encoders/block_local.py"
_OF_BLOCKS = "tests/models/encoders/test_block_local.py"
_DELAYS = "jaxrec/evaluation/delays/of_delay.py"
_OF_DELAYS = "tests/evaluation/delays/test_of_delay.py"
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
        "a title that is played again counts once",
        _PLAYS,
        "is_first = is_play & ~is_repeat",
        "is_first = is_play",
        (f"{_OF_PLAYS}::test_weights_fall_with_time_and_repeats_count_once",),
    ),
    Line(
        "a play that is not selected is no target",
        _PLAYS,
        'is_target &= rows["selected"] > 0',
        'is_target &= rows["selected"] >= 0',
        (f"{_OF_PLAYS}::test_the_next_plays_of_positions_computed_by_hand",),
    ),
    Line(
        "targets end with the horizon",
        _PLAYS,
        "(plays.hours <= objective.horizon_hours)",
        "(plays.hours >= 0)",
        (f"{_OF_PLAYS}::test_weights_fall_with_time_and_repeats_count_once",),
    ),
    Line(
        "a mixed window is the latest with its share",
        "jaxrec/tasks/next_item_inputs.py",
        "jnp.where(rng.uniform((), key, _LATEST_DRAW) < random, back_B, 0)",
        "jnp.where(uniform_B < random, back_B, 0)",
        ("tests/tasks/test_next_item_inputs.py::test_mixed_windows_are_the_latest_with_their_share",),
    ),
    Line(
        "chunks end at the newest position",
        _BLOCKS,
        "((0, 0), (-L % span, 0), *[(0, 0)]",
        "((0, 0), (0, -L % span), *[(0, 0)]",
        (f"{_OF_BLOCKS}::test_chunks_end_at_the_newest_position[sasrec]",),
    ),
    Line(
        "a summary is of an older chunk than the one before",
        _BLOCKS,
        "jnp.arange(n) < jnp.arange(n)[:, None] - 1",
        "jnp.arange(n) < jnp.arange(n)[:, None]",
        (f"{_OF_BLOCKS}::test_attention_over_chunks_equals_a_loop_over_keys",),
    ),
    Line(
        "a position does not attend to later positions of its chunk",
        _BLOCKS,
        "present_Rxw[:, None] & jnp.tri(span, dtype=bool)",
        "present_Rxw[:, None] & jnp.ones((span, span), bool)",
        (f"{_OF_BLOCKS}::test_a_position_reads_all_earlier_positions_and_no_later_one[sasrec]",),
    ),
    Line(
        "the time of a summary is that of its newest position",
        _BLOCKS,
        "of_all_chunks(time_Rxw[:, -1], rows)",
        "of_all_chunks(time_Rxw[:, 0], rows)",
        (f"{_OF_BLOCKS}::test_times_and_distances_of_keys_are_those_of_their_positions",),
    ),
    Line(
        "a delay cuts the plays since",
        _DELAYS,
        '(rows[f"{_PREFIX}time"] > until[:, None])',
        '(rows[f"{_PREFIX}time"] > rows["target_time"][:, None])',
        (f"{_OF_DELAYS}::test_ranks_are_those_of_rows_without_the_plays_of_the_last_hours",),
    ),
    Line(
        "titles left out are those of the request with any delay",
        _DELAYS,
        '"kept" if seen == "kept" else "all")',
        '"kept")',
        (f"{_OF_DELAYS}::test_titles_left_out_are_those_of_the_request",),
    ),
    Line(
        "an absent target has no weight",
        _FILE,
        "weight = jnp.where(present, weight, 0.0)",
        "weight = weight + 0.0",
        (f"{_LOOP}[softmax]",),
    ),
)
