"""python -m jaxrec.study --config configs/study.py --workdir S: the paper's tables, and its claims tested."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from absl import flags, logging

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import config_flag, json_flag
from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.config.serialization import to_json
from jaxrec.config.tree import differences
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import scheme_of
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies.plan import PREMISE, Run, Study, chosen, every_run

_read: list[Study] = []  # by the flag, which holds the study's base alone


def _config_flag() -> None:
    """--config gives a study; --config.key=value changes the config that its rows edit."""

    def base(spec: str) -> Config:
        _read[:] = [load_file(spec, Study)]
        return _read[0].base

    config_flag(base)


def _flags() -> None:
    flags.DEFINE_string(
        "workdir", None, "where the study lives; what is there is not run again", required=True
    )
    flags.DEFINE_list("tables", [], f"such as 4,5,{PREMISE}; empty: those of the study's file")
    flags.DEFINE_integer("seeds", 3, "trainings a row, each another train.seed")
    flags.DEFINE_integer("jobs", 1, "trainings beside each other, each on its share of the cores")


def _result(study: Study, tables: tuple[str, ...], every: list[Run]) -> dict[str, Any]:
    from jaxrec.studies import results, runs

    judged = runs.values(every)
    base = to_json(study.base)
    return {
        "study": study.name,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, jax {version('jax')}",
        "seeds": sorted({r.seed for r in every}),
        "runs": len(every),
        "done": sum(len(seeds) for seeds in judged.values()),
        "base": base,
        "edits": {
            r.name: {k: now for k, (_, now) in differences(base, to_json(r.config)).items()} for r in every
        },
        "each": {
            name: {seed: values.result for seed, values in of_seed.items()}
            for name, of_seed in judged.items()
        },
        **results.compute_results(study, tables, judged),
    }


def main(found: flags.FlagValues) -> int:
    if found.seeds < 1:
        raise InputError(f"--seeds={found.seeds}; allowed: 1 or more")
    if scheme_of(found.workdir):
        raise InputError(
            f"--workdir={found.workdir}; allowed: a path of this machine, whose processes log there"
        )
    from jaxrec.studies import markdown, runs

    study, folder = _read[0], Path(found.workdir)
    study.base = found.config
    tables = chosen(study, tuple(found.tables))
    every = every_run(study, tables, found.seeds, folder)
    with PreemptionHandler() as interrupt:
        failures = runs.run_all(every, folder, found.jobs, interrupt)
        if interrupt.requested:
            done = len(runs.finished(every))
            logging.info(
                "%s: %d of %d trainings are done in %s", interrupt.requested, done, len(every), folder
            )
            return interrupt.exit_status(study.base.train.preempted_exit)
    result = _result(study, tables, every)
    write_json(folder / "study.json", result)
    markdown.write(folder, result)
    print_result(result, markdown.summary(result))
    for failure in failures:
        logging.error("%s", failure)
    return int(bool(failures))


if __name__ == "__main__":
    run(main, _config_flag, json_flag, _flags)
