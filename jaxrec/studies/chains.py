"""Runs of a study that start from other runs of the study: comparison of both on disk.

`start.json` of a run records which checkpoint the run started from. A run whose first run was trained again
since then no longer belongs to the study's chain, and is refused.
"""

import copy
import json
from pathlib import Path

from jaxrec.checkpoints.seals import digest
from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import check_shape, parse_json
from jaxrec.studies.plan import Run

EVALUATED = "eval-test-*-per-query.parquet"  # the last file that a training writes
_RECORD = {"step": int, "checksums?": str}


def is_evaluated(workdir: Path) -> bool:
    """Return True if a run is trained and evaluated."""
    return any(workdir.glob(EVALUATED))


def is_same_place(was: str, now: str) -> bool:
    """Return True if two workdirs are of one row and seed: the study may have been moved."""
    return Path(was).parts[-2:] == Path(now).parts[-2:]


def resumable_config(run: Run) -> Config:
    """Return the config with which `jaxrec.train` starts or resumes the run.

    The settings of `start` cannot change once a run has a checkpoint. If the study was moved, such a run
    keeps its `start.workdir`, which is not read again.
    """
    recorded = run.workdir / "config.json"
    if not run.after or not recorded.exists() or not _has_checkpoint(run):
        return run.config
    config = copy.deepcopy(run.config)
    config.start.workdir = json.loads(recorded.read_text())["start"]["workdir"]
    return config


def check_first_run(run: Run) -> None:
    """Raise InputError if a run has started from a checkpoint that its first run has no more.

    A run that is neither evaluated nor has a checkpoint reads that of its first run again, and is not
    refused.
    """
    if not run.after:
        return
    from jaxrec.tasks.loading import CHECKPOINTS, START_JSON  # imports jax, for chains alone

    path, first = run.workdir / START_JSON, Path(run.config.start.workdir)
    if not path.exists() or not (is_evaluated(run.workdir) or _has_checkpoint(run)):
        return
    try:
        record = parse_json(path.read_bytes())
        check_shape(record, _RECORD, START_JSON)
    except ValueError as error:
        raise InputError(f"{path}: {error}; remove {run.workdir}") from error
    step, checksums, checkpoints = record["step"], record.get("checksums", ""), first / CHECKPOINTS
    if not checkpoints.is_dir():  # of a run that is done they may be removed for their space
        difference = "" if is_evaluated(first) else "is gone"
    elif not (checkpoints / str(step)).is_dir():
        difference = f"has no step {step} any more"
    else:
        is_same = checksums in ("", digest(checkpoints / str(step)))
        difference = "" if is_same else f"has another step {step} now"
    if difference:
        raise InputError(
            f"{run.workdir}: started from step {step} of {first}, which {difference}; "
            f"remove {run.workdir} to train it again too, or use another --workdir"
        )


def _has_checkpoint(run: Run) -> bool:
    from jaxrec.checkpoints.steps import complete_steps  # imports orbax, for chains alone
    from jaxrec.tasks.loading import CHECKPOINTS

    return bool(complete_steps(run.workdir / CHECKPOINTS))
