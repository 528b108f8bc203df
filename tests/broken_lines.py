"""Break important lines one by one and check that the default suite fails on each:

    python tests/broken_lines.py [--only N ...] [--list]

For each entry of LINES the tracked files are copied to a temporary folder, the entry's text is replaced
there, and its tests are run. Prints a table, "seen" where a test failed and "NOT SEEN" where all passed,
and exits with status 1 if a line is not seen. All entries take about ten minutes of a core.
tests/test_broken_lines.py keeps the table true: each text stands exactly once in its file.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Line(NamedTuple):
    """A text that occurs once in a file, the broken text, and the default suite's tests that must fail."""

    guards: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


LINES = (
    # ------------------------------------------------------------ service
    Line(
        "the cache keeps users apart",
        "jaxrec/service/answers/cache.py",
        "for part in (model.encode(), route.encode(), request):",
        "for part in (model.encode(), route.encode()):",
        ("tests/service/test_answers.py::test_a_repeated_request_is_answered_by_the_cache",),
    ),
    Line(
        "each request of a batch has its own filters",
        "jaxrec/service/answers/model.py",
        "group = np.arange(len(jobs), dtype=np.int32)",
        "group = np.zeros(len(jobs), np.int32)",
        ("tests/service/test_answers.py::test_answers_are_those_of_the_library_in_every_batch",),
    ),
    Line(
        "a request of a batch keeps its place",
        "jaxrec/service/answers/model.py",
        "return reordered(made, np.argsort(made.key))",
        "return reordered(made, np.argsort(-made.key))",
        ("tests/service/test_answers.py::test_answers_are_those_of_the_library_in_every_batch",),
    ),
    Line(
        "a wrong token is refused",
        "jaxrec/service/limits.py",
        "if self._options.token and not hmac",
        "if self._options.token and False and not hmac",
        ("tests/service/test_server.py::test_a_token_is_needed_where_one_is_set",),
    ),
    Line(
        "a damaged export does not replace the model",
        "jaxrec/service/reloading.py",
        "        self.error = text\n",
        "        self.error = None\n",
        ("tests/service/test_server.py::test_a_damaged_export_leaves_the_old_one",),
    ),
    # ------------------------------------------------------------ metrics and ranking
    Line(
        "a tie counts against the target",
        "jaxrec/evaluation/metrics.py",
        "ahead = ~(scores[..., 1:] < scores[..., :1])",
        "ahead = scores[..., 1:] > scores[..., :1]",
        ("tests/evaluation/test_metrics.py",),
    ),
    Line(
        "NDCG's discount",
        "jaxrec/evaluation/metrics.py",
        "1.0 / np.log2(1.0 + rank)",
        "1.0 / np.log2(2.0 + rank)",
        ("tests/evaluation/test_metrics.py",),
    ),
    Line(
        "the cutoff of a hit rate",
        "jaxrec/evaluation/metrics.py",
        "return (rank <= k).astype(np.float64)",
        "return (rank < k).astype(np.float64)",
        ("tests/evaluation/test_metrics.py",),
    ),
    Line(
        "ties and NaN over all titles count against the target",
        "jaxrec/evaluation/scorers.py",
        "rank_B = 1 + (rivals_BxV & ~(scores_BxV < target_score_Bx1)).sum(1)",
        "rank_B = 1 + (rivals_BxV & (scores_BxV > target_score_Bx1)).sum(1)",
        (
            "tests/evaluation/test_evaluator.py::test_equal_titles_count_against_the_target_and_are_shown_by_popularity",
        ),
    ),
    Line(
        "titles of the history are not ranked",
        "jaxrec/evaluation/scorers.py",
        "rivals_BxV &= jnp.ones_like(rivals_BxV).at[jnp.arange(B)[:, None], seen_BxL].set(False)",
        "rivals_BxV &= jnp.ones_like(rivals_BxV)",
        ("tests/evaluation/test_evaluator.py::test_ranks_among_all_titles_are_of_every_titles_score",),
    ),
    Line(
        "the catalogue is ranked by scores plus log q",
        "jaxrec/models/outputs.py",
        "return scaled + (self.log_q_V if id_BxN is None else jnp.asarray(self.log_q_V)[id_BxN])",
        "return scaled - (self.log_q_V if id_BxN is None else jnp.asarray(self.log_q_V)[id_BxN])",
        ("tests/evaluation/test_correction.py",),
    ),
    Line(
        "the share of a row's hard negatives that an epoch shows",
        "jaxrec/data/examples/sampling_density.py",
        "of_hard = np.where(filled, 0.0, real / np.maximum(num_hard, 1))",
        "of_hard = np.where(filled, 0.0, 1.0)",
        ("tests/data/examples/test_sampling_density.py",),
    ),
    Line(
        "a title played before the stored history is not ranked",
        "jaxrec/evaluation/scorers.py",
        "rivals_BxV &= ~_unpack_bits(",
        "rivals_BxV |= ~_unpack_bits(",
        ("tests/evaluation/test_evaluator.py::test_ranks_among_all_titles_are_of_every_titles_score",),
    ),
    Line(
        "popularity of 7 days ends before the day of the query",
        "jaxrec/evaluation/popularity.py",
        "[day - RECENT_DAYS, day])",
        "[day - RECENT_DAYS, day + 1])",
        ("tests/evaluation/test_popularity.py::test_popularity_of_7_days_by_hand",),
    ),
    Line(
        "a title first played at the time of a request is not seen",
        "jaxrec/data/examples/seen_titles.py",
        "    if strictly_earlier:\n",
        "    if False:\n",
        (
            "tests/data/examples/test_seen_titles.py::test_a_sequence_counts_a_title_that_precedes_the_query_at_the_same_time",
        ),
    ),
    Line(
        "item to item: the cosine's norm",
        "jaxrec/evaluation/baselines.py",
        "cosine /= np.sqrt(np.maximum(targets, 1))",
        "cosine /= np.maximum(targets, 1)",
        ("tests/evaluation/test_item_to_item.py",),
    ),
    Line(
        "an interval over seeds has n - 1 degrees of freedom",
        "jaxrec/evaluation/statistics.py",
        "half = float(stats.t.ppf(1 - LEVEL / 2, n - 1))",
        "half = float(stats.t.ppf(1 - LEVEL / 2, n))",
        ("tests/evaluation/test_statistics.py::test_statistics_over_a_few_seeds",),
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
        "beta=1 - calibration * (1 - alpha)",
        "beta=1 - calibration * alpha",
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
        "total, count = jnp.where(windows.target > 0, loss_BxL, 0.0).sum(), (windows.target > 0).sum()",
        "total, count = jnp.where(windows.target > 0, loss_BxL, 0.0).sum(), windows.completion.sum()",
        ("tests/tasks/test_next_item_task.py::test_a_personalised_loss_weights_positions_by_eq_13",),
    ),
    # ------------------------------------------------------------ the gate
    Line(
        "each expert has noise of its own",
        "jaxrec/models/mixture.py",
        "noise_BxE = normal((len(experts),), key_Bx2,",
        "noise_BxE = normal((1,), key_Bx2,",
        (
            "tests/models/test_mixture.py::"
            "test_eq_9_with_noise_drawn_per_expert_and_divided_by_the_temperature",
        ),
    ),
    Line(
        "the gate's temperature falls exponentially",
        "jaxrec/models/mixture.py",
        "return start * (final / start) ** progress",
        "return start + (final - start) * progress",
        ("tests/models/test_mixture.py::test_temperature_falls_exponentially_then_stays",),
    ),
    Line(
        "the gate's information about the user",
        "jaxrec/evaluation/gate_analysis.py",
        '"information": of_mean - of_each',
        '"information": of_mean',
        ("tests/evaluation/test_gate_analysis.py",),
    ),
    Line(
        "the queries of a user are one cluster of an interval",
        "jaxrec/evaluation/details/grouped_means.py",
        "residual = sums - mean[self._group_of_cell] * self._cell_sizes",
        "residual = sums - mean[self._group_of_cell]",
        ("tests/evaluation/test_details.py",),
    ),
    Line(
        "text of users is escaped in a report",
        "jaxrec/reporting/pages/elements.py",
        'return Html("" if value is None else html.escape(str(value)))',
        'return Html("" if value is None else str(value))',
        ("tests/reporting/test_pages.py::test_elements_escape_children_and_attributes",),
    ),
    Line(
        "examples of an earlier evaluation go when they are switched off",
        "jaxrec/evaluation/evaluator.py",
        'return measured | {"examples": _examples(workdir, queries, ranked, count)}',
        "return measured",
        ("tests/end_to_end/test_commands.py::test_evaluate_writes_the_report_again_without_keys_of_users",),
    ),
    Line(
        "averaged task weights start after two epochs",
        "jaxrec/losses/task_weights.py",
        "return fixed * jnp.where(epoch < 2, 1.0, relative)",
        "return fixed * relative",
        ("tests/losses/test_task_weights.py::test_averaged_weights_by_hand",),
    ),
    # ------------------------------------------------------------ the step and the optimizer
    Line(
        "gradients are of the mean over the global batch",
        "jaxrec/training/train_step.py",
        "return jax.tree.map(lambda g: g / examples.astype(g.dtype), grads), sums",
        "return grads, sums",
        (
            "tests/losses/test_task_weights.py::test_log_variances_learn_and_do_not_change_the_validation_loss",
        ),
    ),
    Line(
        "the sums of all devices are added",
        "jaxrec/runtime/mesh.py",
        "return merge_sharded(sharded, jax.lax.psum(replicated, AXIS))",
        "return merge_sharded(sharded, jax.lax.pmean(replicated, AXIS))",
        ("tests/tasks/test_next_item_task.py::test_gradients_do_not_depend_on_devices_and_microbatches",),
    ),
    Line(
        "a batch goes round robin to the devices' microbatches",
        "jaxrec/runtime/parallel_step.py",
        "jax.lax.axis_index(AXIS) * num_microbatches + microbatch",
        "jax.lax.axis_index(AXIS) + microbatch",
        ("tests/tasks/test_next_item_task.py::test_gradients_do_not_depend_on_devices_and_microbatches",),
    ),
    Line(
        "decoupled decay comes after Adam",
        "jaxrec/training/optimizer.py",
        'first = (adam, decay) if config.weight_decay_mode == "decoupled" else (decay, adam)',
        'first = (adam, decay) if config.weight_decay_mode == "coupled" else (decay, adam)',
        ("tests/training/test_optimizer.py::test_decoupled_decay_joins_the_step",),
    ),
    Line(
        "a task's log variance does not decay",
        "jaxrec/training/optimizer.py",
        'lambda path, _: str(path[-1].key) != "log_variance"',
        "lambda path, _: True",
        ("tests/losses/test_task_weights.py::test_log_variances_do_not_decay",),
    ),
    Line(
        "the plateau's patience is PyTorch's",
        "jaxrec/training/optimizer.py",
        "patience=patience + 1",
        "patience=patience",
        ("tests/training/test_optimizer.py::test_plateau_is_pytorchs",),
    ),
    Line(
        "the plateau moves on fresh values only",
        "jaxrec/training/optimizer.py",
        "jnp.where(fresh, new[0], old)",
        "new[0]",
        ("tests/training/test_optimizer.py::test_a_stale_zero_freezes_nothing",),
    ),
    Line(
        "the average's ramp",
        "jaxrec/training/optimizer.py",
        "decay = jnp.minimum(config.ema_decay, (1 + step) / (10 + step))",
        "decay = jnp.asarray(config.ema_decay)",
        ("tests/training/test_parameter_average.py::test_the_average_equals_its_recursion",),
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
    # ------------------------------------------------------------ data
    Line(
        "the last target is the test's",
        "jaxrec/data/events/splits.py",
        "out[(from_end == 0) & (count[user] > least)] = TEST",
        "out[(from_end == 0) & (count[user] > least)] = VALIDATION",
        ("tests/data/examples/test_next_item_examples.py::test_split_by_last",),
    ),
    Line(
        "a split by time begins at midnight",
        "jaxrec/data/events/splits.py",
        'np.searchsorted(edges, time, side="right")',
        'np.searchsorted(edges, time, side="left")',
        (
            "tests/data/examples/test_next_item_examples.py::test_split_by_time",
            "tests/data/examples/test_ranking_examples.py::test_a_users_targets_in_three_splits",
        ),
    ),
    Line(
        "popularity does not count held-out events",
        "jaxrec/data/events/splits.py",
        "out = time < first[user]",
        "out = time <= first[user]",
        ("tests/data/examples/test_next_item_examples.py::test_popularity_counts_the_training_events",),
    ),
    Line(
        "completion is clipped",
        "jaxrec/data/events/cleaning.py",
        "return np.clip(milliseconds / _milliseconds(runtime_minutes), 0.0, 1.0)",
        "return milliseconds / _milliseconds(runtime_minutes)",
        ("tests/data/events/test_cleaning.py",),
    ),
    Line(
        "of duplicates the one viewed longest is kept",
        "jaxrec/data/events/cleaning.py",
        "-viewed[rows], group]",
        "viewed[rows], group]",
        ("tests/data/events/test_cleaning.py",),
    ),
    Line(
        "the range of times is half open",
        "jaxrec/data/events/cleaning.py",
        "(chunk.time >= latest)",
        "(chunk.time > latest)",
        ("tests/data/events/test_cleaning.py",),
    ),
    Line(
        "a history has each title's latest play before the query",
        "jaxrec/data/events/event_log.py",
        "live = following[event] >= start[pending][query]",
        "live = following[event] > start[pending][query]",
        ("tests/data/examples/test_ranking_examples.py::test_last_plays_equal_a_loop",),
    ),
    Line(
        "a title is abandoned by its completion before the query",
        "jaxrec/data/examples/histories.py",
        'rows["history_abandoned"][at] = states.completion[event] < abandon_threshold',
        'rows["history_abandoned"][at] = states.total[event] < abandon_threshold',
        (
            "tests/data/examples/test_ranking_examples.py::"
            "test_history_is_strictly_earlier_as_of_the_query_with_each_title_once",
        ),
    ),
    Line(
        "no hard negative is one of the next targets",
        "jaxrec/data/examples/ranking.py",
        "live &= ~(log.rank[event][:, None] == targets[row]).any(axis=1)",
        "live &= True",
        ("tests/data/examples/test_ranking_examples.py::test_next_targets_are_no_hard_negatives",),
    ),
    Line(
        "negatives of a query are distinct",
        "jaxrec/data/examples/negatives.py",
        "outside = np.flatnonzero(image >= limit.take(jobs))",
        "outside = np.flatnonzero(image > limit.take(jobs))",
        ("tests/data/examples/test_negatives.py",),
    ),
    Line(
        "each next title has its own frozen list",
        "jaxrec/data/examples/ranking.py",
        "salt = 1 + l * layout.num_targets + k",
        "salt = 1 + l * layout.num_targets + 0 * k",
        (
            "tests/data/examples/test_ranking_examples.py::"
            "test_lists_follow_table_2_and_each_next_title_has_its_own",
        ),
    ),
    Line(
        "hard columns rotate over the real hard negatives",
        "jaxrec/tasks/ranking_inputs.py",
        "rotated = (epoch * counts[0] + j) % jnp.maximum(n_hard, 1)",
        "rotated = (epoch * counts[0] + j) % width",
        ("tests/tasks/test_ranking_inputs.py::test_hard_columns_rotate_over_real_hard_negatives",),
    ),
    Line(
        "abandoned titles are removed",
        "jaxrec/tasks/ranking_inputs.py",
        'kept = (titles != PAD) & (rows["history_abandoned"] == 0)',
        "kept = titles != PAD",
        ("tests/tasks/test_ranking_inputs.py::test_abandoned_titles_are_replaced_by_older_titles",),
    ),
    Line(
        "a shorter window holds the latest titles of a packed history",
        "jaxrec/data/loading/packing.py",
        "oldest = starts[0] - shard_of_example * (self.rows[0] * width) + shown_counts[0] - n",
        "oldest = starts[0] - shard_of_example * (self.rows[0] * width)",
        ("tests/data/loading/test_packing.py::test_packed_histories_equal_unpacked_ones",),
    ),
    Line(
        "the order of data depends on the epoch",
        "jaxrec/data/loading/batches.py",
        "blocks = _generator(self._seed, epoch).permutation(self._rows.blocks)",
        "blocks = _generator(self._seed).permutation(self._rows.blocks)",
        ("tests/data/loading/test_batches.py::test_the_order_of_blocks_differs_between_epochs",),
    ),
    Line(
        "evaluation keeps the tail",
        "jaxrec/data/loading/batches.py",
        "return -(-self._rows.rows // self._batch)",
        "return self._rows.rows // self._batch",
        ("tests/data/loading/test_batches.py::test_evaluation_keeps_the_tail",),
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
    # ------------------------------------------------------------ runs, checkpoints, configs
    Line(
        "the best checkpoint is kept beside the newest",
        "jaxrec/checkpoints/checkpointer.py",
        "policies.AnyPreservationPolicy([policies.LatestN(1), best])",
        "policies.AnyPreservationPolicy([policies.LatestN(1)])",
        ("tests/checkpoints/test_checkpointer.py::test_newest_and_best_steps_are_kept",),
    ),
    Line(
        "last is the newest and best the best",
        "jaxrec/checkpoints/checkpointer.py",
        'step = self.latest_step() if which == "last" else self.best_step()',
        "step = self.latest_step()",
        ("tests/checkpoints/test_checkpointer.py::test_newest_and_best_steps_are_kept",),
    ),
    Line(
        "a resumed run starts at the batch where it stopped",
        "jaxrec/training/trainer.py",
        "groups = BatchGroups(self.batches, self.steps_per_call, start)",
        "groups = BatchGroups(self.batches, self.steps_per_call)",
        ("tests/end_to_end/test_dispatch.py",),
    ),
    Line(
        "a run that was stopped before a validation is validated first",
        "jaxrec/training/trainer.py",
        "if start and self._is_validated(start) and not state.fresh:",
        "if False and start:",
        ("tests/end_to_end/test_dispatch.py",),
    ),
    Line(
        "a step in a bucket is complete once its last file has arrived",
        "jaxrec/checkpoints/bucket_mirror.py",
        'if f"{step}/{COMMIT_FILE}" in names}',
        "}",
        (
            "tests/checkpoints/test_checkpointer.py::"
            "test_step_in_a_bucket_is_complete_once_its_last_file_has_arrived",
        ),
    ),
    Line(
        "a step that was deleted locally is deleted from the bucket",
        "jaxrec/checkpoints/bucket_mirror.py",
        "remove_folder(self._remote / step, first=COMMIT_FILE)\n            self._remote_steps.discard(step)",
        "self._remote_steps.discard(step)",
        (
            "tests/checkpoints/test_checkpointer.py::"
            "test_step_in_a_bucket_is_complete_once_its_last_file_has_arrived",
            "tests/checkpoints/test_checkpointer.py::test_newest_and_best_steps_are_kept",
        ),
    ),
    Line(
        "a copy of a shard with too few blocks is replaced",
        "jaxrec/data/storage/shard_cache.py",
        "if not path.exists() or count(path) != expected:",
        "if not path.exists():",
        ("tests/data/storage/test_dataset.py::test_a_truncated_copy_is_replaced",),
    ),
    Line(
        "the digest of a dataset does not depend on its directory",
        "jaxrec/config/serialization.py",
        '_NOT_IN_DIGEST = ("directory", "workers", "partitions")',
        '_NOT_IN_DIGEST = ("workers", "partitions")',
        ("tests/config/test_validation.py::test_the_digest_is_of_what_decides_the_bytes",),
    ),
    Line(
        "the fingerprint of a dataset is computed over the names of FORMAT 2",
        "jaxrec/data/runners/manifest.py",
        'content | {"format": 2, "layout": old_layout(result.layout.to_json())}',
        "content",
        ("tests/data/storage/test_format_2.py::test_the_fingerprint_is_of_the_manifest_with_old_names",),
    ),
    Line(
        "a layout with the names of FORMAT 2 is read",
        "jaxrec/core/row_format.py",
        "{RENAMED.get(name, name): value for name, value in tree.items()}",
        "dict(tree)",
        ("tests/data/storage/test_format_2.py::test_a_layout_with_old_names_is_the_layout",),
    ),
    Line(
        "an old value of a config field is read",
        "jaxrec/config/migrations.py",
        "inner = _renamed_value(cls, name, inner)",
        "inner = inner",
        ("tests/config/test_migrations.py::test_an_old_value_is_the_value_of_today",),
    ),
    Line(
        "the width divides by the heads",
        "jaxrec/config/validation.py",
        "model.width % expert.num_heads == 0",
        "True",
        ("tests/config/test_validation.py::test_a_wrong_value_is_named_in_one_line",),
    ),
    Line(
        "a mix of negatives adds to 1",
        "jaxrec/config/validation.py",
        "require(abs(total - 1) < 1e-9,",
        "require(abs(total - 1) < 9,",
        ("tests/config/test_validation.py::test_a_wrong_value_is_named_in_one_line",),
    ),
    Line(
        "with the target in the sequence no history is shared",
        "jaxrec/tasks/ranking_scorer.py",
        "return not self.config.model.target_in_sequence",
        "return True",
        ("tests/tasks/test_target_task.py::test_a_cpu_uses_smaller_microbatches",),
    ),
    Line(
        "the context of a request is that of the users table",
        "jaxrec/serving/requests.py",
        "at_request = at_request.replaced_by(declared.context)",
        "at_request = at_request.replaced_by(at_request)",
        ("tests/data/examples/test_requests.py",),
    ),
    Line(
        "of equal scores the more popular title is recommended first",
        "jaxrec/serving/catalogue.py",
        "joined_BxK = jnp.concatenate([best[0], score_BxK], axis=1)",
        "joined_BxK = jnp.concatenate([score_BxK, best[0]], axis=1)",
        ("tests/serving/test_catalogue.py",),
    ),
    Line(
        "titles are left out in every block of the catalogue",
        "jaxrec/serving/catalogue.py",
        "column_BxM = excluded_BxM - start",
        "column_BxM = excluded_BxM",
        ("tests/serving/test_catalogue.py",),
    ),
    Line(
        "an index of other vectors is refused",
        "jaxrec/serving/index/title_index.py",
        "if manifest.get(field) != expected:",
        "if False:",
        ("tests/serving/index/test_title_index.py",),
    ),
    Line(
        "the vectors of an index are of one length",
        "jaxrec/serving/index/title_index.py",
        "np.sqrt(square.max(initial=0) - square)",
        "0 * square",
        ("tests/serving/index/test_title_index.py",),
    ),
    Line(
        "candidates of an index that are left out for a user are not recommended",
        "jaxrec/serving/index/indexed_scorer.py",
        "eligible_UxN & (excluded[place] != pair_UxN)",
        "eligible_UxN",
        ("tests/serving/index/test_indexed_scorer.py",),
    ),
    Line(
        "a diverse title is unlike all titles chosen before",
        "jaxrec/models/diversity.py",
        "similarity_BxN = xp.maximum(similarity_BxN, ",
        "similarity_BxN = xp.minimum(similarity_BxN, ",
        ("tests/models/test_diversity.py",),
    ),
    Line(
        "no kernel is exported",
        "jaxrec/models/kernels/pallas.py",
        "if _is_plain.get() or backend",
        "if backend",
        ("tests/serving/test_export.py",),
    ),
    Line(
        "an exported score has the correction of the checkpoint",
        "jaxrec/serving/export.py",
        """+ catalogue["log_q"][ids]""",
        "",
        ("tests/serving/test_export.py",),
    ),
    Line(
        "a damaged file of an export is refused",
        "jaxrec/serving/exported.py",
        """if digest != entry["sha256"]:""",
        "if not digest:",
        ("tests/serving/test_export.py::test_a_wrong_folder_is_refused",),
    ),
    Line(
        "narrow numbers of a row are taken from the lowest bits",
        "jaxrec/tasks/ranking_inputs.py",
        "parts = words[..., None] >> jnp.arange(0, 32, bits, dtype=jnp.uint32)",
        "parts = words[..., None] << jnp.arange(0, 32, bits, dtype=jnp.uint32)",
        ("tests/tasks/test_ranking_inputs.py",),
    ),
    # ------------------------------------------------------------ raw files
    Line(
        "the separator of several characters",
        "jaxrec/sources/text.py",
        "        block = block.replace(dialect.replaced, dialect.separator.encode())",
        "        pass",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "types in the header of a RecBole file",
        "jaxrec/sources/text.py",
        'return [_TYPED.sub("", name) for name in names] if',
        "return [name for name in names] if",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "nanoseconds",
        "jaxrec/sources/columns.py",
        '"ns": 1_000_000}',
        '"ns": 1_000}',
        ("tests/sources/test_text.py",),
    ),
    Line(
        "fractions of the runtime",
        "jaxrec/sources/tables.py",
        "return viewed * 60.0 * np.nan_to_num(runtime)",
        "return viewed * np.nan_to_num(runtime)",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "newer fields of tables stay out of digests at their defaults",
        "jaxrec/config/serialization.py",
        "            del source[name]",
        "            pass",
        ("tests/sources/test_text.py",),
    ),
    Line(
        "the unit of watch times by the size of completions",
        "jaxrec/sources/proposals/units.py",
        "contradicted, best = best, min(every, key=score)",
        "contradicted, best = best, best",
        ("tests/sources/test_proposals.py",),
    ),
    Line(
        "a day as a number is no time",
        "jaxrec/sources/proposals/units.py",
        "if _FIRST_SECOND * factor <= median",
        "if median",
        ("tests/sources/test_proposals.py",),
    ),
    Line(
        "outcomes of a play are no features",
        "jaxrec/sources/proposals/features.py",
        'where == "context" and normalised(column) not in CONTEXT_NAMES',
        "False",
        ("tests/sources/test_proposals.py",),
    ),
    Line(
        "copies are no invalid rows",
        "jaxrec/data/runners/statistics.py",
        "if reason != COPY)",
        "if True)",
        ("tests/data/runners/test_log_statistics.py",),
    ),
    Line(
        "pools fit small catalogues",
        "jaxrec/data/runners/settings.py",
        "        if sum(widths) <= left:",
        "        if sum(widths) < left:",
        ("tests/data/runners/test_log_statistics.py",),
    ),
    Line(
        "reasons of a written config",
        "jaxrec/config/python_text.py",
        "k == name or k.startswith(",
        "k.startswith(",
        ("tests/config/test_python_text.py",),
    ),
    Line(
        "a batch larger than the data",
        "jaxrec/training/batch_size.py",
        "fitting = max(fitting // devices, 1) * devices",
        "fitting = max(fitting // devices, 1)",
        ("tests/training/test_dry_run.py::test_a_batch_larger_than_the_data_is_adapted",),
    ),
    Line(
        "bytes of the parameter table",
        "jaxrec/training/dry_run.py",
        "int(np.prod(leaf.shape)) * leaf.dtype.itemsize",
        "int(np.prod(leaf.shape))",
        ("tests/training/test_dry_run.py::test_the_parameter_table_of_a_small_tree",),
    ),
    Line(
        "the check's hard pools at a threshold",
        "jaxrec/data/runners/statistics.py",
        "filled += int(pool.filled.sum())",
        "filled += len(chunk)",
        ("tests/data/runners/test_log_statistics.py",),
    ),
    # ------------------------------------------------------------ integrity
    Line(
        "words that mean missing are null",
        "jaxrec/sources/table.py",
        'return column if request.kind == "category" else pl.when(~is_word).then(column)',
        "return column",
        ("tests/sources/test_unusual_files.py",),
    ),
    Line(
        "values that float32 cannot hold",
        "jaxrec/sources/columns.py",
        "wrong = column.abs() > MAX_NUMBER",
        "wrong = column.abs() > 1e308",
        ("tests/sources/test_unusual_files.py",),
    ),
    Line(
        "a decimal among whole numbers is no whole number",
        "jaxrec/sources/columns.py",
        "exact = (column == column.floor()) &",
        "exact = (column == column) &",
        ("tests/sources/test_unusual_files.py",),
    ),
    Line(
        "titles' keys are compared",
        "jaxrec/tasks/loading.py",
        "differs = np.flatnonzero(keys != expected)",
        "differs = np.flatnonzero(keys != keys)",
        ("tests/evaluation/test_evaluator.py::test_a_dataset_whose_ids_mean_something_else_is_refused",),
    ),
    Line(
        "protocols are compared",
        "jaxrec/evaluation/per_user.py",
        "if seen and other_seen and seen != other_seen:",
        "if seen and other_seen and seen == 0:",
        ("tests/evaluation/test_per_user.py",),
    ),
    Line(
        "each file of a checkpoint is compared",
        "jaxrec/runtime/checksums.py",
        "if actual != expected:",
        'if actual["bytes"] != expected["bytes"]:',
        ("tests/checkpoints/test_damaged_checkpoint.py", "tests/data/storage/test_damaged_dataset.py"),
    ),
    Line(
        "an edited manifest",
        "jaxrec/data/storage/dataset.py",
        "if _CHECKSUM in manifest and sealed(manifest) != manifest:",
        "if _CHECKSUM in manifest and sealed(manifest) == {}:",
        ("tests/data/storage/test_damaged_dataset.py",),
    ),
    Line(
        "a skipped step leaves the state",
        "jaxrec/training/nonfinite.py",
        "jnp.where(is_finite, new, old), after, before)",
        "jnp.where(is_finite, new, new), after, before)",
        ("tests/training/test_nonfinite.py",),
    ),
    Line(
        "a file that grew",
        "jaxrec/data/storage/source_files.py",
        "all(before[key] == value for key, value in now.items())",
        'all(before[key] == value for key, value in now.items() if key == "file")',
        ("tests/data/storage/test_source_files.py", "tests/data/runners/test_notes.py"),
    ),
    Line(
        "a lock is exclusive",
        "jaxrec/runtime/locks.py",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("tests/runtime/test_locks.py",),
    ),
    Line(
        "plays longer than the runtime are counted",
        "jaxrec/data/events/cleaning.py",
        "drops.add_kept(LONG, int(np.count_nonzero(seen > 2.0)))",
        "drops.add_kept(LONG, 0)",
        ("tests/data/runners/test_notes.py",),
    ),
)


def copy_tracked(to: Path) -> None:
    """Copy the repository's tracked files, as they are in the working tree."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name)


def is_seen(line: Line, folder: Path, environment: dict[str, str]) -> tuple[bool, str]:
    """Break `line` in `folder`; return whether its test fails, and the last line that pytest printed."""
    path = folder / line.file
    text = path.read_text()
    if text.count(line.old) != 1:
        raise SystemExit(
            f"{line.file}: {line.old!r} stands there {text.count(line.old)} times; allowed: once"
        )
    path.write_text(text.replace(line.old, line.new))
    try:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            *line.tests,
        ]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    finally:
        path.write_text(text)
    last = done.stdout.strip().splitlines()[-1:] or done.stderr.strip().splitlines()[-1:] or [""]
    # 1: a test failed. Another status is no test at all: a wrong name, an error of collection.
    return done.returncode == 1, last[0]


def main(only: list[int]) -> int:
    chosen = [(n, line) for n, line in enumerate(LINES) if not only or n in only]
    missed = []
    with tempfile.TemporaryDirectory(prefix="jaxrec-broken-") as name:
        folder = Path(name) / "jaxrec"
        copy_tracked(folder)
        # No bytecode: a file broken and restored within a second would be taken for the one before it.
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        for n, line in chosen:
            started = time.monotonic()
            seen, last = is_seen(line, folder, environment)
            missed += [] if seen else [n]
            print(
                f"{n:3} {'seen' if seen else 'NOT SEEN':8} {time.monotonic() - started:6.1f} s  {line.file}: "
                f"{line.guards}" + ("" if seen else f"  ({last})"), flush=True,
            )  # fmt: skip
    print(f"{len(chosen) - len(missed)} of {len(chosen)} seen" + (f"; not seen: {missed}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=int, nargs="+", default=[], metavar="N", help="numbers of lines")
    parser.add_argument("--list", action="store_true", help="print the table and run nothing")
    options = parser.parse_args()
    if options.list:
        for n, line in enumerate(LINES):
            print(f"{n:3} {line.file}: {line.guards}  [{', '.join(line.tests)}]")
        sys.exit()
    sys.exit(main(options.only))
