"""Prepare the dataset if it is missing, train or resume, evaluate and report.

Usage: python -m jaxrec.train --config C [--workdir W] [--dry-run]
       python -m jaxrec.train --repeat W [--workdir W2]
"""

import os
import signal
import sys
import time
from functools import partial

from absl import flags, logging

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries, print_result, report_failure, run
from jaxrec.cli.flags import config_arguments, config_flag, hosts_flags, json_flag, verify_flag
from jaxrec.config.heads import label_heads
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory
from jaxrec.config.validation import check_devices
from jaxrec.core.errors import InputError
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.core.registry import SOFTMAX_ENCODERS
from jaxrec.runtime.host_memory import gc_paused
from jaxrec.runtime.preemption import TERMINATED_EXIT, GracePeriod, PreemptionHandler, deferred_signals


def _flags() -> None:
    flags.DEFINE_string(
        "workdir", "", "directory of the run, which resumes if it has started; empty: runs/<config name>"
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "prepare the dataset if it is missing, compile the step, time a few steps, and print config, "
        "parameters, memory, FLOPs and the estimated time; no training",
    )
    flags.DEFINE_bool(
        "extend",
        False,
        "continue the run of the workdir up to a longer train.duration than it had; schedules over the whole "
        "run, as that of the gate's temperature, then have the new length from here on",
    )
    flags.DEFINE_string(
        "repeat",
        "",
        "in place of --config: workdir of a finished run, whose config is trained once more in --workdir "
        "(empty: <workdir>-repeated); prints value by value whether it came out the same; exit status 1 if "
        "not",
    )
    flags.DEFINE_bool("per_user", False, "evaluate the trained model as `evaluate --heads --per-user` does")


def main(args: flags.FlagValues) -> int:
    """Join the cluster and run the training on this process; return the exit status.

    Raises:
        InputError: A flag or the config is invalid, or the workdir holds another run.
    """
    started = time.perf_counter()
    if args.repeat:
        return _repeat(args, started)
    config = args.config
    workdir, directory = as_path(args.workdir or f"runs/{config.name}"), as_path(dataset_directory(config))
    return _join_and_train(args, config, workdir, directory, started)


def _join_and_train(
    args: flags.FlagValues, config: Config, workdir: AnyPath, directory: AnyPath, started: float
) -> int:
    """Join the cluster and run the training on this process; return the exit status."""
    # Imported here, so that --help and errors in the config do not wait for jax.
    with deferred_signals(), gc_paused():
        from jaxrec.checkpoints.steps import describe_latest
        from jaxrec.runtime import compilation_cache, multihost
        from jaxrec.tasks.loading import CHECKPOINTS

    cluster = multihost.find_cluster(os.environ, args.coordinator, args.processes, args.process, args.hosts)
    grace = GracePeriod(config.train.grace_seconds, config.train.preemption_exit_code or TERMINATED_EXIT)
    grace.describe_saved = lambda: f"{describe_latest(workdir / CHECKPOINTS)} in {workdir}"
    # Outside the training loop there is nothing to save; a restarted command repeats the work.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(grace.status))
    compilation_cache.enable()
    with multihost.multihost_session(report_failure):
        multihost.initialize(cluster, config.train.heartbeat_seconds, config.train.join_seconds)
        return _train_on_host(args, config, workdir, directory, grace, started)


def _train_on_host(
    args: flags.FlagValues, config: Config, workdir: AnyPath, directory: AnyPath, grace: GracePeriod,
    started: float,
) -> int:  # fmt: skip
    """Prepare, train, evaluate and report on every process; return the exit status.

    `started` is the time of the start on the clock of time.perf_counter.
    """
    per_user = args.per_user
    import jax

    with deferred_signals(), gc_paused(), hide_libraries(*UNUSED_LIBRARIES):
        from jaxrec.data.storage.dataset import Dataset
        from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
        from jaxrec.evaluation.results import write_report, write_result
        from jaxrec.models.layers import attention
        from jaxrec.reporting.result_table import format_table, write_test_json
        from jaxrec.runtime import host_memory, multihost
        from jaxrec.runtime.mesh import device_count
        from jaxrec.training import starting, trainer

    check_devices(config, device_count())
    starting.check_start(config, workdir)  # before a preparation that may take hours
    host_memory.retain_freed_memory()
    for expert in config.model.experts:
        if expert.encoder in SOFTMAX_ENCODERS:
            width = config.model.width // expert.num_heads
            attention.check_form(
                config.model.attention_impl, jax.default_backend(), config.model.dtype, width
            )
    if multihost.is_first_process():
        _prepare(config, directory, args.verify)
    multihost.barrier("dataset")
    if args.dry_run:
        _dry_run(config, directory)
        return 0
    with PreemptionHandler(grace) as interrupt:
        step = trainer.train(
            config, Dataset(directory, config.data.verify), workdir, interrupt, extend=args.extend
        )
        if trainer.is_stopped(interrupt):
            logging.info("%s: saved at step %d in %s", interrupt.requested, step, workdir)
            return interrupt.exit_status(config.train.preemption_exit_code)
    if interrupt.requested:  # too late to notify the other processes
        sys.exit(grace.status)
    if config.offline and not label_heads(config):
        if multihost.is_first_process():
            _print_offline(config, workdir, step, started)
        return 0
    evaluation = evaluate(workdir, EvaluationOptions(heads=per_user), data=directory)
    result = evaluation.result
    result["seconds"] = time.perf_counter() - started
    if multihost.is_first_process():
        write_test_json(workdir, result)
        if per_user:
            write_result(workdir, evaluation, each=True)  # last, because a study takes it as completion
        else:
            write_report(workdir, evaluation)
        print_result(result, f"{format_table(result)}\n{_following(workdir, config)}")
    return 0


def _following(workdir: AnyPath, config: Config) -> str:
    """Return the line that names the commands after a training."""
    if not config.next_item.weight:
        return f"next: python -m jaxrec.evaluate --checkpoint {workdir} --per-user"
    if config.offline:
        return f"next: python -m jaxrec.fill --checkpoint {workdir} --data D --out D2"
    return (
        f"next: python -m jaxrec.recommend --checkpoint {workdir} --histories H.parquet, or "
        f"python -m jaxrec.export --checkpoint {workdir} --out DIR"
    )


def _print_offline(config: Config, workdir: AnyPath, step: int, started: float) -> None:
    """Print the end of an offline run without heads of labels, whose test would be a ranking."""
    result = {"name": config.name, "offline": True, "step": step, "seconds": time.perf_counter() - started}
    print_result(
        result, f"{workdir}: trained to step {step:,}; an offline model ranks no titles, so it is not tested"
    )


def _repeat(args: flags.FlagValues, started: float) -> int:
    """Train the config of a finished run once more, and print whether it came out the same.

    Raises:
        InputError: The run cannot be repeated, or its dataset is another one today.
    """
    if "config" in args or args.processes or args.extend or args.dry_run:
        others = "--config, --processes, --extend and --dry-run"
        raise InputError(f"--repeat={args.repeat}: allowed without {others}")
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.training.repetition import compare_runs, format_repetition, read_origin

    first = as_path(args.repeat)
    second = as_path(args.workdir or f"{str(args.repeat).rstrip('/')}-repeated")
    origin = read_origin(first)
    directory = as_path(origin.dataset_directory)
    _prepare(origin.config, directory, args.verify)
    fingerprint = Dataset(directory).fingerprint
    if fingerprint != origin.dataset:
        raise InputError(
            f"--repeat={first}: was trained on the dataset {origin.dataset}, and {directory} holds "
            f"{fingerprint}"
        )
    status = _join_and_train(args, origin.config, second, directory, started)
    if status:
        return status
    values = compare_runs(first, second)
    result = [value._asdict() for value in values]
    print_result({"repeated": result}, f"\n{first} and its repetition {second}\n{format_repetition(values)}")
    return int(any(value.different for value in values))


def _prepare(config: Config, directory: AnyPath, verify: bool) -> None:
    """Prepare the dataset unless it exists, and read all of it where `verify` is True."""
    from jaxrec.data.runners.run import ensure_dataset
    from jaxrec.data.storage.audit import log_verified
    from jaxrec.reporting.progress import stage_progress

    ensure_dataset(config, directory, progress=stage_progress)
    if verify:
        log_verified(directory)


def _dry_run(config: Config, directory: AnyPath) -> None:
    """Print what a training would take."""
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.reporting.dry_run_report import format_dry_run
    from jaxrec.runtime import multihost
    from jaxrec.training.dry_run import dry_run

    report = dry_run(config, Dataset(directory, config.data.verify))
    if multihost.is_first_process():
        following = f"next: python -m jaxrec.train {config_arguments()}"
        print_result(report, f"{format_dry_run(report)}\n{following}")


if __name__ == "__main__":
    run(main, partial(config_flag, replaced_by="repeat"), json_flag, hosts_flags, verify_flag, _flags)
