"""Lines of policies: their values under the truth, their objectives, and the rewards of positions."""

from tests.broken.line import Line

_VALUE = "tests/evaluation/truth/test_policy_value.py"
_LOSSES = "tests/losses/test_preference.py"
_TASK = "tests/tasks/test_preference_task.py"
_ACTIONS = "tests/models/test_actions.py"
_COMPARED = "tests/tasks/test_compared_policies.py"
_SHOWN = "tests/tasks/test_shown_choices.py"
_STUDY = "tests/studies/test_policy_results.py"
_WHOLE = "tests/end_to_end/test_policy_value_runs.py"

LINES = (
    Line(
        "a policy has no probability at titles that were played",
        "jaxrec/evaluation/truth/policy_value.py",
        "logits = np.where(choice_QxV > 0, logits_QxV.astype(np.float64), -np.inf)",
        "logits = logits_QxV.astype(np.float64)",
        (f"{_VALUE}::test_values_of_a_policy_by_hand",),
    ),
    Line(
        "the frontier has the KL that it is searched at",
        "jaxrec/evaluation/truth/policy_value.py",
        "low, high = (centre, high) if middle.kl > kl else (low, centre)",
        "low, high = (centre, high) if middle.kl < kl else (low, centre)",
        (f"{_VALUE}::test_policy_value_of_the_frontier_is_concave_and_increases_with_the_kl",),
    ),
    Line(
        "the truth is of the queries that it is stored for",
        "jaxrec/evaluation/evaluator.py",
        "rows = rows[truth.rows]",
        "rows = rows[: len(truth.rows)]",
        (f"{_WHOLE}::test_policy_value_of_a_run_by_brute_force",),
    ),
    Line(
        "a weight has no gradient",
        "jaxrec/losses/preference.py",
        "weight = jax.lax.stop_gradient(weight)",
        "pass",
        (f"{_LOSSES}::test_preference_weights_have_no_gradient_and_no_nan",),
    ),
    Line(
        "an advantage is the reward less the baseline",
        "jaxrec/losses/preference.py",
        "exponent = jnp.where(x.known, x.reward - x.baseline, 0.0) / post.beta",
        "exponent = jnp.where(x.known, x.reward, 0.0) / post.beta",
        (f"{_LOSSES}::test_preference_of_two_contexts_goes_where_the_baseline_says",),
    ),
    Line(
        "the softmax of a policy leaves out played titles in its gradient",
        "jaxrec/losses/full_softmax.py",
        "candidates)\n        probability = jnp.exp(logits - log_normalizer[:, None])",
        "candidates)\n        logits = _logits(h, titles, temperature, None, candidates)\n"
        "        probability = jnp.exp(logits - log_normalizer[:, None])",
        (f"{_LOSSES}::test_the_softmax_of_a_policy_leaves_out_played_titles",),
    ),
    Line(
        "a sum of weights below 1 divides the gradient",
        "jaxrec/tasks/preference/task.py",
        "return jnp.where(count > 0, count, jnp.ones_like(count))",
        "return jnp.maximum(count, 1)",
        (f"{_TASK}::test_a_sum_of_weights_below_1_divides_the_gradient",),
    ),
    Line(
        "the rewards before a target are those of earlier plays",
        "jaxrec/tasks/preference/inputs.py",
        "return jnp.take_along_axis(jnp.cumsum(x_BxP, axis=1), index[:, :-1], axis=1)",
        "return jnp.take_along_axis(jnp.cumsum(x_BxP, axis=1), index[:, 1:], axis=1)",
        (
            f"{_TASK}::test_rewards_of_positions_are_those_of_the_next_title",
            f"{_TASK}::test_a_preference_value_does_not_read_the_choice",
        ),
    ),
    Line(
        "values and reward models are shallow",
        "jaxrec/tasks/preference/task.py",
        "return x if self.config.post.reward_gradient else jax.lax.stop_gradient(x)",
        "return x",
        (f"{_TASK}::test_values_and_reward_models_train_the_encoder_only_if_they_are_told_to",),
    ),
    Line(
        "the reference is that of the start in every step",
        "jaxrec/training/train_step.py",
        "state.reference, state.anchored, self._old(state, params),",
        "self._old(state, params), state.anchored, self._old(state, params),",
        (f"{_COMPARED}::test_the_old_policy_is_refreshed_and_the_reference_is_that_of_the_start",),
    ),
    Line(
        "the old policy is refreshed after so many steps",
        "jaxrec/training/train_step.py",
        "is_due = (state.step + 1) % refresh == 0",
        "is_due = (state.step + 1) % refresh == 1",
        (f"{_COMPARED}::test_the_old_policy_is_refreshed_and_the_reference_is_that_of_the_start",),
    ),
    Line(
        "a ratio is clipped where it would gain more",
        "jaxrec/losses/preference.py",
        "loss = -jnp.minimum(gain, bounded).mean(-1) + post.kappa * x.kl",
        "loss = -bounded.mean(-1) + post.kappa * x.kl",
        (f"{_LOSSES}::test_ppo_by_hand",),
    ),
    Line(
        "an advantage of a group is over its standard deviation",
        "jaxrec/losses/preference.py",
        "deviation = jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True))",
        "deviation = jnp.square(centred).mean(-1, keepdims=True)",
        (f"{_LOSSES}::test_advantages_of_values_and_of_groups_by_hand",),
    ),
    Line(
        "the rewards of draws are those of the reference",
        "jaxrec/tasks/preference/task.py",
        'of_reference: Any = {"params": context.reference.params}',
        'of_reference: Any = {"params": params}',
        (f"{_COMPARED}::test_the_loss_of_draws_by_brute_force",),
    ),
    Line(
        "a margin is relative to the reference",
        "jaxrec/tasks/preference/compared.py",
        "ratio_BxLx2 = (policy.logits(ids_BxLx2) - reference.logits(ids_BxLx2)) / temperature",
        "ratio_BxLx2 = policy.logits(ids_BxLx2) / temperature",
        (f"{_COMPARED}::test_the_loss_of_pairs_by_brute_force",),
    ),
    Line(
        "a draw chooses a block by its whole probability",
        "jaxrec/models/generative/actions.py",
        "block_PxB = jax.nn.logsumexp(title_PxBxS, axis=-1)",
        "block_PxB = title_PxBxS.max(axis=-1)",
        (f"{_ACTIONS}::test_draws_have_the_probabilities_of_the_policy_and_are_functions_of_their_keys",),
    ),
    Line(
        "a pair is kept where its bounds are apart",
        "jaxrec/analysis/rewritten/preference_pairs.py",
        "is_kept = low.max(-1) > high.min(-1)",
        "is_kept = mean.max(-1) > mean.min(-1)",
        (f"{_WHOLE}::test_the_best_pair_of_draws_by_hand",),
    ),
    Line(
        "the best row is that of the validation queries",
        "jaxrec/studies/policies/curves.py",
        "means = [np.mean([point.validation for point in points[row].values()]) for row in rows]",
        "means = [np.mean([point.value for point in points[row].values()]) for row in rows]",
        (f"{_STUDY}::test_the_best_row_is_chosen_on_validation_and_compared_at_equal_kl",),
    ),
    Line(
        "methods are compared at the KL of the one that goes less far",
        "jaxrec/studies/policies/premises.py",
        "kl = min(points[better[0]][seed].kl, points[worse[0]][seed].kl)",
        "kl = max(points[better[0]][seed].kl, points[worse[0]][seed].kl)",
        (f"{_STUDY}::test_methods_are_compared_at_their_best_rows_and_at_equal_kl",),
    ),
    Line(
        "the chosen title of a slate has its reward as weight",
        "jaxrec/losses/preference.py",
        "weight = jnp.where(is_chosen, jax.lax.stop_gradient(x.reward)[..., None], 1.0)",
        "weight = jnp.ones(x.log_odds.shape)",
        (
            f"{_LOSSES}::test_binary_classification_of_what_was_shown_by_hand",
            f"{_LOSSES}::test_a_shown_title_goes_to_the_odds_of_its_choice_times_its_mean_reward",
        ),
    ),
    Line(
        "a title that was played before is no shown choice",
        "jaxrec/tasks/preference/inputs.py",
        "has_target_BxL[..., None] & ~was_played",
        "has_target_BxL[..., None]",
        (f"{_SHOWN}::test_a_position_has_what_was_shown_with_its_next_title_and_not_played_before",),
    ),
    Line(
        "the offset of a state is in the log-odds of what was shown",
        "jaxrec/tasks/preference/task.py",
        "Slates(log_pi + offset_BxL[..., None], ids > 0,",
        "Slates(log_pi, ids > 0,",
        (f"{_SHOWN}::test_the_loss_of_what_was_shown_by_brute_force",),
    ),
    Line(
        "a chosen title is not among those that were shown with it",
        "jaxrec/data/examples/next_item.py",
        "served_pool(shown, log, states, event, log.rank[event][:, None], key, width)",
        "served_pool(shown, log, states, event, log.rank[event][:, None] - 1, key, width)",
        (
            "tests/data/examples/test_shown_sequences.py::"
            "test_each_play_of_a_training_row_has_titles_of_its_slate",
        ),
    ),
    Line(
        "a run of pairs waits for its pairs",
        "jaxrec/studies/runs.py",
        "after = pairs_job(run).name if run.pairs_of else after",
        "pass",
        (f"{_STUDY}::test_pairs_are_drawn_once_after_the_run_that_draws_them",),
    ),
)
