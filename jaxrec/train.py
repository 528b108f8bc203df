"""python -m jaxrec.train --config C [--workdir W]: prepare if need be, train or resume, judge, report."""

import os
import signal
import sys
import time

from absl import flags, logging

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries, print_result, report_failure, run
from jaxrec.cli.flags import config_flag, hosts_flags, json_flag
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory
from jaxrec.config.validation import check_devices
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.runtime.host_memory import gc_paused
from jaxrec.runtime.preemption import TERMINATED_EXIT, GracePeriod, PreemptionHandler


def _flags() -> None:
    flags.DEFINE_string(
        "workdir", "", "where the run lives; resumed if it holds one; empty: runs/<config name>"
    )
    flags.DEFINE_bool("per_user", False, "judge at the end as `evaluate --heads --per-user` does")


def main(found: flags.FlagValues) -> int:
    config = found.config
    workdir, directory = as_path(found.workdir or f"runs/{config.name}"), as_path(dataset_directory(config))
    started = time.perf_counter()
    # Not at the top: --help and a wrong config should not wait for the accelerator stack.
    with gc_paused():
        from jaxrec.checkpoints.checkpointer import describe_latest
        from jaxrec.evaluation.evaluator import CHECKPOINTS
        from jaxrec.runtime import compilation_cache, multihost

    joining = multihost.find_cluster(
        os.environ, found.coordinator, found.processes, found.process, found.hosts
    )
    grace = GracePeriod(config.train.grace_seconds, config.train.preempted_exit or TERMINATED_EXIT)
    grace.describe_saved = lambda: f"{describe_latest(workdir / CHECKPOINTS)} in {workdir}"
    # Outside the loop there is nothing to save: it may be started again, and does it over.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(grace.status))
    compilation_cache.enable()
    with multihost.multihost_session(report_failure):
        multihost.initialize(joining, config.train.heartbeat_seconds, config.train.join_seconds)
        return _on_every_host(config, workdir, directory, found.per_user, grace, started)


def _on_every_host(
    config: Config, workdir: AnyPath, directory: AnyPath, per_user: bool, grace: GracePeriod, started: float
) -> int:
    """Exit status; `started` by the clock of time.perf_counter."""
    import jax

    with gc_paused(), hide_libraries(*UNUSED_LIBRARIES):
        from jaxrec.data.runners.run import ensure_dataset
        from jaxrec.data.storage.dataset import Dataset
        from jaxrec.evaluation.evaluator import evaluate
        from jaxrec.evaluation.results import write_result
        from jaxrec.models.layers import attention
        from jaxrec.models.mixture import SOFTMAX_ENCODERS
        from jaxrec.reporting.progress import stage_progress
        from jaxrec.runtime import host_memory, multihost
        from jaxrec.runtime.mesh import device_count
        from jaxrec.training import trainer

    check_devices(config, device_count())
    host_memory.retain_freed_memory()
    for expert in config.model.experts:
        if expert.kind in SOFTMAX_ENCODERS:
            width = config.model.width // expert.heads
            attention.check_form(config.model.attention, jax.default_backend(), config.model.dtype, width)
    if multihost.is_first_process():
        ensure_dataset(config, directory, progress=stage_progress)
    multihost.barrier("dataset")
    with PreemptionHandler(grace) as interrupt:
        step = trainer.train(config, Dataset(directory), workdir, interrupt)
        if trainer.is_stopped(interrupt):
            logging.info("%s: saved at step %d in %s", interrupt.requested, step, workdir)
            return interrupt.exit_status(config.train.preempted_exit)
    if interrupt.requested:  # past the last chance to tell the others
        sys.exit(grace.status)
    from jaxrec.reporting import html_report  # plots, which the first step need not wait for

    judged = evaluate(workdir, data=directory, heads=per_user)
    result = judged.result
    result["seconds"] = time.perf_counter() - started
    if multihost.is_first_process():
        html_report.write(workdir, result)
        if per_user:
            write_result(workdir, judged, each=True)  # last: a study takes it for the sign that all is there
        print_result(result, html_report.table(result))
    return 0


if __name__ == "__main__":
    run(main, config_flag, json_flag, hosts_flags, _flags)
