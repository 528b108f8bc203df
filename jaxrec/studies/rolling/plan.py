"""Declaration of a rolling study: models that are updated day by day, each evaluated on the day after.

Day 0 is the day before which the log of the first training ends. Day j has the plays of the j-th 24 hours
after it, UTC. A model of day u is trained on plays before the end of day u, and evaluated on the plays of
day u + 1.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxrec.config.schema import Config
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.studies.plan import apply_edits

LAUNCH = "launch_day"  # title feature that the ages of titles come from, days since 1970
NEW, OLD = (0, 7), (30, 10**6)  # least and greatest age in days of new titles and of old ones
POPULAR = "popularity of the last 7 days"  # in place of the row `worse` of a comparison


@dataclass(frozen=True)
class RollingRow:
    """A way to keep a model up to date.

    Args:
        name: Name of the row, also the name of its folder.
        label: Label in the tables.
        updates: Days on which the model is trained again; empty: the model of day 0 is never updated.
        replay: Share of older targets in an update (`data.replay`); None: a training from nothing.
        model: Name of the row's model in `RollingStudy.models`.
        rows: `start.rows` of an update: first values of the rows of new titles.
        evaluated: Days on which the row is evaluated; empty: all.
        learning_rate: Learning rate of an update; 0: that of `RollingStudy.update`.
    """

    name: str
    label: str
    updates: tuple[int, ...] = ()
    replay: float | None = 0.0
    model: str = "concat"
    rows: Literal["initial", "mean", "metadata"] = "metadata"
    evaluated: tuple[int, ...] = ()
    learning_rate: float = 0.0


class Comparison(NamedTuple):
    """Difference of two rows: NDCG@10 of `better` less that of `worse`.

    Attributes:
        name: Name in the report.
        better: Name of a row.
        worse: Name of a row, or POPULAR.
        days: Days that both are evaluated on; empty: all that both are.
        ages: Least and greatest age in days of the target titles; None: all titles.
    """

    name: str
    better: str
    worse: str
    days: tuple[int, ...] = ()
    ages: tuple[int, int] | None = None


@dataclass
class RollingStudy:
    """A whole study, as `get_config` of a study's file returns it.

    Args:
        name: Name of the study in its report.
        base: Config of a training on all days before day 0, after the overrides of the command line.
        models: Model -> dotted key of a config -> value.
        rows: The rows.
        first_day: Day 0, an ISO date.
        update: Dotted key -> value of the config of an update.
        comparisons: Differences to report.
        days: Number of days to evaluate.
    """

    name: str
    base: Config
    models: Mapping[str, Mapping[str, Any]]
    rows: tuple[RollingRow, ...]
    first_day: str
    update: Mapping[str, Any] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    days: int = 14


class DayRun(NamedTuple):
    """One training of a row.

    Attributes:
        name: Name of the row; of day 0 and of trainings from nothing that of the model, with "-all".
        seed: `train.seed`.
        day: Day of the last plays.
        config: Config of the training.
        workdir: Folder of the training.
        after: `job` of the training that it starts from. Empty: none.
    """

    name: str
    seed: int
    day: int
    config: Config
    workdir: Path
    after: str = ""

    @property
    def job(self) -> str:
        """Name of the training's job."""
        return f"{self.name} seed {self.seed} day {self.day}"


def check_study(study: RollingStudy, names: Sequence[str]) -> None:
    """Raise InputError unless the rows, their days and their models fit the study.

    Args:
        study: The study.
        names: Names of the selected rows; empty: all.
    """
    known = [row.name for row in study.rows]
    for name in names:
        if name not in known:
            raise InputError(f"--rows={name}; allowed: {', '.join(known)}")
    if study.days < 1:
        raise InputError(f"--days={study.days}; allowed: 1 or more")
    if study.base.task.name != "next_item":
        raise InputError(f"task.name={study.base.task.name}; allowed in a rolling study: next_item")
    if not any((f.name, f.where, f.kind) == (LAUNCH, "title", "number") for f in study.base.features):
        raise InputError(f"features: {LAUNCH} is missing; a rolling study needs it as a title's number")
    for row in study.rows:
        if row.model not in study.models:
            raise InputError(f"row {row.name}: model={row.model}; allowed: {', '.join(study.models)}")


def selected(study: RollingStudy, names: Sequence[str]) -> tuple[RollingRow, ...]:
    """Return the rows of these names, or all, in their order."""
    return tuple(row for row in study.rows if not names or row.name in names)


def evaluated_days(study: RollingStudy, row: RollingRow) -> tuple[int, ...]:
    """Return the days on which a row is evaluated."""
    return tuple(day for day in row.evaluated or range(1, study.days + 1) if day <= study.days)


def day_of(study: RollingStudy, day: int) -> str:
    """Return the ISO date that ends day `day`: the plays before it are those up to this day."""
    return (date.fromisoformat(study.first_day) + timedelta(days=day)).isoformat()


class Plan:
    """Datasets and trainings of the selected rows of a study, in a folder.

    Args:
        study: The study.
        names: Names of the rows; empty: all.
        seeds: Number of seeds.
        folder: Folder of the study.

    Attributes:
        datasets: Directory -> config that prepares it, each after those that it continues.
        runs: Trainings, each after the one that it starts from.
    """

    def __init__(self, study: RollingStudy, names: Sequence[str], seeds: int, folder: Path) -> None:
        self.study, self.folder, self.rows = study, folder.resolve(), selected(study, names)
        self.datasets: dict[str, Config] = {}
        self._runs: dict[str, DayRun] = {}
        first = study.base.train.seed
        self.seeds = tuple(range(first, first + seeds))
        for row in self.rows:
            for day in evaluated_days(study, row):
                self.day_data(study.base, day)
        for seed in self.seeds:
            for row in self.rows:
                for day in evaluated_days(study, row):
                    self.in_force(row, seed, day)
        self.runs = list(self._runs.values())

    # ---------------------------------------------------------------- datasets

    def day_data(self, config: Config, day: int) -> Config:
        """Return a config with the dataset of one day; of day 0, with that of all days before."""
        if not day:
            return self._all_data(config, 0)
        return self._update_data(config, day - 1, day, 0.0)

    def _all_data(self, config: Config, day: int) -> Config:
        return self._with_data(config, f"all-{day:02d}", day)

    def _update_data(self, config: Config, since: int, day: int, replay: float) -> Config:
        name = f"day-{day:02d}"
        if since != day - 1 or replay:
            name += f"-since-{since:02d}-replay-{replay:g}"
        return self._with_data(config, name, day, since=day_of(self.study, since), replay=replay)

    def _with_data(self, config: Config, name: str, day: int, **data: Any) -> Config:
        """Return a copy with a dataset, which continues the dataset of the day before, and note it."""
        out = copy.deepcopy(config)
        continues = self.day_data(self.study.base, day - 1).data.directory if day else ""
        values = data | {"until": day_of(self.study, day), "continues": continues}
        for key, value in (values | {"directory": str(self.folder / "data" / name)}).items():
            setattr(out.data, key, value)
        check(out)
        self.datasets.setdefault(out.data.directory, out)
        return out

    # ---------------------------------------------------------------- trainings

    def in_force(self, row: RollingRow, seed: int, day: int) -> DayRun:
        """Return the training whose model serves a row on a day: the last one before."""
        before = [update for update in row.updates if update < day]
        return self._training(row, seed, before[-1] if before else 0)

    def _training(self, row: RollingRow, seed: int, day: int) -> DayRun:
        """Return the training of a row on a day, and note it with those that it starts from."""
        is_update = bool(day) and row.replay is not None
        name = row.name if is_update else f"{row.model}-all"
        key = f"{name} seed {seed} day {day}"
        if key in self._runs:
            return self._runs[key]
        config = apply_edits(self.study.base, name, self.study.models[row.model])
        after = ""
        if is_update:
            before = ([0] + [update for update in row.updates if update < day])[-1]
            start = self._training(row, seed, before)
            started = {"start.workdir": str(start.workdir), "start.rows": row.rows}
            rate = {"optimizer.learning_rate": row.learning_rate} if row.learning_rate else {}
            config = apply_edits(config, name, {**self.study.update, **rate, **started})
            config, after = self._update_data(config, before, day, row.replay or 0.0), start.job
        else:
            config = self._all_data(config, day)
        config.train.seed = seed
        workdir = self.folder / "runs" / name / f"seed-{seed}" / f"day-{day:02d}"
        self._runs[key] = DayRun(name, seed, day, config, workdir, after)
        return self._runs[key]
