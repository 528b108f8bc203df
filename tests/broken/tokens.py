"""Lines of tokens: how events merge, what a position reads, and heads on what comes next."""

from tests.broken.line import Line

_FILE = "jaxrec/data/tokens/merging.py"
_MERGING = "tests/data/tokens/test_merging.py"
_BY_HAND = f"{_MERGING}::test_events_of_a_title_merge_until_another_event_or_a_long_gap"
_INPUTS = "jaxrec/tasks/inputs/tokens.py"
_READ = "tests/tasks/test_token_inputs.py"
_GRADIENT = f"{_READ}::test_outcomes_of_later_tokens_have_no_gradient_and_their_requests_have_one[sasrec-0]"

LINES = (
    Line(
        "a play begins a token",
        _FILE,
        "        | (events.play[1:] >= 0)\n",
        "",
        (f"{_MERGING}::test_rows_hold_all_tokens_and_queries_are_those_of_plays_alone",),
    ),
    Line(
        "a gap counts from the end of a play",
        _FILE,
        "events.time[1:] - events.end[:-1]",
        "events.time[1:] - events.time[:-1]",
        (_BY_HAND,),
    ),
    Line(
        "an event at the time of a play comes after it",
        _FILE,
        "np.full(len(read), plays)",
        "np.full(len(read), -1)",
        (_BY_HAND,),
    ),
    Line(
        "the context of an event is unknown",
        _FILE,
        "categories[is_play] = log.context_categories[play[is_play]]",
        "categories[:] = log.context_categories[play]",
        (_BY_HAND,),
    ),
    Line(
        "an event at a request is not before it",
        "jaxrec/data/examples/requests.py",
        'events.records["time"] < time[user]',
        'events.records["time"] <= time[user] + 3_600_000',
        (f"{_MERGING}::test_an_event_after_a_request_is_in_no_token_before_it",),
    ),
    Line(
        "a query needs an earlier target",
        "jaxrec/data/examples/next_item.py",
        "before: np.ndarray = np.cumsum(is_target) - is_target",
        "before = np.arange(len(is_target))",
        (f"{_MERGING}::test_a_first_target_after_a_trailer_is_no_query",),
    ),
    Line(
        "a position reads the outcome of its own token",
        _INPUTS,
        "{name: x[:, :-1] for name, x in taken.items()}, {name: x[:, 1:]",
        "{name: x[:, 1:] for name, x in taken.items()}, {name: x[:, 1:]",
        (f"{_READ}::test_nan_in_all_later_outcomes_changes_nothing",),
    ),
    Line(
        "a position reads the request of the next token",
        _INPUTS,
        "x[:, :-1] for name, x in taken.items()}, {name: x[:, 1:]",
        "x[:, :-1] for name, x in taken.items()}, {name: x[:, :-1]",
        (f"{_READ}::test_the_last_position_of_a_query_reads_the_request_of_its_target",),
    ),
    Line(
        "an unknown outcome is read as 0",
        "jaxrec/models/features/tokens.py",
        "return jnp.where(jnp.isnan(x), jnp.zeros((), x.dtype), x)",
        "return x",
        (f"{_READ}::test_nan_in_all_later_outcomes_changes_nothing[sasrec-0-0.0]",),
    ),
    Line(
        "rows of padding have no next kind",
        "jaxrec/tasks/next_item_inputs.py",
        "outcome = outcome._replace(kinds=jnp.where(kept_Bx1, outcome.kinds",
        "outcome = outcome._replace(kinds=jnp.where(True, outcome.kinds",
        (f"{_READ}::test_rows_that_are_padding_teach_no_kind_and_short_windows_teach_each_once",),
    ),
    Line(
        "a delay cuts a token with a later event",
        "jaxrec/evaluation/delays/of_delay.py",
        "is_cut = np.maximum.accumulate(is_cut, axis=1)",
        "is_cut = is_cut & False",
        ("tests/evaluation/delays/test_of_delay.py::test_a_token_with_an_event_after_the_delay_is_cut",),
    ),
)
