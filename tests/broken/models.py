"""Lines of models, losses and draws."""

from tests.broken.line import Line

LINES = (
    Line(
        "one request is no padded tile of cross layers",
        "jaxrec/models/features/cross.py",
        "if users >= B:",
        "if B < 0:",
        ("tests/models/test_title_projections.py::test_one_request_costs_no_tile[cross]",),
    ),
    # ------------------------------------------------------------ masks
    Line(
        "a title attends to itself and to older titles only",
        "jaxrec/models/encoders/base.py",
        "return same_RxLxL & jnp.tri(example_RxL.shape[1], dtype=bool)",
        "return same_RxLxL",
        ("tests/models/test_next_item_model.py::test_a_position_depends_on_earlier_positions_only",),
    ),
    Line(
        "histories that share a row do not attend to one another",
        "jaxrec/models/mixture.py",
        "mask_RxLxL = owner_RxL[:, :, None] == owner_RxL[:, None, :]",
        "mask_RxLxL = owner_RxL[:, :, None] == owner_RxL[:, :, None]",
        ("tests/models/test_mixture.py::test_an_expert_keeps_the_histories_of_a_row_apart",),
    ),
    Line(
        "a masked score has no weight",
        "jaxrec/models/layers/attention.py",
        "return weighted_sum(jnp.where(mask_RxLxM[:, None], s_RxHxLxM, _MASKED_SCORE), v_RxMxHxd)",
        "return weighted_sum(s_RxHxLxM, v_RxMxHxd)",
        ("tests/models/layers/test_attention.py::test_implementations_equal_einsum_and_a_loop",),
    ),
    Line(
        "attention's scale",
        "jaxrec/models/layers/attention.py",
        "s_RxHxLxM = scores(q_RxLxHxd * q_RxLxHxd.shape[-1] ** -0.5, k_RxMxHxd)",
        "s_RxHxLxM = scores(q_RxLxHxd * q_RxLxHxd.shape[-1] ** -1.0, k_RxMxHxd)",
        ("tests/models/layers/test_attention.py::test_implementations_equal_einsum_and_a_loop",),
    ),
    Line(
        "no title of a sequence attends to padding",
        "jaxrec/models/encoders/base.py",
        "return jnp.where(self.present_BxL, jnp.arange(rows)[:, None], rows)",
        "return jnp.broadcast_to(jnp.arange(rows)[:, None], self.present_BxL.shape)",
        (
            "tests/models/encoders/test_position_encoders.py::test_the_content_of_padding_changes_no_output_bit_for_bit",
            "tests/models/encoders/test_position_encoders.py::test_the_amount_of_padding_changes_no_output",
        ),
    ),
    Line(
        "an empty history has a vector of its own",
        "jaxrec/models/layers/pooling.py",
        "return jnp.where(has_title_B[:, None], pooled_BxD, broadcast(empty_D, pooled_BxD.shape))",
        "return pooled_BxD",
        ("tests/models/test_mixture.py::test_pooling_by_hand",),
    ),
    Line(
        "a candidate attends to itself and to no other candidate",
        "jaxrec/models/encoders/base.py",
        "itself_BxCxC = jnp.broadcast_to(jnp.eye(C, dtype=bool), (B, C, C))",
        "itself_BxCxC = jnp.ones((B, C, C), bool)",
        ("tests/models/test_cached_scoring.py::test_no_candidate_moves_another_and_none_the_history",),
    ),
    # ------------------------------------------------------------ losses
    Line(
        "the hinge's margin",
        "jaxrec/losses/ranking.py",
        "jnp.maximum(margin - gap, 0.0)",
        "jnp.maximum(-gap, 0.0)",
        ("tests/losses/test_ranking_losses.py::test_eq_12_hinge",),
    ),
    Line(
        "the BCE is a mean over 1 + N terms",
        "jaxrec/losses/ranking.py",
        "terms = 1 + c.negative.sum(-1, keepdims=True)",
        "terms = c.negative.sum(-1, keepdims=True)",
        ("tests/losses/test_ranking_losses.py::test_eq_14_cross_entropy_with_soft_negatives",),
    ),
    Line(
        "soft labels are for hard negatives",
        "jaxrec/losses/ranking.py",
        '{"hard": hard, "all"',
        '{"hard": ~hard, "all"',
        ("tests/losses/test_ranking_losses.py::test_eq_14_cross_entropy_with_soft_negatives",),
    ),
    Line(
        "labels of the next K titles weight the ranking loss",
        "jaxrec/losses/ranking.py",
        "inputs.weight * inputs.label, inputs.candidates, config.margin",
        "inputs.weight, inputs.candidates, config.margin",
        ("tests/losses/test_ranking_losses.py::test_next_k_labels_and_weights",),
    ),
    Line(
        "engagement is compared with the threshold",
        "jaxrec/losses/ranking.py",
        "return jnp.maximum(1.0 + alpha * (completion - threshold), 0.0)",
        "return jnp.maximum(1.0 + alpha * completion, 0.0)",
        ("tests/losses/test_ranking_losses.py::test_eq_13_weight",),
    ),
    Line(
        "the entropy's target",
        "jaxrec/losses/ranking.py",
        "jnp.square(entropy(clean_gate) - target_entropy)",
        "jnp.square(entropy(clean_gate))",
        (
            "tests/losses/test_ranking_losses.py::test_gates_per_candidate_are_averaged_over_present_candidates",
        ),
    ),
    Line(
        "padding of a batch has no loss",
        "jaxrec/losses/ranking.py",
        "sums = {name: (jnp.where(batch.valid, value, 0.0).sum(), count) for name, value in metrics.items()}",
        "sums = {name: (value.sum(), count) for name, value in metrics.items()}",
        ("tests/losses/test_ranking_losses.py::test_sums_exclude_padding_and_give_gate_statistics",),
    ),
    Line(
        "the correction by log Q",
        "jaxrec/losses/sampled_losses.py",
        "positive, negative = positive - log_q[target], negative - log_q[negatives]",
        "positive, negative = positive - log_q[target], negative",
        ("tests/losses/test_next_item_losses.py::test_sampled_losses_equal_their_definitions",),
    ),
    Line(
        "a negative that is the place's target is left out",
        "jaxrec/losses/sampled_losses.py",
        "return term(positive, negative, (negatives >= FIRST_TITLE) & (negatives != target[..., None]))",
        "return term(positive, negative, negatives >= FIRST_TITLE)",
        ("tests/losses/test_next_item_losses.py::test_sampled_losses_equal_their_definitions",),
    ),
    Line(
        "gBCE's beta",
        "jaxrec/losses/sampled_losses.py",
        "return 1 - calibration * (1 - alpha)",
        "return 1 - calibration * alpha",
        ("tests/losses/test_next_item_losses.py::test_sampled_losses_equal_their_definitions",),
    ),
    Line(
        "the log of a title's share of the batch",
        "jaxrec/tasks/negative_sampling.py",
        '.at[ids].add(1, mode="drop")',
        '.at[ids].set(1, mode="drop")',
        ("tests/tasks/test_negative_sampling.py::test_log_q_is_the_log_of_the_law",),
    ),
    Line(
        "a sequence's loss is divided by positions, not by weights",
        "jaxrec/tasks/next_item.py",
        "total, count = jnp.zeros((), jnp.float32), (windows.target > 0).sum()",
        "total, count = jnp.zeros((), jnp.float32), windows.outcome.completion.sum()",
        ("tests/tasks/test_next_item_task.py::test_a_personalised_loss_weights_positions_by_eq_13",),
    ),
    # ------------------------------------------------------------ draws
    Line(
        "a draw's key has the step in it",
        "jaxrec/models/layers/rng.py",
        "np.uint32(seed >> 32 & 0xFFFFFFFF), step, row)",
        "np.uint32(seed >> 32 & 0xFFFFFFFF), row)",
        ("tests/models/layers/test_rng.py::test_row_keys_differ",),
    ),
    Line(
        "dropout scales up the elements it keeps",
        "jaxrec/models/layers/rng.py",
        "return jnp.where(keep, x * jnp.asarray(1.0 / keep_probability, x.dtype), jnp.zeros((), x.dtype))",
        "return jnp.where(keep, x, jnp.zeros((), x.dtype))",
        ("tests/models/layers/test_rng.py::test_dropout_has_its_rate_and_scale",),
    ),
    # ------------------------------------------------------------ sharded tables
    Line(
        "gradients of sharded rows are added once",
        "jaxrec/runtime/mesh.py",
        "return merge_sharded(sharded, jax.lax.psum(replicated, AXIS))",
        "return jax.lax.psum(tree, AXIS)",
        (
            "tests/end_to_end/test_exactness.py::"
            "test_first_gradients_agree_with_unequal_counts_and_either_mapping",
        ),
    ),
    Line(
        "consecutive ids are stored on different devices",
        "jaxrec/models/layers/sharded_embedding.py",
        "return jnp.asarray(_REVERSED)[ids % SHARD_SLOTS]",
        "return ids % SHARD_SLOTS",
        (
            "tests/models/layers/test_sharded_embedding.py::"
            "test_consecutive_ids_are_stored_on_different_devices",
        ),
    ),
    Line(
        "ids beyond the capacity of a round take another",
        "jaxrec/models/layers/sharded_embedding.py",
        "rounds = (jax.lax.pmax(longest, axis) + capacity - 1) // capacity",
        "rounds = jnp.minimum((jax.lax.pmax(longest, axis) + capacity - 1) // capacity, 1)",
        ("tests/models/layers/test_sharded_embedding.py::test_ids_beyond_the_capacity_take_more_rounds",),
    ),
    Line(
        "a gradient of a table of numbers on a GPU has no columns",
        "jaxrec/models/layers/dense.py",
        "_scatter_sum if x.ndim > 1 else _bucket_sum",
        "_bucket_sum if x.ndim > 1 else _scatter_sum",
        ("tests/models/test_gpu_branches.py::test_gpu_branch_of_every_encoder",),
    ),
    Line(
        "a gradient goes to the bucket of its id",
        "jaxrec/models/layers/dense.py",
        "jnp.where(ids_N == jnp.arange(rows)[:, None], g_N, 0)",
        "jnp.where(ids_N <= jnp.arange(rows)[:, None], g_N, 0)",
        ("tests/models/test_gpu_branches.py::test_gpu_branch_of_the_lookup",),
    ),
    Line(
        "a head's own expert has the last weight of its gate",
        "jaxrec/models/trunks.py",
        "shared + own[k : k + 1]) for k, gate",
        "own[k : k + 1] + shared) for k, gate",
        ("tests/models/test_trunks.py::test_values_and_gradients_are_the_naive_forms",),
    ),
    Line(
        "a cross layer multiplies by the first input",
        "jaxrec/models/features/cross.py",
        "xl_BxCxD = x0_BxCxD * (linear + broadcast(bias, linear.shape)) + xl_BxCxD",
        "xl_BxCxD = xl_BxCxD * (linear + broadcast(bias, linear.shape)) + xl_BxCxD",
        ("tests/models/test_cross.py::test_values_and_gradients_are_those_of_the_loop",),
    ),
    Line(
        "a context that is not known has no text",
        "jaxrec/models/features/text.py",
        "ids = jnp.where(ids > UNKNOWN, ids, PAD)",
        "ids = jnp.where(ids > PAD, ids, PAD)",
        ("tests/models/test_text_features.py::test_a_text_is_the_mean_of_its_ngrams_and_presence",),
    ),
    Line(
        "the query of the last play is not that of a request",
        "jaxrec/serving/requests.py",
        'names = {f.name for f in self._layout.of("context")} - self._own',
        'names = {f.name for f in self._layout.of("context")}',
        (
            "tests/data/runners/test_text_preparation.py::"
            "test_requests_have_their_own_query_and_not_that_of_the_last_play",
        ),
    ),
    Line(
        "a request takes the rule of its missing contexts",
        "jaxrec/serving/requests.py",
        "stored = self._contexts.imputed(at_request.categories, ~at_request.has_category)",
        "stored = at_request.categories",
        ("tests/data/runners/test_context_titles.py::test_requests_have_the_values_of_rows",),
    ),
    Line(
        "a missing query is the name of the source",
        "jaxrec/data/columns/context_values.py",
        "text[without] = self.name_ids[out[without, title]]",
        "pass",
        (
            "tests/data/runners/test_context_titles.py::test_rows_hold_title_ids_and_values_for_missing_contexts",
        ),
    ),
    Line(
        "a context without a title has a vector of its own",
        "jaxrec/models/features/source_title.py",
        "is_present = (id_B > PAD)[:, None]",
        "is_present = (id_B >= PAD)[:, None]",
        ("tests/models/test_source_titles.py::test_a_source_is_its_projected_vector_and_none_is_learned",),
    ),
    Line(
        "cached projections hold those of sources",
        "jaxrec/models/ranker.py",
        "kernels |= self.sources.kernels if self.sources is not None else {}",
        "pass",
        ("tests/models/test_source_titles.py::test_scores_read_the_source_and_cached_projections_hold_it",),
    ),
    Line(
        "titles that match a query are unseen",
        "jaxrec/data/text/named_titles.py",
        "is_new = ~_has_seen(universe, user[query], rank)",
        "is_new = np.ones(len(rank), bool)",
        ("tests/data/text/test_named_titles.py::test_matches_are_those_of_a_loop",),
    ),
    Line(
        "titles that match take the places of drawn ones",
        "jaxrec/tasks/inputs/pool_negatives.py",
        "last = jnp.where(matching != PAD, matching, negative[:, kept:])",
        "last = matching",
        (
            "tests/tasks/test_matching_negatives.py::test_matching_titles_come_first_and_the_pools_fill_the_rest",
        ),
    ),
    Line(
        "an n-gram lies in one word",
        "jaxrec/data/text/ngrams.py",
        "inside = inside & is_word[:, n - 1 : n - 1 + starts]",
        "inside = inside | is_word[:, n - 1 : n - 1 + starts]",
        ("tests/data/text/test_ngrams.py::test_texts_together_have_the_ids_of_each",),
    ),
)
