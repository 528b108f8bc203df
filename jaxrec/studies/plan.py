"""Runs of a study: its rows, checked, as configs with a seed and a workdir each.

A row is trained once per seed, even where several tables, claims and later rows of a chain read the row.
"""

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.config.migrations import renamed_key
from jaxrec.config.rules.codes import has_codes
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory, digest
from jaxrec.config.tree import fields_of, join, known_key, near, require
from jaxrec.config.validation import at, check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, DELAYED
from jaxrec.evaluation.labels.predictions import ORDERS as LABEL_METRICS
from jaxrec.evaluation.metrics import FULL, METRICS
from jaxrec.evaluation.truth.policy_value import COLUMNS as TRUTH_METRICS
from jaxrec.studies.declared.study import (
    Choice,
    Claim,
    CurvePremise,
    Policies,
    Premise,
    ResultTable,
    Row,
    Study,
)

__all__ = [
    "Choice",
    "Claim",
    "CurvePremise",
    "Policies",
    "Premise",
    "ResultTable",
    "Row",
    "Run",
    "Study",
    "Variant",
]

PREMISE = "premise"  # value of --tables that selects the premises


class Run(NamedTuple):
    """One training: the config of a row with one seed.

    Attributes:
        name: Name of the row, with a suffix at another value of a premise's setting.
        seed: `train.seed` of the run.
        config: Config of the run.
        workdir: Folder of the run.
        after: Name of the run of the same seed that this run starts from. Empty: none of the study.
        pairs_of: Directory of the dataset that the pairs of the run's dataset are of. Empty: no pairs.
        rewards_of: Workdir of the run whose reward models prefer. Empty: without pairs.
        codes_of: Name of the run of the same seed whose vectors are coded. Empty: none, or no codes.
    """

    name: str
    seed: int
    config: Config
    workdir: Path
    after: str = ""
    pairs_of: str = ""
    rewards_of: str = ""
    codes_of: str = ""


class Variant(NamedTuple):
    """Runs of a row, which differ in their seed.

    Attributes:
        config: Config of the runs. After another run, `start.workdir` is that of no seed.
        after: Name of the run that a run of the same seed starts from. Empty: none of the study.
        row: The row.
        rename: Function from a row to its name at the setting of a premise.
    """

    config: Config
    after: str
    row: Row
    rename: Callable[[str], str] = str


def apply_edits(base: Config, name: str, edits: Mapping[str, Any], after: str = "") -> Config:
    """Return a copy of the base with a row's name and edits, checked.

    Where the edits change the dataset, the digest of the data settings is appended to `data.directory`.

    Args:
        base: Config that is copied.
        name: Name of the run.
        edits: Dotted key -> value.
        after: Name of the run that this run starts from. Empty: `start` is as in the base and the edits.

    Raises:
        InputError: A key does not exist or the edited config is invalid. The message names the row.
    """
    config = copy.deepcopy(base)
    config.name = name
    try:
        for key, value in edits.items():
            *parents, last = renamed_key(key).split(".")
            node, path = config, ""
            for parent in parents:
                known_key(path, parent, fields_of(type(node)))
                node, path = getattr(node, parent), join(path, parent)
            known_key(path, last, fields_of(type(node)))
            setattr(node, last, copy.deepcopy(value))
        if config.data.directory and digest(config) != digest(base):
            config.data.directory += f"-{digest(config)[:12]}"  # a separate dataset next to the base's
        if after:
            own = config.start.workdir
            require(own in ("", base.start.workdir), "start.workdir", own, f"be empty beside after={after!r}")
            config.start.workdir = str(Path("runs", after))
        check(config)
    except InputError as error:
        raise InputError(f"row {name}: {error}") from error
    return config


def all_premises(study: Study) -> tuple[Premise | CurvePremise, ...]:
    """Return the premises of a study: on rows, and on methods."""
    return (*study.premises, *study.policies.premises)


def premise_row(base: Config, premise: Premise | CurvePremise, row: str, value: float) -> str:
    """Return the run's name for a row at a value of the premise's setting.

    At the base's value, the run's name is the row's name.
    """
    return row if at(base, premise.key) == value else f"{row}-{premise.key.rsplit('.')[-1]}-{value:g}"


def chosen(study: Study, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tables to run: `names`, or where empty the study's default.

    Raises:
        InputError: A name is not a table of the study.
    """
    known = [*(table.name for table in study.tables), *([PREMISE] if all_premises(study) else [])]
    for name in names:
        if name not in known:
            raise InputError(f"--tables={name}; allowed: {', '.join(known)}")
    return names or study.default


def chain(rows: Mapping[str, Row], name: str) -> list[Row]:
    """Return a row and the rows that it stands on, the first of the chain first.

    Args:
        rows: Name -> row of the study.
        name: Name of the last row of the chain.

    Raises:
        InputError: A row of the chain stands on an unknown row, or on itself.
    """
    names = [name]
    while after := rows[names[-1]].after:
        if after not in rows:
            raise InputError(
                f"row {names[-1]}: after={after!r} does not exist; there are {', '.join(rows)}"
                f"{near(after, [*rows])}"
            )
        if after in names:
            circle = " after ".join([*names[names.index(after) :], after])
            raise InputError(f"row {after}: stands on itself ({circle}); allowed: a chain with a first row")
        names.append(after)
    return [rows[name] for name in reversed(names)]


def variants(study: Study, tables: tuple[str, ...]) -> dict[str, Variant]:
    """Return run name -> variant for the selected tables, in the order of the rows.

    A run that several tables share is returned once. A run that others start from is returned before them,
    whether or not its row is part of a selected table.

    Raises:
        InputError: A row names an unknown table, a claim, premise or row names an unknown row, a chain
            stands on itself, or an edit does not fit the base.
    """
    rows = _checked_rows(study)
    out: dict[str, Variant] = {}

    def add(last: str, rename: Callable[[str], str] = str, setting: Mapping[str, Any] | None = None) -> None:
        """Add the runs of a chain; under another name they have the setting."""
        for row in chain(rows, last):
            for other in filter(None, (row.rewards, row.codes)):
                add(other, rename, setting)
            name, after = rename(row.name), rename(row.after) if row.after else ""
            edits = {**row.edits, **({} if name == row.name else setting or {})}
            if name not in out:
                out[name] = Variant(apply_edits(study.base, name, edits, after), after, row, rename)

    for row in rows.values():
        if any(table in tables for table in (*row.tables, *_measured_in(study, row.name))):
            add(row.name)
    for premise in all_premises(study) if PREMISE in tables else ():
        for value in premise.values:
            rename = partial(premise_row, study.base, premise, value=value)
            for name in premise.rows:
                add(name, rename, {premise.key: value})
    return out


def _measured_in(study: Study, row: str) -> tuple[str, ...]:
    """Return the tables whose policies the reward models of a row measure."""
    if row != study.policies.measured_by:
        return ()
    return study.policies.measured_in or tuple(table.name for table in study.tables)


def _checked_rows(study: Study) -> dict[str, Row]:
    """Return name -> row.

    Raises:
        InputError: A row names an unknown table, a claim, choice, premise or row names an unknown row, a
            choice has the name of a row, a claim names an unknown metric or has a negative margin, or a chain
            stands on itself.
    """
    rows = {row.name: row for row in study.rows(study.base)}
    known = [table.name for table in study.tables]
    for name in study.policies.measured_in:
        known_key("tables", name, known)
    for row in rows.values():
        for name in row.tables:
            known_key("tables", name, known)
        if row.pairs and not row.after:
            raise InputError(f"row {row.name}: pairs=True; allowed with after, whose run draws the pairs")
        _check_others(row, rows)
    for claim in study.claims:
        of_all_titles = all(name == CATALOGUE or name.startswith(DELAYED) for name in claim.lists)
        known_metrics = [*METRICS, *(FULL if of_all_titles else ()), *TRUTH_METRICS]
        allowed = [*known_metrics, *(f"{metric}/<head>" for metric in LABEL_METRICS)]
        label, _, head = claim.metric.partition("/")
        if claim.metric not in known_metrics and not (label in LABEL_METRICS and head):
            raise InputError(f"claim {claim.name!r}: metric={claim.metric!r}; allowed: {', '.join(allowed)}")
        if not 0.0 <= claim.margin < 1.0:
            raise InputError(f"claim {claim.name!r}: margin={claim.margin}; allowed: 0 to 1, 1 excluded")
    choices = {choice.name: choice for choice in study.choices}
    for name in choices:
        if name in rows:
            raise InputError(f"choice {name!r}: there is a row of this name; allowed: a name of its own")
    pairs = [
        *(chosen_from(choices, name) for claim in study.claims for pair in claim.pairs for name in pair),
        *(premise.rows for premise in all_premises(study)),
    ]
    policies = study.policies
    named = [r.against for r in rows.values()] + [policies.measured_by, policies.percent_of]
    named += [name for curve in policies.curves.values() for name in curve]
    for name in [name for pair in pairs for name in pair] + [name for name in named if name]:
        known_key("rows", name, rows)
    for name in rows:
        chain(rows, name)
    return rows


def chosen_from(choices: Mapping[str, Choice], name: str) -> tuple[str, ...]:
    """Return the rows that a name in a pair of a claim stands for: those of a choice, or the row itself."""
    return choices[name].rows if name in choices else (name,)


def _check_others(row: Row, rows: Mapping[str, Row]) -> None:
    """Raise InputError unless the rows that give a row rewards and vectors exist and start from none."""
    for key in ("rewards", "codes"):
        other = getattr(row, key)
        if not other:
            continue
        known_key("rows", other, rows)
        if rows[other].after or rows[other].codes:
            raise InputError(f"row {row.name}: {key}={other!r}; allowed: a row without after and codes")
    if row.rewards and not row.pairs:
        raise InputError(f"row {row.name}: rewards={row.rewards!r}; allowed with pairs=True")


def configs(study: Study, tables: tuple[str, ...]) -> dict[str, Config]:
    """Return run name -> config of `variants`."""
    return {name: variant.config for name, variant in variants(study, tables).items()}


def every_run(study: Study, tables: tuple[str, ...], seeds: int, folder: Path) -> list[Run]:
    """Return the runs of the selected tables with `seeds` seeds, ordered by seed.

    The order by seed gives an interrupted study complete tables of fewer seeds. A run comes after the run of
    the same seed that it starts from.
    """
    variant_by_name = variants(study, tables)
    out = []
    for seed in range(study.base.train.seed, study.base.train.seed + seeds):
        for name, variant in variant_by_name.items():
            config = copy.deepcopy(variant.config)
            config.train.seed = (
                seed + variant.config.train.seed - study.base.train.seed
            )  # of a row: an offset
            if study.folds:
                _set_fold(config, f"{(seed - study.base.train.seed) % study.folds + 1}/{study.folds}")
            if variant.after:  # absolute: a resumed study may be named from another folder
                config.start.workdir = os.path.abspath(_workdir(folder, variant.after, seed))
            of_pairs = dataset_directory(config) if variant.row.pairs else ""
            rewards, codes = (
                variant.rename(other) if other else "" for other in (variant.row.rewards, variant.row.codes)
            )
            if of_pairs:
                config.data.directory = os.path.abspath(folder / "pairs" / variant.after / f"seed-{seed}")
                rewards = os.path.abspath(_workdir(folder, rewards or variant.after, seed))
            if has_codes(config) and not config.codes.path:
                config.codes.path = os.path.abspath(_codes_folder(folder, config, codes) / f"seed-{seed}")
            own = _workdir(folder, name, seed)
            out.append(Run(name, seed, config, own, variant.after, of_pairs, rewards, codes))
    return out


def _codes_folder(folder: Path, config: Config, codes: str) -> Path:
    """Return the folder of the codes of a run, which all runs with the same codes share."""
    settings = config.codes
    source = f"{settings.vectors}-of-{codes}" if settings.vectors == "model" else settings.vectors
    return folder / "codes" / f"{source}-{settings.levels}x{settings.size}"


def _set_fold(config: Config, fold: str) -> None:
    """Test another fold of the users, on a dataset of its own."""
    config.data.fold = fold
    if config.data.directory:
        config.data.directory += f"-fold-{fold.replace('/', '-of-')}"
    check(config)


def _workdir(folder: Path, name: str, seed: int) -> Path:
    return folder / "runs" / name / f"seed-{seed}"


def datasets(runs: list[Run]) -> dict[str, Config]:
    """Return dataset directory -> config that prepares it, for the datasets of runs without pairs."""
    return {dataset_directory(run.config): run.config for run in reversed(runs) if not run.pairs_of}
