"""python -m jaxrec.train --config C [--workdir W]: prepare if need be, train or resume, judge, report."""

import os
import signal
import sys
import time

from absl import flags, logging

from jaxrec.command import UNUSED, config_flag, failed, hosts_flags, json_flag, print_result, run, without
from jaxrec.config import Config
from jaxrec.config_check import check_devices
from jaxrec.config_json import dataset_directory
from jaxrec.heap import uncollected
from jaxrec.interrupt import TERMINATED, Grace, Interrupt
from jaxrec.paths import AnyPath, as_path


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
    with uncollected():
        from jaxrec import compiled, hosts
        from jaxrec.checkpoint import kept
        from jaxrec.evaluation import CHECKPOINTS

    joining = hosts.find(os.environ, found.coordinator, found.processes, found.process, found.hosts)
    grace = Grace(config.train.grace_seconds, config.train.preempted_exit or TERMINATED)
    grace.kept = lambda: f"{kept(workdir / CHECKPOINTS)} in {workdir}"
    # Outside the loop there is nothing to save: it may be started again, and does it over.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(grace.status))
    compiled.keep()
    with hosts.together(failed):
        hosts.start(joining, config.train.heartbeat_seconds, config.train.join_seconds)
        return _on_every_host(config, workdir, directory, found.per_user, grace, started)


def _on_every_host(
    config: Config, workdir: AnyPath, directory: AnyPath, per_user: bool, grace: Grace, started: float
) -> int:
    """Exit status; `started` by the clock of time.perf_counter."""
    import jax

    with uncollected(), without(*UNUSED):
        from jaxrec import heap, hosts, loop
        from jaxrec.data.store import Dataset
        from jaxrec.evaluation import judge, keep
        from jaxrec.nn import attention
        from jaxrec.nn.experts import OF_FORMS
        from jaxrec.parallel import devices
        from jaxrec.prepare import ensure

    check_devices(config, devices())
    heap.keep_freed()
    for expert in config.model.experts:
        if expert.kind in OF_FORMS:
            width = config.model.width // expert.heads
            attention.check(config.model.attention, jax.default_backend(), config.model.dtype, width)
    if hosts.first_process():
        ensure(config, directory)
    hosts.meet("dataset")
    with Interrupt(grace) as interrupt:
        step = loop.train(config, Dataset(directory), workdir, interrupt)
        if loop.stopped(interrupt):
            logging.info("%s: saved at step %d in %s", interrupt.requested, step, workdir)
            return interrupt.exit_status(config.train.preempted_exit)
    if interrupt.requested:  # past the last chance to tell the others
        sys.exit(grace.status)
    from jaxrec import report  # plots, which the first step need not wait for

    judged = judge(workdir, data=directory, heads=per_user)
    result = judged.result
    result["seconds"] = time.perf_counter() - started
    if hosts.first_process():
        report.write(workdir, result)
        if per_user:
            keep(workdir, judged, each=True)  # last: a study takes it for the sign that all is there
        print_result(result, report.table(result))
    return 0


if __name__ == "__main__":
    run(main, config_flag, json_flag, hosts_flags, _flags)
