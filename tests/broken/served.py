"""Lines of served titles: what was shown at a request, as negatives and as a list."""

from tests.broken.line import Line

_POOL = "tests/data/examples/test_served_pool.py"
_PREPARED = "tests/data/runners/test_served_preparation.py"
_NEGATIVES = "tests/tasks/test_served_negatives.py"
_LIST = "tests/evaluation/test_served_list.py"
_SEARCH = "tests/service/test_search.py"
_RETRIEVE = "tests/end_to_end/test_retrieve.py"

LINES = (
    Line(
        "a name that begins with the query is above a later word",
        "jaxrec/data/text/name_matches.py",
        "out[np.char.startswith(self.name_V, text)] = NAME",
        "pass",
        ("tests/data/text/test_name_matches.py",),
    ),
    Line(
        "a genre that is the query is a match",
        "jaxrec/data/text/name_matches.py",
        "out[(self.genre_VxG == _index(self.genre, text)).any(axis=1)] = NAME",
        "pass",
        ("tests/data/text/test_name_matches.py",),
    ),
    Line(
        "titles of a lower level follow those of a higher one",
        "jaxrec/service/answers/search.py",
        "to = count[pending][row] + place",
        "to = place",
        (f"{_SEARCH}::test_titles_that_match_come_first_in_the_order_of_the_model",),
    ),
    Line(
        "a level is not listed twice",
        "jaxrec/service/answers/search.py",
        "exclusions = _only(left[pending] == current[pending, None])",
        "exclusions = _only(eligible_BxV[pending])",
        (f"{_SEARCH}::test_titles_that_match_come_first_in_the_order_of_the_model",),
    ),
    Line(
        "a stop does not wait for the compiler, and is no crash",
        "jaxrec/service/server.py",
        "if not service.holder.ends_within(_THREAD_SECONDS):",
        "if False:",
        ("tests/service/test_server.py::test_a_stop_while_the_model_is_compiled_is_no_crash",),
    ),
    Line(
        "a request is counted with the status of its answer",
        "jaxrec/service/metrics.py",
        """            if message["type"] == "http.response.start":
""",
        """            if message["type"] == "http.response.body":
""",
        ("tests/service/test_answers.py::test_requests_are_counted_by_route_and_status",),
    ),
    Line(
        "a query is compared with its own truth",
        "jaxrec/evaluation/truth/shown_titles.py",
        "values[at[:, None],",
        "values[0 * at[:, None],",
        ("tests/evaluation/truth/test_shown_titles.py::test_queries_are_rows_of_the_split",),
    ),
    Line(
        "impressions belong to the play after them",
        "jaxrec/data/examples/user_pools.py",
        "np.maximum(time - self.window, before + 1)",
        "time - self.window",
        (f"{_POOL}::test_impressions_belong_to_the_next_play_within_the_window",),
    ),
    Line(
        "a target is no served negative",
        "jaxrec/data/examples/user_pools.py",
        "live = ~(rank[:, None] == targets[row]).any(axis=1)",
        "live = np.ones(len(rank), bool)",
        (f"{_POOL}::test_no_target_of_the_row_is_served",),
    ),
    Line(
        "each next title has the slate of its own request",
        "jaxrec/data/examples/ranking.py",
        "_served_ids(partition, upcoming[row, k], rank[row]",
        "_served_ids(partition, upcoming[row, 0], rank[row]",
        (f"{_PREPARED}::test_each_next_title_has_the_slate_of_its_own_request",),
    ),
    Line(
        "the oracle divides by the density of the slate",
        "jaxrec/data/examples/truth_queries.py",
        "= p / shown",
        "= p",
        (f"{_PREPARED}::test_the_oracle_of_the_served_list_exceeds_probability_and_popularity",),
    ),
    Line(
        "the slate's density is without the chosen title",
        "jaxrec/sources/simulator/oracle/choices.py",
        "np.maximum(-np.expm1(high * absent) * not_chosen, TINY)",
        "np.maximum(-np.expm1(high * absent), TINY)",
        ("tests/sources/simulator/test_shown_density.py::test_the_density_is_that_of_drawn_slates",),
    ),
    Line(
        "the density of negatives has the served ones",
        "jaxrec/data/examples/sampling_density.py",
        "drawn += _weighted_counts(pool, share, titles)",
        "drawn += 0.0 * _weighted_counts(pool, share, titles)",
        (f"{_PREPARED}::test_the_density_of_negatives_counts_served_titles",),
    ),
    Line(
        "missing served negatives are padding",
        "jaxrec/tasks/inputs/pool_negatives.py",
        "jnp.where(j < present, jnp.take_along_axis(pool, column, axis=1), PAD)",
        "jnp.take_along_axis(pool, column, axis=1)",
        (f"{_NEGATIVES}::test_served_negatives_rotate_and_end_with_padding",),
    ),
    Line(
        "rows without a slate are left out where all negatives are served",
        "jaxrec/data/loading/served_rows.py",
        'block[block["pool_served"][:, 0] != PAD]',
        "block",
        (f"{_NEGATIVES}::test_served_negatives_alone_leave_rows_without_a_slate_out",),
    ),
    Line(
        "queries without a slate have no validation loss",
        "jaxrec/tasks/ranking_inputs.py",
        "valid & (negative[:, 0] != PAD)",
        "valid",
        (f"{_NEGATIVES}::test_the_validation_loss_is_that_of_the_served_list",),
    ),
    Line(
        "padding of a served list does not compete",
        "jaxrec/evaluation/results.py",
        "metrics.rank(scores[:, :next_k], shown)[present]",
        "metrics.rank(scores[:, :next_k])[present]",
        (f"{_LIST}::test_padding_does_not_compete_and_queries_without_a_list_do_not_count",),
    ),
    Line(
        "a query without a slate is no query of the served list",
        "jaxrec/evaluation/baselines.py",
        'return has_target & (rows[f"list_{name}"][:, :, 0] > 0) if name == SERVED else has_target',
        "return has_target",
        (f"{_LIST}::test_padding_does_not_compete_and_queries_without_a_list_do_not_count",),
    ),
    Line(
        "impressions of titles outside the catalogue are no negatives",
        "jaxrec/data/examples/user_pools.py",
        'shown = shown[rank_of_row[shown["title"]] >= 0]',
        "shown = shown[:]",
        ("tests/data/examples/test_served_pool.py",),
    ),
    Line(
        "exposures of titles outside the catalogue are no rows",
        "jaxrec/data/examples/impressions.py",
        'records = records[labels.inputs.rank_of_row[records["title"]] >= 0]',
        "records = records[:]",
        ("tests/data/examples/test_impressions.py",),
    ),
    Line(
        "retrieved titles leave out what the user played",
        "jaxrec/analysis/rewritten/retrieved_titles.py",
        'left_out[: len(block)] = played.mask(block["user"])',
        "pass",
        (f"{_RETRIEVE}::test_training_rows_hold_the_best_titles_that_the_user_never_played",),
    ),
    Line(
        "held-out rows leave out their history and targets",
        "jaxrec/analysis/rewritten/retrieved_titles.py",
        "left_out[np.arange(len(block))[:, None], block[name]] = True",
        "pass",
        (f"{_RETRIEVE}::test_held_out_rows_list_titles_outside_their_history",),
    ),
    Line(
        "retrieved titles are drawn, not the first ones",
        "jaxrec/analysis/rewritten/retrieved_titles.py",
        "drawn = shuffle_hard(ids, (ids > 0).sum(axis=1), key, np.asarray(salt))[:, : self._drawn]",
        "drawn = ids[:, : self._drawn]",
        (f"{_RETRIEVE}::test_training_rows_hold_the_best_titles_that_the_user_never_played",),
    ),
    Line(
        "a next title that is not retrieved has no retrieved titles beside it",
        "jaxrec/analysis/rewritten/retrieved_titles.py",
        "np.where(is_retrieved[..., None], drawn[:, None], 0)",
        "drawn[:, None]",
        (f"{_RETRIEVE}::test_training_rows_hold_the_best_titles_that_the_user_never_played",),
    ),
    Line(
        "a mix takes no more served titles than rows hold",
        "jaxrec/tasks/ranking_scorer.py",
        "if self.reads_served and columns < needed:",
        "if False:",
        (f"{_RETRIEVE}::test_a_run_goes_on_with_retrieved_titles",),
    ),
)
