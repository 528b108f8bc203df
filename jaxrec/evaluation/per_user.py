"""Runs' values user by user, as `evaluate --per-user` wants them: written, read, matched by user, compared.

Values are per-user means in [0, 1]; a difference is of two runs for one user, so that what makes a user
easy or hard cancels.
"""

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, LISTS
from jaxrec.core.json_io import write_bytes
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.evaluation import metrics, statistics

DECIMALS = 12  # past which a difference of means is rounding and not a difference


class PerUserResults:
    """One judged run. Columns are read as they are asked for: a study looks at few of many."""

    def __init__(
        self, workdir: str | AnyPath, of_users: AnyPath, of_queries: AnyPath, result: dict[str, Any]
    ) -> None:
        self.workdir, self.result = str(workdir), result  # as evaluate printed it
        self._of_users, self._of_queries = _readable(of_users), _readable(of_queries)
        self.columns = pl.read_parquet_schema(self._of_users).keys()  # as `evaluation.per_user` names them

    @cached_property
    def users(self) -> np.ndarray:
        """[U] keys, ascending."""
        return pl.read_parquet(self._of_users, columns=["user"])["user"].sort().to_numpy()

    @cached_property
    def queries(self) -> pl.DataFrame:
        """A row a query: user, and the target's rank in each list."""
        return pl.read_parquet(self._of_queries)

    def of_user(self, column: str) -> np.ndarray:
        """[U] means of a column, in the order of `users`."""
        return pl.read_parquet(self._of_users, columns=["user", column]).sort("user")[column].to_numpy()


def _readable(path: AnyPath) -> Path | io.BytesIO:
    """What polars reads: of a bucket it would read by itself, but with credentials from other places."""
    return path if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def write(
    workdir: str | AnyPath, stem: str, of_users: Mapping[str, Any], of_queries: Mapping[str, Any]
) -> None:
    """The columns of `evaluation.per_user` and `per_query` as `<stem>-per-user.parquet` and
    `<stem>-per-query.parquet`, each whole or not at all: a study takes the last for a sign."""
    for what, columns in {"per-user": of_users, "per-query": of_queries}.items():
        data = io.BytesIO()
        pl.DataFrame(columns).write_parquet(data)
        write_bytes(as_path(workdir) / f"{stem}-{what}.parquet", data.getvalue())


def read(workdir: str | AnyPath, split: str = "test", which: str | None = None) -> PerUserResults:
    """What `evaluate --per-user` left in a workdir of one split, and of one checkpoint where `which` names
    it. Raises InputError where there is nothing, or two things."""
    pattern = f"eval-{split}-{which or '*'}-per-user.parquet"
    found = sorted(as_path(workdir).glob(pattern))
    if len(found) != 1:
        held = ", ".join(path.name for path in found) or "nothing"
        raise InputError(
            f"{workdir}: holds {held} where one {pattern} is needed; "
            + ("say --which=best or --which=last" if found else "write it: evaluate --per-user")
        )
    stem = found[0].name.removesuffix("-per-user.parquet")
    result, queries = (found[0].with_name(f"{stem}{end}") for end in (".json", "-per-query.parquet"))
    for path in (result, queries):
        if not path.exists():
            raise InputError(f"{path}: does not exist beside {found[0].name}; run evaluate --per-user again")
    return PerUserResults(workdir, found[0], queries, json.loads(result.read_bytes()))


def matched(runs: Sequence[PerUserResults]) -> None:
    """Raises InputError unless all were judged on the same users of the same dataset."""
    first = runs[0]
    for other in runs[1:]:
        if other.result["dataset"] != first.result["dataset"]:
            raise InputError(
                f"{other.workdir}: was judged on dataset {other.result['dataset']}, {first.workdir} on "
                f"{first.result['dataset']}; allowed: runs judged on one dataset"
            )
        if not np.array_equal(other.users, first.users):
            apart = len(np.setxor1d(other.users, first.users))
            raise InputError(
                f"{other.workdir}: {apart:,} users are in it or in {first.workdir} and not in both; "
                "allowed: runs judged on the same split"
            )


def difference(first: PerUserResults, second: PerUserResults, column: str, of_second: str = "") -> np.ndarray:
    """[U]: the first run's value minus the second's (of its column `of_second`, if named), user by user."""
    return np.round(first.of_user(column) - second.of_user(of_second or column), DECIMALS)


def compare(first: PerUserResults, second: PerUserResults) -> dict[str, Any]:
    """The first minus the second, for each list and metric both have (K=1), over users; and over queries,
    as the paper tests, though a user's queries are not independent. Raises InputError as `matched` does."""
    matched([first, second])
    ours, theirs = first.queries, second.queries
    if not ours["user"].equals(theirs["user"]):
        raise InputError(f"{second.workdir}: its queries are not those of {first.workdir}; judge both again")
    out = {}
    for name in (*LISTS, CATALOGUE):
        if f"{name}/ndcg@1" not in first.columns or f"{name}/ndcg@1" not in second.columns:
            continue
        of_list = metrics.FULL if name == CATALOGUE else metrics.METRICS
        for metric, f in of_list.items():
            column = f"{name}/{metric}"
            of_queries = f(ours[name].to_numpy()) - f(theirs[name].to_numpy())
            out[column] = {
                "first": float(first.of_user(column).mean()),
                "second": float(second.of_user(column).mean()),
                "users": to_json(statistics.paired(difference(first, second, column))),
                "queries_as_the_paper": statistics.tests(of_queries)._asdict(),
            }
    if not out:
        raise InputError(
            f"{second.workdir}: shares no list with {first.workdir}; judge both on the same lists"
        )
    return {"first": first.workdir, "second": second.workdir, "dataset": first.result["dataset"],
            "metrics": out}  # fmt: skip


def to_json(found: statistics.Paired) -> dict[str, Any]:
    """As JSON: the tests' fields beside the others."""
    return found.tests._asdict() | {"interval": found.interval, "effect": found.effect,
                                    "smallest": found.smallest}  # fmt: skip
