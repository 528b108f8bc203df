"""Lines of stable vectors, slices, mixtures and adaptation."""

from tests.broken.line import Line

_ALIGNMENT = "tests/analysis/test_alignment.py"
_STABILISE = "tests/analysis/test_stabilise.py"
_SLICES = "tests/evaluation/slices/test_slices.py"
_LOW_RANK = "tests/training/adaptation/test_low_rank.py"
_HEADROOM = "tests/benchmarks/test_headroom.py"
_MIXTURE = "tests/tasks/mixture/test_mixture_task.py"
_DISTIL = "tests/tasks/test_distillation.py"

LINES = (
    Line(
        "both maps come from the singular vectors of their own side",
        "jaxrec/analysis/derived/alignment.py",
        "return Maps(of_title * sign, _padded(r_t.T @ a[",
        "return Maps(of_title * sign, _padded(r_u.T @ a[",
        (
            f"{_ALIGNMENT}::test_the_maps_keep_every_product",
            f"{_ALIGNMENT}::test_directions_without_scores_are_left_out",
        ),
    ),
    Line(
        "singular values are shared by both sides",
        "jaxrec/analysis/derived/alignment.py",
        "scale = np.where(kept, 1.0 / np.sqrt(",
        "scale = np.where(kept, 1.0 / (",
        (
            f"{_ALIGNMENT}::test_both_sides_have_the_singular_values_of_the_scores",
            f"{_ALIGNMENT}::test_the_maps_keep_every_product",
        ),
    ),
    Line(
        "vectors are rotated to the earlier run",
        "jaxrec/analysis/derived/stabilising.py",
        "balanced.rotated(procrustes(own @ balanced.of_title_DxD, earlier))",
        "balanced.rotated(np.eye(len(balanced.of_title_DxD))[::-1])",
        (f"{_STABILISE}::test_a_run_like_itself_is_its_own_reference",),
    ),
    Line(
        "outputs are mapped with the titles",
        "jaxrec/models/next_item.py",
        "return h_BxLxD @ self.maps.of_user",
        "return h_BxLxD",
        (f"{_STABILISE}::test_scores_are_kept",),
    ),
    Line(
        "the vectors of a dot head are mapped",
        "jaxrec/models/user_encoder.py",
        "return u @ self.maps.of_user if self.config.output_maps else u",
        "return u",
        (f"{_STABILISE}::test_scores_are_kept",),
    ),
    Line(
        "flags are of p-values that are adjusted for the number of slices",
        "jaxrec/evaluation/slices/results.py",
        'scipy.stats.false_discovery_control(p, method="bh").tolist() if p else ()',
        "p",
        (f"{_SLICES}::test_flags_keep_the_false_discovery_rate",),
    ),
    Line(
        "an interval of a slice is over its users",
        "jaxrec/evaluation/slices/results.py",
        "replicates.append((counts @ filled_UxC) / (counts @ has_UxC))",
        "replicates.append((counts @ filled_UxC) / has_UxC.sum(0) + 0.1)",
        (f"{_SLICES}::test_the_interval_covers_the_mean_as_often_as_it_claims",),
    ),
    Line(
        "queries without a value count for no user",
        "jaxrec/evaluation/slices/results.py",
        "has = ~np.isnan(x)",
        "has = x == x; x = np.nan_to_num(x); has[:] = True",
        (f"{_SLICES}::test_users_without_a_list_do_not_count",),
    ),
    Line(
        "a divergence is measured from the middle of both distributions",
        "jaxrec/evaluation/slices/causes.py",
        "middle = (p + q) / 2",
        "middle = np.where(q > 0, q, 1.0)",
        (f"{_SLICES}::test_divergence_by_hand",),
    ),
    Line(
        "the gradient of a factor is that of the merged kernel times the other factor",
        "jaxrec/training/adaptation/low_rank.py",
        '"down": of_kernels[name] @ f["up"].T',
        '"down": of_kernels[name] @ of_kernels[name].T @ f["down"]',
        (f"{_LOW_RANK}::test_gradients_of_the_factors_are_those_of_the_merged_kernel",),
    ),
    Line(
        "the optimizer moves the factors alone",
        "jaxrec/training/train_step.py",
        "            params = merged(state.params, low_rank)\n",
        "            params = jax.tree.map(lambda x: x * 0.99, merged(state.params, low_rank))\n",
        (f"{_LOW_RANK}::test_a_run_changes_the_adapted_kernels_alone_by_a_product_of_low_rank",),
    ),
    Line(
        "the divergence weighs by the teacher",
        "jaxrec/tasks/ranking.py",
        "(jnp.exp(log_p) * (log_p - log_q)).sum(1)",
        "(jnp.exp(log_q) * (log_q - log_p)).sum(1)",
        (f"{_DISTIL}::test_the_divergence_is_that_of_the_softmaxes_over_the_candidates",),
    ),
    Line(
        "the teacher is no parameter",
        "jaxrec/tasks/ranking.py",
        "jax.lax.stop_gradient(teacher)",
        "teacher",
        (f"{_DISTIL}::test_the_teacher_gets_no_gradient_and_the_student_one",),
    ),
    Line(
        "members are mixed by their probabilities over all titles",
        "jaxrec/tasks/mixture/task.py",
        " - encoded.log_total_BxM[:, m, None]",
        "",
        (f"{_MIXTURE}::test_probabilities_of_all_titles_sum_to_one_in_blocks_too",),
    ),
    Line(
        "members are mixed by their probabilities over a list",
        "jaxrec/tasks/mixture/task.py",
        "self._over_candidates(scored.by_head[head] * scale_L[:, None, None], host, next_k)",
        "scored.by_head[head] * scale_L[:, None, None]",
        (f"{_MIXTURE}::test_a_uniform_mixture_is_the_mean_of_the_members_probabilities",),
    ),
    Line(
        "the penalty of a gate is chosen on other users",
        "jaxrec/analysis/derived/gates.py",
        "gate = learned(z_QxZ, log_p_QxLxM, (fold != one)",
        "gate = learned(z_QxZ, log_p_QxLxM, (fold == one)",
        (f"{_MIXTURE}::test_a_gate_without_a_pattern_stays_near_constant_weights",),
    ),
    Line(
        "the best form chooses the member of the highest probability",
        "jaxrec/analysis/derived/gates.py",
        "best = int(np.argmax(mean_QxM[x > 0].mean(0)))",
        "best = int(np.argmin(mean_QxM[x > 0].mean(0)))",
        (f"{_MIXTURE}::test_the_best_form_chooses_one_member_for_each_slice",),
    ),
    Line(
        "a gate weighs the experts for users that it was not fitted on",
        "benchmarks/headroom.py",
        "gate = fitted_gate(z_QxZ, log_p_QxLxE, user, half == fitted)",
        "gate = fitted_gate(z_QxZ, log_p_QxLxE, user, half != fitted)",
        (f"{_HEADROOM}::test_a_gate_is_fitted_on_half_of_the_users_and_weighs_the_others",),
    ),
    Line(
        "the dataset of a slice is prepared after the one that it continues",
        "jaxrec/studies/runs.py",
        'prepare, "manifest.json", log, after))',
        'prepare, "manifest.json", log))',
        (
            "tests/benchmarks/test_slices_study.py::"
            "test_the_dataset_of_a_slice_is_prepared_after_the_one_that_it_continues",
        ),
    ),
)
