"""python -m jaxrec.train --config C [--workdir W]: prepare if need be, train or resume, judge, report."""

import time

from absl import flags, logging

from jaxrec.command import Interrupt, config_flag, json_flag, print_result, run, without
from jaxrec.config_check import check_devices
from jaxrec.config_json import dataset_directory
from jaxrec.paths import as_path


def _flags() -> None:
    flags.DEFINE_string(
        "workdir", "", "where the run lives; resumed if it holds one; empty: runs/<config name>"
    )
    flags.DEFINE_bool("per_user", False, "judge at the end as `evaluate --heads --per-user` does")


def main(found: flags.FlagValues) -> int:
    config = found.config
    workdir, directory = as_path(found.workdir or f"runs/{config.name}"), as_path(dataset_directory(config))
    # Not at the top: --help and a wrong config should not wait for the accelerator stack.
    import jax

    from jaxrec import compiled, heap, parallel
    from jaxrec.data.store import Dataset
    from jaxrec.evaluation import judge, keep
    from jaxrec.nn import attention
    from jaxrec.nn.experts import OF_FORMS
    from jaxrec.prepare import ensure

    with without("torch"):  # tensorboardX takes two seconds to import it, for tensors that nobody has
        from jaxrec.loop import train

    started = time.perf_counter()
    compiled.keep()
    parallel.join_hosts()
    check_devices(config, parallel.devices())
    if jax.default_backend() == "cpu":
        heap.keep_freed()
    for expert in config.model.experts:
        if expert.kind in OF_FORMS:
            width = config.model.width // expert.heads
            attention.check(config.model.attention, jax.default_backend(), config.model.dtype, width)
    if parallel.first_process():
        ensure(config, directory)
    parallel.meet("dataset")
    with Interrupt() as interrupt:
        step = train(config, Dataset(directory), workdir, interrupt)
        if interrupt.requested:
            logging.info("%s: saved at step %d in %s", interrupt.requested, step, workdir)
            return interrupt.exit_status(config.train.preempted_exit)
    from jaxrec import report  # plots, which the first step need not wait for

    judged = judge(workdir, data=directory, heads=found.per_user)
    result = judged.result
    result["seconds"] = time.perf_counter() - started
    if parallel.first_process():
        report.write(workdir, result)
        if found.per_user:
            keep(workdir, judged, each=True)  # last: a study takes it for the sign that all is there
        print_result(result, report.table(result))
    return 0


if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
