"""Update models day by day, and evaluate each on the plays of the day after.

Usage: python -m jaxrec.days --config configs/study_rolling.py --days 14 --workdir R
"""

from pathlib import Path
from typing import Any

from absl import flags, logging

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import config_flag, json_flag
from jaxrec.config.loading import load_file
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import write_json
from jaxrec.core.paths import scheme_of
from jaxrec.runtime.preemption import PreemptionHandler
from jaxrec.studies.rolling.plan import Plan, RollingStudy, check_study

_studies: list[RollingStudy] = []  # the study that --config has read; the flag itself holds only its base


def _config_flag() -> None:
    """Declare --config for a rolling study; --config.key=value overrides its base config."""

    def read_base(spec: str) -> Config:
        _studies[:] = [load_file(spec, RollingStudy)]
        return _studies[0].base

    config_flag(read_base)


def _flags() -> None:
    flags.DEFINE_string(
        "workdir", None, "directory of the study; finished trainings are not repeated", required=True
    )
    flags.DEFINE_integer("days", 0, "days to evaluate; 0: those of the study file")
    flags.DEFINE_list("rows", [], "names of rows; empty: all")
    flags.DEFINE_integer("seeds", 3, "trainings per model and day, each with its own train.seed")
    flags.DEFINE_integer("jobs", 1, "concurrent trainings, which divide the cores among them")


def main(args: flags.FlagValues) -> int:
    """Run and evaluate missing trainings, write study.json and study.md, return the exit status.

    Raises:
        InputError: A flag or the study is invalid.
    """
    if args.seeds < 1:
        raise InputError(f"--seeds={args.seeds}; allowed: 1 or more")
    if scheme_of(args.workdir):
        raise InputError(f"--workdir={args.workdir}; allowed: a path of this machine")
    study = _studies[0]
    study.base, study.days = args.config, args.days or study.days
    check_study(study, args.rows)
    plan = Plan(study, args.rows, args.seeds, Path(args.workdir))
    from jaxrec.runtime import compilation_cache
    from jaxrec.studies.rolling import jobs, page
    from jaxrec.studies.rolling.evaluations import evaluate_all
    from jaxrec.studies.rolling.results import compute_results

    with PreemptionHandler() as interrupt:
        failures = jobs.run_jobs(plan, args.jobs, interrupt)
        if interrupt.requested:
            logging.info("%s: the study resumes in %s", interrupt.requested, plan.folder)
            return interrupt.exit_status(study.base.train.preemption_exit_code)
    for failure in failures:
        logging.error("%s", failure)
    if failures:
        return 1
    compilation_cache.enable()
    result: dict[str, Any] = compute_results(
        plan, *(evaluate_all(plan, split) for split in ("test", "validation"))
    )
    write_json(plan.folder / "study.json", result)
    page.write(plan.folder, result)
    print_result(result, page.text_of(result))
    return 0


if __name__ == "__main__":
    run(main, _config_flag, json_flag, _flags)
