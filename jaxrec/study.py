"""Reproduce the tables of the paper and test its claims.

Usage: python -m jaxrec.study --config configs/study.py --workdir S
"""

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

_studies: list[Study] = []  # the study that --config has read; the flag itself holds only its base config


def _config_flag() -> None:
    """Declare --config for a study; --config.key=value overrides its base config."""

    def read_base(spec: str) -> Config:
        _studies[:] = [load_file(spec, Study)]
        return _studies[0].base

    config_flag(read_base)


def _flags() -> None:
    flags.DEFINE_string(
        "workdir", None, "directory of the study; finished trainings are not repeated", required=True
    )
    flags.DEFINE_list("tables", [], f"tables, such as 4,5,{PREMISE}; empty: the tables of the study file")
    flags.DEFINE_integer("seeds", 3, "trainings per row, each with its own train.seed")
    flags.DEFINE_integer("jobs", 1, "concurrent trainings, which divide the cores among them")


def _result(study: Study, tables: tuple[str, ...], all_runs: list[Run]) -> dict[str, Any]:
    """Return the content of study.json."""
    from jaxrec.studies import results, runs
    from jaxrec.studies.policies.pairs import pair_metrics

    evaluations = runs.values(all_runs)
    base = to_json(study.base)
    return {
        "study": study.name,
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, jax {version('jax')}",
        "seeds": sorted({r.seed for r in all_runs}),
        "runs": len(all_runs),
        "done": sum(len(seeds) for seeds in evaluations.values()),
        "base": base,
        "edits": {
            r.name: {
                k: new
                for k, (_, new) in differences(base, to_json(r.config)).items()
                if not (k == "codes.path" or (r.after and k == "start.workdir"))  # of one seed
            }
            for r in all_runs
        },
        "after": {r.name: r.after for r in all_runs if r.after},
        "pairs": pair_metrics(all_runs),
        "each": {
            name: {seed: values.result for seed, values in by_seed.items()}
            for name, by_seed in evaluations.items()
        },
        **results.compute_results(study, tables, evaluations),
    }


def main(args: flags.FlagValues) -> int:
    """Run missing trainings, write study.json and study.md, return the exit status.

    Raises:
        InputError: A flag or the study is invalid.
    """
    if args.seeds < 1:
        raise InputError(f"--seeds={args.seeds}; allowed: 1 or more")
    if scheme_of(args.workdir):
        raise InputError(
            f"--workdir={args.workdir}; allowed: a path of this machine, because trainings write logs there"
        )
    from jaxrec.studies import markdown, runs

    study, folder = _studies[0], Path(args.workdir)
    study.base = args.config
    tables = chosen(study, tuple(args.tables))
    all_runs = every_run(study, tables, args.seeds, folder)
    with PreemptionHandler() as interrupt:
        measured_by = study.policies.measured_by
        failures = runs.run_all(all_runs, folder, args.jobs, interrupt, measured_by)
        if interrupt.requested:
            done = len(runs.finished(all_runs))
            logging.info(
                "%s: %d of %d trainings are done in %s", interrupt.requested, done, len(all_runs), folder
            )
            return interrupt.exit_status(study.base.train.preemption_exit_code)
    result = _result(study, tables, all_runs)
    write_json(folder / "study.json", result)
    markdown.write(folder, result)
    print_result(result, markdown.summary(result))
    for failure in failures:
        logging.error("%s", failure)
    return int(bool(failures))


if __name__ == "__main__":
    run(main, _config_flag, json_flag, _flags)
