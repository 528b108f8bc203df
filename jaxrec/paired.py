"""Runs' values user by user, as `evaluate --per-user` wrote them: read, matched by user, compared.

Values are per-user means in [0, 1]; a difference is of two runs for one user, so that what makes a user
easy or hard cancels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from jaxrec import metrics, significance
from jaxrec.errors import InputError
from jaxrec.schema import LISTS

_DECIMALS = 12  # past which a difference of means is rounding and not a difference


class Values(NamedTuple):
    """One judged run."""

    workdir: str
    result: dict[str, Any]  # as evaluate printed it
    users: np.ndarray  # [U] keys, ascending
    of_user: dict[str, np.ndarray]  # column -> [U] means, as `evaluation.per_user` names them
    queries: pl.DataFrame  # a row a query: user, and the target's rank in each list


def read(workdir: str | Path, split: str = "test", which: str | None = None) -> Values:
    """What `evaluate --per-user` left in a workdir of one split, and of one checkpoint where `which` names
    it. Raises InputError where there is nothing, or two things."""
    pattern = f"eval-{split}-{which or '*'}-per-user.parquet"
    found = sorted(Path(workdir).glob(pattern))
    if len(found) != 1:
        held = ", ".join(path.name for path in found) or "nothing"
        raise InputError(
            f"{workdir}: holds {held} where one {pattern} is needed; "
            + ("say --which=best or --which=last" if found else "write it: evaluate --per-user")
        )
    stem = found[0].name.removesuffix("-per-user.parquet")
    result, queries = Path(workdir) / f"{stem}.json", Path(workdir) / f"{stem}-per-query.parquet"
    for path in (result, queries):
        if not path.exists():
            raise InputError(f"{path}: does not exist beside {found[0].name}; run evaluate --per-user again")
    columns = pl.read_parquet(found[0]).sort("user").to_dict(as_series=False)
    users, of_user = np.array(columns.pop("user")), {n: np.array(v) for n, v in columns.items()}
    return Values(str(workdir), json.loads(result.read_text()), users, of_user, pl.read_parquet(queries))


def matched(runs: Sequence[Values]) -> None:
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


def difference(better: Sequence[Values], worse: Sequence[Values], column: str) -> np.ndarray:
    """[U]: the first runs' mean value minus the others', user by user. Of several seeds, their mean."""
    first, second = (np.mean([run.of_user[column] for run in runs], axis=0) for runs in (better, worse))
    return np.round(first - second, _DECIMALS)


def compare(first: Values, second: Values) -> dict[str, Any]:
    """The first minus the second, for each list and metric both have (K=1), over users; and over queries,
    as the paper tests, though a user's queries are not independent. Raises InputError as `matched` does."""
    matched([first, second])
    ours, theirs = first.queries, second.queries
    if not ours["user"].equals(theirs["user"]):
        raise InputError(f"{second.workdir}: its queries are not those of {first.workdir}; judge both again")
    out = {}
    for name in LISTS:
        if f"{name}/ndcg@1" not in first.of_user or f"{name}/ndcg@1" not in second.of_user:
            continue
        for metric, f in metrics.METRICS.items():
            column = f"{name}/{metric}"
            of_queries = f(ours[name].to_numpy()) - f(theirs[name].to_numpy())
            out[column] = {
                "first": float(first.of_user[column].mean()),
                "second": float(second.of_user[column].mean()),
                "users": said(significance.paired(difference([first], [second], column))),
                "queries_as_the_paper": significance.tests(of_queries)._asdict(),
            }
    if not out:
        raise InputError(
            f"{second.workdir}: shares no list with {first.workdir}; judge both on the same lists"
        )
    return {"first": first.workdir, "second": second.workdir, "dataset": first.result["dataset"],
            "metrics": out}  # fmt: skip


def said(found: significance.Paired) -> dict[str, Any]:
    """As JSON: the tests' fields beside the others."""
    return found.tests._asdict() | {"interval": found.interval, "effect": found.effect,
                                    "smallest": found.smallest}  # fmt: skip
