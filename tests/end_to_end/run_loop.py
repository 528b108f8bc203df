"""Trains the tiny model in float64 by the real loop, for test_elastic; a script of its own, because the
number of devices is fixed before JAX starts.

    python run_loop.py DATASET TITLE_TABLE WORKDIR[=FROM][:STOP] ...

One run after the other. What WORKDIR holds is gone on with, and FROM is copied there first. STOP is the step
at which the run has to end, as after a signal. Every step has a line of its own in metrics.jsonl, so that
steps can be compared.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def _each_step(writer: type, interrupt: Any, stop: int) -> type:
    """`writer` with a line for every step; at `stop` the run has to end."""

    class Each(writer):
        def due(self, step: int) -> bool:
            if stop and step >= stop:
                interrupt.notify("SIGTERM")
            return True

    return Each


def main(dataset: str, title_table: str, *runs: str) -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "standard")

    from jaxrec.config.loading import load_config
    from jaxrec.config.validation import check, check_devices
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.reporting.metric_writer import Writer
    from jaxrec.runtime import mesh, multihost
    from jaxrec.runtime.preemption import PreemptionHandler
    from jaxrec.training import trainer

    multihost.initialize(multihost.find_cluster(os.environ))
    config = load_config(str(ROOT / "configs/tiny.py"))
    config.train.duration, config.objective.balance = "4 epochs", 0.1
    # Too fast a rate, and no patience: the plateau acts, and a rounding error is soon a difference.
    config.optimizer.learning_rate, config.optimizer.plateau_patience = 0.01, 0
    config.model.features = ("title_id", "segment", "completion")  # the fewer, the sooner all is compiled
    config.objective.regression = 0.0
    if title_table != "replicated":
        config.model.item_table_sharding = title_table
    check(config)
    check_devices(config, mesh.device_count())
    config.model.dtype = "float64"  # which a config does not allow

    for run in runs:
        named, _, stop = run.partition(":")
        workdir, _, start = named.partition("=")
        if start:
            shutil.copytree(start, workdir)
        interrupt = PreemptionHandler()
        trainer.Writer = _each_step(Writer, interrupt, int(stop or 0))
        trainer.train(config, Dataset(dataset), workdir, interrupt)
    multihost.barrier("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
