"""Lines of codes: balance, new titles, the trie, probabilities under the trie, beams."""

from tests.broken.line import Line

_KMEANS = "tests/codes/test_balanced_kmeans.py"
_CODES = "tests/codes/test_residual_codes.py"
_TRIE = "tests/codes/test_title_trie.py"
_MODEL = "tests/models/test_generator.py"
_SESSIONS = "tests/models/test_title_sessions.py"
_TARGETS = "tests/tasks/test_session_targets.py"
_TASK = "tests/tasks/test_generative_task.py"
_ROUNDS = "tests/end_to_end/test_alignment_rounds.py"

LINES = (
    Line(
        "who loses most by the second choice goes first",
        "jaxrec/codes/balanced_kmeans.py",
        "order = np.lexsort((rows, -regret, cheapest))",
        "order = np.lexsort((rows, regret, cheapest))",
        (f"{_KMEANS}::test_who_loses_most_by_the_second_choice_goes_first",),
    ),
    Line(
        "clusters have floor(n / K) titles before any has one more",
        "jaxrec/codes/balanced_kmeans.py",
        "cluster = assign_by_regret(cost, np.full(K, n // K))",
        "cluster = assign_by_regret(cost, np.full(K, -(-n // K)))",
        (f"{_KMEANS}::test_clusters_are_balanced_and_deterministic",),
    ),
    Line(
        "a level codes what the levels before leave",
        "jaxrec/codes/residual_codes.py",
        "residual = residual - clusters.centroids[clusters.cluster]",
        "pass",
        (f"{_CODES}::test_levels_code_what_the_levels_before_leave",),
    ),
    Line(
        "a node is open if a leaf below it is allowed",
        "jaxrec/codes/trie.py",
        "before[..., level.leaf[1:]] - before[..., level.leaf[:-1]]",
        "1 + before[..., level.leaf[1:]] - before[..., level.leaf[:-1]]",
        (f"{_TRIE}::test_a_sub_trie_holds_the_allowed_titles_alone",),
    ),
    Line(
        "logits are masked to the children before the softmax",
        "jaxrec/models/generative/trie_steps.py",
        "log_pi = jax.nn.log_softmax(jnp.where(among.valid, at_slots, NEVER), axis=-1)",
        "log_pi = jax.nn.log_softmax(at_slots, axis=-1)",
        (f"{_MODEL}::test_the_probabilities_of_all_titles_sum_to_1_and_are_those_of_their_codes",),
    ),
    Line(
        "a beam has the cache of its parent",
        "jaxrec/models/generative/beam_search.py",
        "caches = _of_parents(decoded.caches, kept // slots)",
        "caches = _of_parents(decoded.caches, kept % len(kept[0]) * 0)",
        (f"{_MODEL}::test_beams_that_hold_all_prefixes_are_the_exhaustive_search",),
    ),
    Line(
        "the decoder attends to plays up to the position of the state",
        "jaxrec/models/generative/generator.py",
        "mask_BxNxL = mask_BxNxL & (jnp.arange(h_BxLxD.shape[1]) <= position_BxP[..., None])",
        "pass",
        (f"{_MODEL}::test_a_title_depends_on_the_plays_up_to_its_position_alone",),
    ),
    Line(
        "a title of a session is closed for the rest of it",
        "jaxrec/models/generative/trie_steps.py",
        "left = left - (child[..., None] == earlier[..., None, :]).sum(-1)",
        "pass",
        (f"{_SESSIONS}::test_the_probabilities_of_all_sessions_of_different_titles_sum_to_1",),
    ),
    Line(
        "the sessions of the upper half are trained",
        "jaxrec/tasks/generative/task.py",
        "is_kept = is_session & (following.mean >= least)",
        "is_kept = is_session",
        (f"{_TARGETS}::test_the_sessions_of_the_upper_half_are_trained",),
    ),
    Line(
        "positions with a pair are trained first",
        "jaxrec/tasks/generative/places.py",
        "uniform_BxL = jnp.where(first_BxL, uniform_BxL - 1.0, uniform_BxL)",
        "pass",
        (f"{_TASK}::test_the_first_loss_of_pairs_is_that_of_equal_log_ratios",),
    ),
    Line(
        "a generative model is compared with that of the start",
        "jaxrec/tasks/generative/pairs.py",
        "ratio = own - jax.lax.stop_gradient(log_pi(reference.params, reference.projections))",
        "ratio = own",
        (f"{_TASK}::test_the_first_loss_of_pairs_is_that_of_equal_log_ratios",),
    ),
    Line(
        "beams at a position leave out the titles that were played before",
        "jaxrec/models/generative/generator.py",
        "up_to, without(played_BxP), width)",
        "up_to, without(0 * played_BxP), width)",
        (f"{_ROUNDS}::test_the_pairs_among_all_titles_are_those_of_any_policy",),
    ),
    Line(
        "a run waits for its codes",
        "jaxrec/studies/runs.py",
        "after = codes_job(run).name if run.config.codes.path and not after else after",
        "pass",
        ("tests/studies/test_rounds.py::test_codes_are_written_once_before_the_run_that_reads_them",),
    ),
    Line(
        "the reward models of a row prefer in all rounds",
        "jaxrec/studies/plan.py",
        "_workdir(folder, rewards or variant.after, seed)",
        "_workdir(folder, variant.after, seed)",
        (
            "tests/studies/test_rounds.py::test_rounds_start_from_one_another_and_share_codes_and_reward_models",
        ),
    ),
    Line(
        "no beam is of a title that a filter removes",
        "jaxrec/serving/catalogue.py",
        ".at[:, catalogue.id_V].max(kept_BxV)",
        ".at[:, catalogue.id_V].max(True)",
        ("tests/end_to_end/test_generative_runs.py::test_filters_make_a_sub_trie_so_that_every_beam_counts",),
    ),
    Line(
        "an exported model searches the trie of its titles",
        "jaxrec/serving/programs/catalogue_inputs.py",
        "    if table.trie is not None:\n",
        "    if False:\n",
        ("tests/end_to_end/test_generative_runs.py::test_an_export_searches_the_same_beams",),
    ),
    Line(
        "the score of a title does not depend on the beams",
        "jaxrec/serving/catalogue.py",
        "if table.trie is None:",
        "if True:",
        ("tests/end_to_end/test_generative_runs.py::test_an_export_searches_the_same_beams",),
    ),
    Line(
        "the id of a prefix holds all its tokens",
        "jaxrec/data/loading/title_codes.py",
        "number = number * codes.size + tokens[:, level]",
        "number = tokens[:, level]",
        ("tests/data/loading/test_title_codes.py::test_the_ids_of_prefixes_by_hand",),
    ),
    Line(
        "titles that have a code keep it",
        "jaxrec/analysis/tokenising.py",
        "tokens[is_new] = code_new_titles(vectors[is_new], earlier.codes)",
        "tokens = code_new_titles(vectors, earlier.codes)",
        ("tests/end_to_end/test_coded_titles.py::test_new_titles_are_coded_by_clusters_that_are_not_full",),
    ),
    Line(
        "no pair has a title that does not exist",
        "jaxrec/analysis/rewritten/preference_pairs.py",
        "high = jnp.where(title > 0, mean + half, jnp.inf)",
        "high = mean + half",
        ("tests/end_to_end/test_policy_value_runs.py::test_the_best_pair_of_draws_by_hand",),
    ),
    Line(
        "trained positions have a next title",
        "jaxrec/tasks/generative/places.py",
        "order_BxL = jnp.where(target_BxL > 0, uniform_BxL, 2.0)",
        "order_BxL = uniform_BxL",
        (f"{_TASK}::test_drawn_places_are_different_positions_with_a_next_title",),
    ),
)
