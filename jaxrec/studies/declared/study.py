"""Declaration of a study: rows, result tables, claims, premises, policies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxrec.config.schema import Config
from jaxrec.core.ids import DRAWN_LISTS

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
        after: Name of the row whose run with the same seed is where this row's run starts: `every_run` sets
            `start.workdir`, and `edits` may set the rest of `start`. Empty: as in `base`.
        pairs: True: the run trains on pairs that `python -m jaxrec.pairs` draws from the policy of `after`,
            by the row's `post`.
        rewards: Row whose reward models prefer, for `pairs`; a row without `after`. Empty: `after`.
        codes: Row whose title vectors `python -m jaxrec.tokenise` codes for the run, of a task that generates
            codes with codes.vectors="model"; a row without `after`. Rows with the same source, levels and
            size share the codes.
    """

    name: str
    edits: Mapping[str, Any]
    tables: Mapping[str, str]
    paper: Mapping[tuple[str, int], Figures] = field(default_factory=dict)
    against: str = ""
    after: str = ""
    pairs: bool = False
    rewards: str = ""
    codes: str = ""


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
    """Statement that the first row of each pair has a higher value of a metric than the second.

    A claim is shown where every pair is shown. The claim is tested on each of `lists` at each K of `next_k`;
    on an AUC it is tested once.

    Attributes:
        name: The statement.
        pairs: (higher row, lower row) pairs; a name may be that of a `Choice`.
        lists: Candidate lists; ("catalogue",) for metrics of all titles, such as "hr@10". "delay_48" is the
            same with scores of 48 hours before, and "delay_48-0" the difference of both, so that a claim on
            it is of a difference in differences.
        next_k: Values of K, the number of next titles.
        metric: Metric of the lists, one of TRUTH_METRICS, or "auc/<head>" or "gauc/<head>" of labels.
        margin: Above 0, the claim is non-inferiority: the first row is not lower by `margin` or more.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    lists: tuple[str, ...] = DRAWN_LISTS
    next_k: tuple[int, ...] = (1,)
    metric: str = "ndcg@1"
    margin: float = 0.0


@dataclass(frozen=True)
class Choice:
    """Rows of which the one with the best validation metric is compared, under the name of the choice.

    Attributes:
        name: Name in the pairs of claims, where it stands for the chosen row; not the name of a row.
        rows: Rows to choose from.
        metric: Metric of the validation at the evaluated checkpoint, as in metrics.jsonl. The mean over the
            seeds decides: a loss (`loss`, `loss_<head>`) is lowest in the chosen row, any other metric is
            highest.
    """

    name: str
    rows: tuple[str, ...]
    metric: str


@dataclass(frozen=True)
class Premise:
    """Gain of row `better` over row `worse` at several values of a simulator setting.

    Attributes:
        name: Name of the premise.
        key: Dotted config key of the setting.
        better: Row with the higher metric.
        worse: Row with the lower metric.
        values: Values of the setting.
        metric: Metric of the lists, or one of TRUTH_METRICS.
    """

    name: str
    key: str
    better: str
    worse: str
    values: tuple[float, ...] = (0.0, 1.0, 2.0)
    metric: str = "ndcg@1"

    @property
    def rows(self) -> tuple[str, ...]:
        """Rows that are run at each value."""
        return self.better, self.worse


@dataclass(frozen=True)
class CurvePremise:
    """Gain in value of one method over another at several values of a simulator setting.

    Each method has its best row by the value at validation queries, and both are compared at equal KL too.

    Attributes:
        name: Name of the premise.
        key: Dotted config key of the setting.
        better: Name of the first method, and its rows in the order of a setting.
        worse: Name of the second method, and its rows.
        values: Values of the simulator setting.
    """

    name: str
    key: str
    better: tuple[str, tuple[str, ...]]
    worse: tuple[str, tuple[str, ...]]
    values: tuple[float, ...] = (0.0, 1.0, 2.0)

    @property
    def rows(self) -> tuple[str, ...]:
        """Rows that are run at each value."""
        return self.better[1] + self.worse[1]


@dataclass(frozen=True)
class Policies:
    """Comparison of policies beyond the differences of rows.

    Attributes:
        curves: Name of a method -> its rows, in the order of a setting. The best row is chosen by the value
            at validation queries; between rows the value at a KL is interpolated.
        measured_by: Row whose reward models measure the policies of all rows, with the same seed. Empty: no
            policy is measured by reward models.
        percent_of: Row that the measures of reward models are compared with, in percent.
        measured_in: Tables whose policies are measured by reward models. Empty: all tables.
        premises: Premises on methods, which run where --tables contains `premise`.
    """

    curves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    measured_by: str = ""
    percent_of: str = ""
    measured_in: tuple[str, ...] = ()
    premises: tuple[CurvePremise, ...] = ()


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
        premises: Premises on rows, which run where --tables contains `premise`.
        folds: Folds of the users, one for each seed in turn (`data.fold`), so that as many seeds test every
            user once; 0: all seeds are trained and tested on the users of the base config.
        policies: Comparison of policies.
        choices: Rows that are chosen on validation, for claims.
    """

    name: str
    base: Config
    rows: Callable[[Config], tuple[Row, ...]]
    tables: tuple[ResultTable, ...]
    default: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    premises: tuple[Premise, ...] = ()
    folds: int = 0
    policies: Policies = field(default_factory=Policies)
    choices: tuple[Choice, ...] = ()
