"""Per-user results of runs (`evaluate --per-user`): write, read, compare.

Values are per-user means in [0, 1]. Each difference is between two runs for one user, so the difficulty of
the user cancels.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, DELAYED, LISTS, REWARDS, SERVED, TRUTH
from jaxrec.core.json_io import ANY_KEY, check_shape, parse_json, write_bytes
from jaxrec.core.paths import AnyPath, as_path
from jaxrec.evaluation import metrics, statistics
from jaxrec.evaluation.labels.differences import check_same_queries, compare_labels
from jaxrec.evaluation.labels.predictions import KNOWN, LABEL, OBSERVED, PREDICTION, HeadPredictions
from jaxrec.runtime.checksums import DamagedFileError, verify

T = TypeVar("T")

_AGAIN = "run evaluate --per-user again"
_WITH_GAPS = (SERVED, DELAYED)  # columns without a value for users without a served list, or a play so early
_RESULT = {
    "dataset": str, f"{CATALOGUE}?": dict, "files?": {ANY_KEY: {"bytes": int, "sha256": str}},
}  # fmt: skip
DECIMALS = 12  # smaller differences of means are rounding errors


class PerUserResults:
    """Results of one evaluated run.

    Columns are read on demand, because a study uses few of many.
    """

    def __init__(
        self, workdir: str | AnyPath, user_file: AnyPath, query_file: AnyPath, result: dict[str, Any]
    ) -> None:
        """Open the results of a run.

        Args:
            workdir: folder of the run, for error messages.
            user_file: Parquet file with a row per user.
            query_file: Parquet file with a row per query.
            result: the result that `evaluate` printed.
        """
        self.workdir, self.result = str(workdir), result
        self.measured: PerUserResults | None = None  # those of the policy under reward models of another run
        self._files = {file: _open_for_polars(file) for file in (user_file, query_file)}
        self._user_file, self._query_file = user_file, query_file
        self.columns = self._read(user_file, lambda f: _schema(f, "user"))  # named by `results.per_user`
        self._read(query_file, lambda f: _schema(f, "user"))

    @cached_property
    def users(self) -> np.ndarray:
        """User keys [U] of the source, ascending."""
        return self._columns(self._user_file, "user")["user"].sort().to_numpy()

    @cached_property
    def queries(self) -> pl.DataFrame:
        """Table with a row per query: the user, and the rank of the target in each list."""
        lists = [name for name in (*LISTS, CATALOGUE) if f"{name}/ndcg@1" in self.columns]
        return self._columns(self._query_file, "user", *lists)

    @cached_property
    def query_users(self) -> np.ndarray:
        """User keys [Q] of the queries, in the order of `queries`."""
        return self._columns(self._query_file, "user")["user"].to_numpy()

    def of_user(self, column: str) -> np.ndarray:
        """Return the means [U] float64 of a column, in the order of `users`; NaN without a served list."""
        return self._columns(self._user_file, "user", column).sort("user")[column].to_numpy()

    @property
    def policy_columns(self) -> list[str]:
        """Names of the columns of the policy's values, under the truth and under reward models."""
        return [column for column in self.columns if column.startswith((f"{TRUTH}/", f"{REWARDS}/"))]

    def of_query(self, column: str) -> np.ndarray:
        """Return the values [Q] of a column of `policy_columns` or of a list, in the order of `queries`."""
        return self._columns(self._query_file, column)[column].to_numpy()

    def mean(self, column: str) -> float:
        """Return the mean of a column over the users who have a value."""
        return float(np.nanmean(self.of_user(column)))

    @cached_property
    def label_heads(self) -> list[str]:
        """Names of the heads whose predictions of a label are stored per query."""
        return self._stored(PREDICTION)

    @cached_property
    def observed_labels(self) -> list[str]:
        """Names of the early labels that the model reads; only of offline runs."""
        return self._stored(OBSERVED)

    def observed(self, label: str) -> np.ndarray:
        """Return the values [Q] of a label of `observed_labels`, in the order of `queries`."""
        return self._columns(self._query_file, f"{OBSERVED}{label}")[f"{OBSERVED}{label}"].to_numpy()

    def _stored(self, start: str) -> list[str]:
        """Return what follows `start` in the names of the columns by query."""
        columns = self._read(self._query_file, lambda f: _schema(f, "user"))
        return [name.removeprefix(start) for name in columns if name.startswith(start)]

    def predictions(self, head: str) -> HeadPredictions:
        """Return the predictions of a head of `label_heads`, in the order of `queries`."""
        frame = self._columns(self._query_file, *(f"{start}{head}" for start in (PREDICTION, LABEL, KNOWN)))
        prediction, label, known = (column.to_numpy() for column in frame)
        loss = self.result.get("labels", {}).get(head, {}).get("loss", "")
        return HeadPredictions(loss, prediction, label, known != 0)

    def _columns(self, file: AnyPath, *names: str) -> pl.DataFrame:
        """Return columns of a table, of which all but the users are numbers.

        Raises:
            DamagedFileError: The file cannot be read, or a column is missing, no number or not finite. NaN is
                allowed in `_WITH_GAPS`.
        """
        frame = self._read(file, lambda f: pl.read_parquet(f, columns=list(names)))
        for name in names:
            column = frame[name]
            finite = name == "user" or column.dtype.is_numeric()
            if finite and name != "user":
                is_allowed = column.is_finite() | (column.is_nan() & name.startswith(_WITH_GAPS))
                finite = bool(is_allowed.all())
            if column.has_nulls() or not finite:
                raise DamagedFileError(f"{file}: column {name!r} holds values that are no numbers; {_AGAIN}")
        return frame

    def _read(self, file: AnyPath, read: Callable[[Path | io.BytesIO], T]) -> T:
        """Return what `read` gives for a file; raise DamagedFileError where Polars cannot read it."""
        try:
            return read(self._files[file])
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
            raise DamagedFileError(
                f"{file}: cannot be read: {str(error).splitlines()[0]}; {_AGAIN}"
            ) from error


def _schema(file: Path | io.BytesIO, column: str) -> list[str]:
    """Return the columns of a Parquet file, one of which must be `column`."""
    if isinstance(file, Path) and file.is_dir():
        raise IsADirectoryError("is a folder")
    names = [*pl.read_parquet_schema(file)]
    if column not in names:
        raise ValueError(f"no column {column!r}")
    return names


def _open_for_polars(path: AnyPath) -> Path | io.BytesIO:
    """Return a local path, or the bytes of a file in a bucket.

    Polars can read from buckets too, but with credentials from other sources than the rest of the program.
    """
    return path if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def encode(stem: str, user_columns: Mapping[str, Any], query_columns: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of `<stem>-per-user.parquet` and `<stem>-per-query.parquet` by file name.

    Args:
        stem: start of the file names.
        user_columns: columns of `results.per_user`.
        query_columns: columns of `results.per_query`.
    """
    files = {}
    for suffix, columns in {"per-user": user_columns, "per-query": query_columns}.items():
        data = io.BytesIO()
        pl.DataFrame(columns).write_parquet(data)
        files[f"{stem}-{suffix}.parquet"] = data.getvalue()
    return files


def write(workdir: str | AnyPath, files: Mapping[str, bytes]) -> None:
    """Write the files of `encode` to a folder, each atomically.

    A study takes the last file as the sign that the evaluation is complete.
    """
    for name, data in files.items():
        write_bytes(as_path(workdir) / name, data)


def read(
    workdir: str | AnyPath, split: str = "test", which: str | None = None, protocol: str | None = None
) -> PerUserResults:
    """Read the files that `evaluate --per-user` wrote to a workdir.

    Args:
        workdir: folder of the run.
        split: the evaluated split.
        which: the evaluated checkpoint, "best" or "last". None: the only one with results.
        protocol: name of the protocol, such as "catalogue"; "": that of the training's report. None: that of
            the report or, where it has no results, the only one with results.

    Raises:
        InputError: there are no results, results of both checkpoints or of several protocols, or a file is
            missing.
    """
    pattern = f"eval-{split}-{which or '*'}{f'-{protocol}' * bool(protocol)}-per-user.parquet"
    end = "-per-user.parquet"
    names_of = {path: _which_and_protocol(path.name.removesuffix(end), split)
             for path in as_path(workdir).glob(f"eval-{split}-*{end}")}  # fmt: skip
    matches = sorted(path for path, (w, p) in names_of.items() if w == (which or w) and p == (protocol or p))
    if protocol is None:
        matches = [path for path in matches if not names_of[path][1]] or matches
    elif not protocol:
        matches = [path for path in matches if not names_of[path][1]]
    if len(matches) != 1:
        names = ", ".join(path.name for path in matches) or "nothing"
        raise InputError(
            f"{workdir}: holds {names} where one {pattern} is needed; "
            + ("use --which or --protocol" if matches else "run evaluate --per-user first")
        )
    stem = matches[0].name.removesuffix("-per-user.parquet")
    result, queries = (matches[0].with_name(f"{stem}{end}") for end in (".json", "-per-query.parquet"))
    for path in (result, queries):
        if not path.exists():
            raise InputError(
                f"{path}: does not exist beside {matches[0].name}; run evaluate --per-user again"
            )
    try:
        tree = parse_json(result.read_bytes())
    except ValueError as error:
        raise InputError(f"{result}: is no JSON: {error}; {_AGAIN}") from error
    check_shape(tree, _RESULT, str(result), _AGAIN)
    for path in (matches[0], queries):
        if path.name in tree.get("files", {}):  # absent from the results of earlier versions
            verify(path, tree["files"][path.name], str(workdir), _AGAIN)
    return PerUserResults(workdir, matches[0], queries, tree)


def _which_and_protocol(stem: str, split: str) -> tuple[str, str]:
    """Return the checkpoint and the protocol of a file name, "eval-test-best-catalogue" for example."""
    which, _, protocol = stem.removeprefix(f"eval-{split}-").partition("-")
    return which, protocol


def matched(runs: Sequence[PerUserResults]) -> None:
    """Check that all runs were evaluated on the same users of the same dataset, by the same protocol.

    Raises:
        InputError: two runs differ in dataset, in the titles left out of the catalogue, or in users.
    """
    first = runs[0]
    seen = first.result.get(CATALOGUE, {}).get("seen")
    for other in runs[1:]:
        other_seen = other.result.get(CATALOGUE, {}).get("seen")
        if seen and other_seen and seen != other_seen:
            raise InputError(
                f"{other.workdir}: its catalogue was ranked with --seen={other_seen}, that of "
                f"{first.workdir} with --seen={seen}; allowed: runs evaluated with the same --seen"
            )
        if other.result["dataset"] != first.result["dataset"]:
            raise InputError(
                f"{other.workdir}: was evaluated on dataset {other.result['dataset']}, {first.workdir} on "
                f"{first.result['dataset']}; allowed: runs evaluated on the same dataset"
            )
        if other.users.dtype != first.users.dtype and {other.users.dtype.kind, first.users.dtype.kind} & {
            "O",
            "U",
        }:
            raise InputError(
                f"{other.workdir}: its users are {other.users.dtype}, those of {first.workdir} are "
                f"{first.users.dtype}; allowed: runs evaluated on the same split"
            )
        if not np.array_equal(other.users, first.users):
            unmatched = len(np.setxor1d(other.users, first.users))
            raise InputError(
                f"{other.workdir}: {unmatched:,} users are in this run or in {first.workdir} and not in "
                "both; allowed: runs evaluated on the same split"
            )


def difference(
    first: PerUserResults, second: PerUserResults, column: str, second_column: str = ""
) -> np.ndarray:
    """Return the values [U] of the first run minus those of the second, user by user.

    Args:
        first: results of one run.
        second: results of the other run, with the same users; `matched` checks this.
        column: column of the first run.
        second_column: column of the second run; empty for the same column.

    Returns:
        [N] float64, in the order of `first.users`; users without a served list have no difference on it.
    """
    values = first.of_user(column) - second.of_user(second_column or column)
    return np.round(values[~np.isnan(values)], DECIMALS)


def compare(first: PerUserResults, second: PerUserResults) -> dict[str, Any]:
    """Compare two runs: the first minus the second.

    The comparison covers each list and metric that both runs have (K=1), the values of both policies under
    the truth, and the AUC of each head that predicts a label in both. Tests are over users, and also over
    queries, as in the paper, although the queries of one user are not independent.

    Returns:
        A dictionary of JSON values: `first`, `second` (the workdirs), `dataset`, `metrics`: column name
        -> means and tests, and `labels`: "auc/<head>" and "gauc/<head>" -> AUC and tests over users.

    Raises:
        InputError: the runs differ in dataset, users or queries, have no list and no head in common, or a
            head predicts another label.
    """
    matched([first, second])
    check_same_queries(first, second)
    first_queries, second_queries = first.queries, second.queries
    out = {}
    for name in (*LISTS, CATALOGUE):
        if f"{name}/ndcg@1" not in first.columns or f"{name}/ndcg@1" not in second.columns:
            continue
        list_metrics = metrics.FULL if name == CATALOGUE else metrics.METRICS
        for metric, f in list_metrics.items():
            column = f"{name}/{metric}"
            ranks = [queries[name].to_numpy() for queries in (first_queries, second_queries)]
            has_list = ranks[0] > 0
            by_query = f(ranks[0][has_list]) - f(ranks[1][has_list])
            out[column] = _difference_of(first, second, column, by_query)
    for column in (c for c in first.policy_columns if c in second.policy_columns):
        out[column] = _difference_of(first, second, column, first.of_query(column) - second.of_query(column))
    labels = compare_labels(first, second)
    if not out and not labels:
        raise InputError(
            f"{second.workdir}: has no list in common with {first.workdir}; evaluate both on the same lists"
        )
    return {"first": first.workdir, "second": second.workdir, "dataset": first.result["dataset"],
            "metrics": out, "labels": labels}  # fmt: skip


def _difference_of(
    first: PerUserResults, second: PerUserResults, column: str, by_query: np.ndarray
) -> dict[str, Any]:
    """Return the means of a column and the tests of its differences, by user and by query [Q], as JSON."""
    return {
        "first": first.mean(column),
        "second": second.mean(column),
        "users": statistics.paired(difference(first, second, column)).to_json(),
        "queries_as_the_paper": statistics.tests(by_query)._asdict(),
    }
