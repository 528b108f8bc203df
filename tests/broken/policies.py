"""Lines of policies: their values under the truth, their objectives, and the rewards of positions."""

from tests.broken.line import Line

_VALUE = "tests/evaluation/truth/test_policy_value.py"
_LOSSES = "tests/losses/test_preference.py"
_TASK = "tests/tasks/test_preference_task.py"
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
        "if self.config.post.reward_gradient else jax.lax.stop_gradient",
        "if True else jax.lax.stop_gradient",
        (f"{_TASK}::test_values_and_reward_models_train_the_encoder_only_if_they_are_told_to",),
    ),
)
