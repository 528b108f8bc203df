"""Lines of the training step and the optimizer."""

from tests.broken.line import Line

LINES = (
    # ------------------------------------------------------------ the step and the optimizer
    Line(
        "gradients are of the mean over the global batch",
        "jaxrec/training/train_step.py",
        "return jax.tree.map(lambda g: g / examples.astype(g.dtype), gradient_sums), sums",
        "return gradient_sums, sums",
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
    # ------------------------------------------------------------ the start from another run
    Line(
        "moments of new rows are 0",
        "jaxrec/checkpoints/warm_start.py",
        "rows = np.where(table.row_map.source[:, None] < 0, missing, table.rows)",
        "rows = table.rows",
        ("tests/checkpoints/test_warm_start.py::test_moments_of_new_rows_are_zero_and_others_go_by_key",),
    ),
    Line(
        "the nearest titles are weighted by their cosines",
        "jaxrec/checkpoints/new_rows.py",
        "exponents = np.exp(nearest - nearest[:, :1])",
        "exponents = np.ones_like(nearest)",
        ("tests/checkpoints/test_new_rows.py::test_a_new_title_has_the_weighted_mean_of_the_nearest",),
    ),
    Line(
        "what was not taken has no anchor",
        "jaxrec/training/restraints.py",
        "jnp.where(taken, first, p)",
        "first",
        (
            "tests/training/test_restraints.py"
            "::test_the_anchors_gradient_is_its_weight_times_the_distance_from_the_reference",
        ),
    ),
    Line(
        "the update of a frozen parameter is masked, not its gradient alone",
        "jaxrec/training/train_step.py",
        "params = keep_frozen(start, state.params, trained)",
        "params = keep_frozen(start, trained, trained)",
        ("tests/training/test_starting.py::test_a_second_stage_stopped_and_resumed_equals_one_left_alone",),
    ),
    Line(
        "a run with a checkpoint of its own does not start again",
        "jaxrec/training/starting.py",
        "return bool(config.start.workdir) and not complete_steps(workdir / CHECKPOINTS)",
        "return bool(config.start.workdir)",
        ("tests/training/test_starting.py::test_a_second_stage_stopped_and_resumed_equals_one_left_alone",),
    ),
)
