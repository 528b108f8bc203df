"""Declaration of a study: base config, rows, result tables, claims and premises.

A row is trained once per seed, even where several tables and claims read the row.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.config.migrations import renamed_key
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory, digest
from jaxrec.config.tree import fields_of, join, known_key
from jaxrec.config.validation import at, check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import LISTS

PREMISE = "premise"  # value of --tables that selects the premises

Figures = tuple[float, float, float, float]  # NDCG@1, NDCG@5, Recall@5, MRR@5


@dataclass(frozen=True)
class Row:
    """A variant of the base config, with its table labels and the paper's figures.

    Args:
        name: Name of the row, also the name of its folder.
        edits: Dotted key of a Config -> value that replaces the base's.
        tables: Name of a table -> label of the row in that table.
        paper: (candidate list, K) -> the paper's figures.
        against: Name of the row that differences are taken from. Empty: the first row of the table.
    """

    name: str
    edits: Mapping[str, Any]
    tables: Mapping[str, str]
    paper: Mapping[tuple[str, int], Figures] = field(default_factory=dict)
    against: str = ""


@dataclass(frozen=True)
class ResultTable:
    """A table of the report: name as in --tables, heading, and the values of K.

    Attributes:
        name: Name in --tables.
        title: Heading.
        next_k: Values of K, the number of next titles.
    """

    name: str
    title: str
    next_k: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Claim:
    """Statement that the first row of each pair has a higher NDCG@1 than the second.

    A claim is shown where every pair is shown. The claim is tested on each of `lists` at each K of `next_k`.

    Attributes:
        name: The statement.
        pairs: (higher row, lower row) pairs.
        lists: Candidate lists.
        next_k: Values of K, the number of next titles.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    lists: tuple[str, ...] = LISTS
    next_k: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Premise:
    """Gain of row `better` over row `worse` at several values of a simulator setting.

    A premise shows the conditions under which a claim holds. `key` is the dotted key of the setting.

    Attributes:
        name: Name of the premise.
        key: Dotted config key of the setting.
        better: Row with the higher NDCG@1.
        worse: Row with the lower NDCG@1.
        values: Values of the setting.
    """

    name: str
    key: str
    better: str
    worse: str
    values: tuple[float, ...] = (0.0, 1.0, 2.0)


@dataclass
class Study:
    """A whole study, as `get_config` of a study's file returns it.

    Args:
        name: Name of the study in its report.
        base: Config that the rows edit, after the overrides of the command line.
        rows: Function from `base` to the rows.
        tables: Tables that --tables can select.
        default: Names of the tables that run where --tables is empty.
        claims: Claims to test.
        premises: Premises, which run where --tables contains `premise`.
    """

    name: str
    base: Config
    rows: Callable[[Config], tuple[Row, ...]]
    tables: tuple[ResultTable, ...]
    default: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    premises: tuple[Premise, ...] = ()


class Run(NamedTuple):
    """One training: the config of a row with one seed.

    Attributes:
        name: Name of the row, with a suffix at another value of a premise's setting.
        seed: `train.seed` of the run.
        config: Config of the run.
        workdir: Folder of the run.
    """

    name: str
    seed: int
    config: Config
    workdir: Path


def apply_edits(base: Config, name: str, edits: Mapping[str, Any]) -> Config:
    """Return a copy of the base with a row's name and edits, checked.

    Where the edits change the dataset, the digest of the data settings is appended to `data.directory`.

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
        check(config)
    except InputError as error:
        raise InputError(f"row {name}: {error}") from error
    return config


def premise_row(base: Config, premise: Premise, row: str, value: float) -> str:
    """Return the run's name for a row at a value of the premise's setting.

    At the base's value, the run's name is the row's name.
    """
    return row if at(base, premise.key) == value else f"{row}-{premise.key.rsplit('.')[-1]}-{value:g}"


def chosen(study: Study, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tables to run: `names`, or where empty the study's default.

    Raises:
        InputError: A name is not a table of the study.
    """
    known = [*(table.name for table in study.tables), *([PREMISE] if study.premises else [])]
    for name in names:
        if name not in known:
            raise InputError(f"--tables={name}; allowed: {', '.join(known)}")
    return names or study.default


def configs(study: Study, tables: tuple[str, ...]) -> dict[str, Config]:
    """Return run name -> config for the selected tables, in the order of the rows.

    A run that several tables share is returned once.

    Raises:
        InputError: A row names an unknown table, a claim, premise or row names an unknown row, or an
            edit does not fit the base.
    """
    rows = {row.name: row for row in study.rows(study.base)}
    known = [table.name for table in study.tables]
    for row in rows.values():
        for name in row.tables:
            known_key("tables", name, known)
    pairs = [pair for claim in study.claims for pair in claim.pairs]
    pairs += [(premise.better, premise.worse) for premise in study.premises]
    for name in [name for pair in pairs for name in pair] + [r.against for r in rows.values() if r.against]:
        known_key("rows", name, rows)
    out = {
        name: apply_edits(study.base, name, row.edits)
        for name, row in rows.items()
        if any(table in tables for table in row.tables)
    }
    for premise in study.premises if PREMISE in tables else ():
        for value in premise.values:
            for row_name in (premise.better, premise.worse):
                name = premise_row(study.base, premise, row_name, value)
                setting = {} if name == row_name else {premise.key: value}
                out[name] = apply_edits(study.base, name, {**rows[row_name].edits, **setting})
    return out


def every_run(study: Study, tables: tuple[str, ...], seeds: int, folder: Path) -> list[Run]:
    """Return the runs of the selected tables with `seeds` seeds, ordered by seed.

    The order by seed gives an interrupted study complete tables of fewer seeds.
    """
    config_by_name = configs(study, tables)
    out = []
    for seed in range(study.base.train.seed, study.base.train.seed + seeds):
        for name, config in config_by_name.items():
            seed_config = copy.deepcopy(config)
            seed_config.train.seed = seed
            out.append(Run(name, seed, seed_config, folder / "runs" / name / f"seed-{seed}"))
    return out


def datasets(runs: list[Run]) -> dict[str, Config]:
    """Return dataset directory -> config that prepares it, for the datasets of runs."""
    return {dataset_directory(run.config): run.config for run in reversed(runs)}
