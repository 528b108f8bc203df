"""What a study is: a base config, rows that edit it, the tables they stand in, claims and premises.

A row is trained once a seed, whatever tables and claims it serves.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory, digest
from jaxrec.config.tree import fields_of, join, known_key
from jaxrec.config.validation import at, check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import LISTS

PREMISE = "premise"  # what --tables calls the premises

Figures = tuple[float, float, float, float]  # NDCG@1, NDCG@5, Recall@5, MRR@5


@dataclass(frozen=True)
class Row:
    name: str  # of its folder
    edits: Mapping[str, Any]  # dotted key of a Config -> value
    tables: Mapping[str, str]  # table -> what it calls the row
    paper: Mapping[tuple[str, int], Figures] = field(default_factory=dict)  # (list, K) -> its figures
    against: str = ""  # the row its difference is taken from; empty: the first of the table


@dataclass(frozen=True)
class ResultTable:
    name: str  # as --tables says it
    title: str
    next_k: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Claim:
    """That the first row of each pair beats the second, on NDCG@1: shown where every pair is."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    lists: tuple[str, ...] = LISTS
    next_k: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Premise:
    """What one row gains over another as a knob of the simulated service is turned: where a claim holds."""

    name: str
    key: str  # the knob
    better: str
    worse: str
    values: tuple[float, ...] = (0.0, 1.0, 2.0)


@dataclass
class Study:
    """What `get_config` of a study's file returns. `rows` makes the rows of the base as the command line
    leaves it. `tables` are those run where --tables says nothing."""

    name: str
    base: Config
    rows: Callable[[Config], tuple[Row, ...]]
    tables: tuple[ResultTable, ...]
    default: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    premises: tuple[Premise, ...] = ()


class Run(NamedTuple):
    """One training: a row's config under a seed."""

    name: str  # the row, or the row at a value of a premise's knob
    seed: int
    config: Config
    workdir: Path


def edited(base: Config, name: str, edits: Mapping[str, Any]) -> Config:
    """The base with a row's name and edits, checked. Raises InputError naming the row."""
    config = copy.deepcopy(base)
    config.name = name
    try:
        for key, value in edits.items():
            *parents, last = key.split(".")
            place, path = config, ""
            for part in parents:
                known_key(path, part, fields_of(type(place)))
                place, path = getattr(place, part), join(path, part)
            known_key(path, last, fields_of(type(place)))
            setattr(place, last, copy.deepcopy(value))
        if config.data.directory and digest(config) != digest(base):
            config.data.directory += f"-{digest(config)[:12]}"  # beside the base's, which is another
        check(config)
    except InputError as error:
        raise InputError(f"row {name}: {error}") from error
    return config


def premise_row(base: Config, premise: Premise, row: str, value: float) -> str:
    """The run of a row at a value of the knob; at the base's own value, the row itself."""
    return row if at(base, premise.key) == value else f"{row}-{premise.key.rsplit('.')[-1]}-{value:g}"


def chosen(study: Study, names: tuple[str, ...]) -> tuple[str, ...]:
    """The tables to run: `names`, or the study's default. Raises InputError on an unknown one."""
    known = [*(table.name for table in study.tables), *([PREMISE] if study.premises else [])]
    for name in names:
        if name not in known:
            raise InputError(f"--tables={name}; allowed: {', '.join(known)}")
    return names or study.default


def configs(study: Study, tables: tuple[str, ...]) -> dict[str, Config]:
    """Name -> config of every training of the chosen tables, each once, in the order of the rows.

    Raises InputError where a row, claim or premise does not fit.
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
        name: edited(study.base, name, row.edits)
        for name, row in rows.items()
        if any(table in tables for table in row.tables)
    }
    for premise in study.premises if PREMISE in tables else ():
        for value in premise.values:
            for of in (premise.better, premise.worse):
                name = premise_row(study.base, premise, of, value)
                knob = {} if name == of else {premise.key: value}
                out[name] = edited(study.base, name, {**rows[of].edits, **knob})
    return out


def every_run(study: Study, tables: tuple[str, ...], seeds: int, folder: Path) -> list[Run]:
    """Seed by seed, so that a study cut short has whole tables of fewer seeds."""
    found = configs(study, tables)
    out = []
    for seed in range(study.base.train.seed, study.base.train.seed + seeds):
        for name, config in found.items():
            of_seed = copy.deepcopy(config)
            of_seed.train.seed = seed
            out.append(Run(name, seed, of_seed, folder / "runs" / name / f"seed-{seed}"))
    return out


def datasets(runs: list[Run]) -> dict[str, Config]:
    """Directory -> a config that prepares it, of the datasets that the runs read."""
    return {dataset_directory(run.config): run.config for run in reversed(runs)}
