"""Lines by which a field of the config, and each draw, has its effect."""

from tests.broken.line import Line

LINES = (
    Line(
        "Adam's second decay",
        "jaxrec/training/optimizer.py",
        "optax.scale_by_adam(b1=_BETA1, b2=config.beta2, eps=_EPSILON)",
        "optax.scale_by_adam()",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Optimizer.beta2]",
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Optimizer.beta2-1]",
        ),
    ),
    Line(
        "dropout of transformer and sasrec",
        "jaxrec/models/encoders/transformer.py",
        "if key_RxLx2 is not None and self.dropout:",
        "if key_RxLx2 is not None and not self.dropout:",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Expert.dropout]",
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Expert.dropout-1]",
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Expert.dropout-4]",
        ),
    ),
    Line(
        "dropout of gru4rec",
        "jaxrec/models/encoders/gru4rec.py",
        "if key_RxLx2 is not None and f.dropout:",
        "if key_RxLx2 is not None and not f.dropout:",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Expert.dropout-2]",
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Expert.dropout-5]",
        ),
    ),
    Line(
        "dropout of hstu",
        "jaxrec/models/encoders/hstu.py",
        "            y = dropout(y, keep, self.dropout)",
        "            y = y",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Expert.dropout-3]",
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Expert.dropout-6]",
        ),
    ),
    Line(
        "the initial dropout",
        "jaxrec/models/user_encoder.py",
        "                x_RxLxD = dropout(x_RxLxD, keep, self.config.dropout)",
        "                x_RxLxD = x_RxLxD",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Model.dropout]",
        ),
    ),
    Line(
        "the seed of dropout and of the gate",
        "jaxrec/training/train_step.py",
        "rng.row_keys(self.task.config.train.seed, state.step, rows)",
        "rng.row_keys(0, state.step, rows)",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.seed-2]",
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.seed-3]",
        ),
    ),
    Line(
        "the seed of the order",
        "jaxrec/training/inputs/input_pipeline.py",
        "order = (rows, train.batch_size, train.seed,",
        "order = (rows, train.batch_size, 0,",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.seed-1]",
        ),
    ),
    Line(
        "the seed of the initial parameters",
        "jaxrec/training/train_state.py",
        "jax.random.key(self.task.config.train.seed)",
        "jax.random.key(0)",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.seed]",
        ),
    ),
    Line(
        "noise of the gate is in the mixture",
        "jaxrec/models/user_encoder.py",
        "weights = gate_BxE.astype(self.dtype)",
        "weights = clean_BxE.astype(self.dtype)",
        ("tests/models/test_ranker.py::test_noise_of_the_gate_is_in_the_mixture",),
    ),
    Line(
        "noise of the gate has the config's spread",
        "jaxrec/models/mixture.py",
        "self.fields.noise_std * noise_BxE",
        "0.1 * noise_BxE",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Gate.noise_std]",
        ),
    ),
    Line(
        "the target entropy is that of the config",
        "jaxrec/tasks/ranking.py",
        "self.threshold, c.model.gate.target_entropy, moving, usage",
        "self.threshold, 0.52, moving, usage",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Gate.target_entropy]",
        ),
    ),
    Line(
        "the fraction of unknown titles",
        "jaxrec/tasks/ranking_scorer.py",
        "s.history_keeps_abandoned, s.id_dropout, names",
        "s.history_keeps_abandoned, 0.01, names",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Sampling.id_dropout]",
        ),
    ),
    Line(
        "weights of the next titles",
        "jaxrec/losses/ranking.py",
        "jnp.where(c.present, positive, 0.0), label)",
        "jnp.where(c.present, positive, 0.0), 1.0 + 0.0 * label)",
        ("tests/losses/test_ranking_losses.py::test_next_k_labels_and_weights",),
    ),
    Line(
        "labels of the negatives",
        "jaxrec/losses/ranking.py",
        "jnp.where(c.negative, negative, 0.0), negative_label)",
        "jnp.where(c.negative, negative, 0.0), 0.0 * negative_label)",
        ("tests/losses/test_ranking_losses.py::test_eq_15_total",),
    ),
    Line(
        "scores in bfloat16",
        "jaxrec/models/ranker.py",
        "return nn.sigmoid(score) if sigmoid else score",
        'return nn.sigmoid(score) if sigmoid else score * (self.dtype != "bfloat16")',
        ("tests/models/test_ranker.py::test_bfloat16_keeps_parameters_and_outputs_wide",),
    ),
    Line(
        "the loss of a checkpoint is of the average",
        "jaxrec/training/trainer.py",
        "values, lists = self.validator(state.eval_params)",
        "values, lists = self.validator(state.params)",
        ("tests/end_to_end/test_by_hand.py::test_lines_of_metrics_hold_both_lists_of_the_validation_users",),
    ),
    Line(
        "memory of the logits",
        "jaxrec/losses/next_item.py",
        "config.logits_budget_mib * 2**20",
        "256 * 2**20",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[NextItem.logits_budget_mib]",
        ),
    ),
    Line(
        "the temperature of the validation of sequences",
        "jaxrec/tasks/next_item.py",
        '"ndcg@10"), self.config.next_item.temperature, is_policy=True)',
        '"ndcg@10"), is_policy=True)',
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[NextItem.temperature-2]",
        ),
    ),
    Line(
        "a row's own positive is not in its hard pool",
        "jaxrec/data/examples/user_pools.py",
        "live &= ~(log.rank[event][:, None] == targets[row]).any(axis=1)",
        "live &= ~(log.rank[event][:, None] == targets[row][:, 1:]).any(axis=1)",
        ("tests/data/examples/test_ranking_examples.py::test_next_targets_are_no_hard_negatives",),
    ),
    Line(
        "the seconds between lines of metrics",
        "jaxrec/training/trainer.py",
        "log_seconds, versions = self.config.train.log_seconds,",
        "log_seconds, versions = 5.0,",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.log_seconds]",
        ),
    ),
    Line(
        "the seconds between checkpoints",
        "jaxrec/training/trainer.py",
        "time.monotonic() - self.last_save > self.config.train.checkpoint_every_seconds",
        "time.monotonic() - self.last_save > 600.0",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.checkpoint_every_seconds]",
        ),
    ),
    Line(
        "the seconds of grace",
        "jaxrec/train.py",
        "GracePeriod(config.train.grace_seconds,",
        "GracePeriod(25.0,",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.grace_seconds]",
        ),
    ),
    Line(
        "the timeouts of a cluster",
        "jaxrec/train.py",
        "config.train.heartbeat_seconds, config.train.join_seconds)",
        "config.train.heartbeat_seconds, 300)",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Train.join_seconds]",
        ),
    ),
    Line(
        "the evaluated checkpoint is that of the config",
        "jaxrec/tasks/loading.py",
        'return which if checkpoints.best_step() is not None else "last"',
        'return "best" if checkpoints.best_step() is not None else "last"',
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Evaluate.checkpoint]",
        ),
    ),
    Line(
        "the number of example users",
        "jaxrec/evaluation/details/of_report.py",
        "count = loaded.config.evaluate.report_users if report_users is None else report_users",
        "count = 10 if report_users is None else report_users",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Evaluate.report_users]",
        ),
    ),
    Line(
        "the evaluated numbers of next titles",
        "jaxrec/evaluation/evaluator.py",
        "(options.next_k or loaded.config.evaluate.next_k)",
        "(options.next_k or (1, 3))",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Evaluate.next_k]",
        ),
    ),
    Line(
        "the titles left out are those of the config",
        "jaxrec/evaluation/details/full_catalogue.py",
        "    seen = options.seen or loaded.config.evaluate.seen\n    left_out",
        '    seen = options.seen or "all"\n    left_out',
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Evaluate.seen]",
        ),
    ),
    Line(
        "the simulator's interruptions",
        "jaxrec/sources/simulator/plays.py",
        "hashing.uniform(c.seed, Draw.CUT, key, n) < c.interruptions,",
        "hashing.uniform(c.seed, Draw.CUT, key, n) < 0.1,",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Simulator.interruptions]",
        ),
    ),
    Line(
        "the number of partitions",
        "jaxrec/data/runners/local.py",
        "self.spill = Spill(spill, config.data.partitions,",
        "self.spill = Spill(spill, 1,",
        (
            "tests/config/test_no_dead_field.py::test_a_changed_field_changes_what_it_is_said_to_change[Data.partitions]",
        ),
    ),
    Line(
        "a loaded config shares nothing with its file",
        "jaxrec/config/loading.py",
        "return copy.deepcopy(config)",
        "return config",
        ("tests/cli/test_app.py::test_a_load_shares_no_object_with_its_file",),
    ),
    Line(
        "wrong input ends with status 2",
        "jaxrec/cli/app.py",
        "    return INPUT_ERROR\n",
        "    return DEFECT\n",
        ("tests/cli/test_app.py",),
    ),
    Line(
        "the probability of hidden contexts",
        "jaxrec/tasks/ranking_scorer.py",
        "session_kinds(self.config, self.layout), s.context_dropout",
        "session_kinds(self.config, self.layout), 0.0",
        ("tests/tasks/test_hidden_contexts.py::test_training_hides_contexts_and_evaluation_none",),
    ),
)
