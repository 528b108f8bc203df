"""Compare two evaluated runs user by user, with tests of significance.

Usage: python -m jaxrec.compare W1 W2

Both workdirs must hold the files that `python -m jaxrec.evaluate --per-user` writes.
"""

from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.reporting.tables.labels import difference_lines

_VISIBLE = "visible: smallest difference with 80% power"


def _flags() -> None:
    flags.DEFINE_string("split", "test", f"split: one of {', '.join(SPLITS[1:])}")
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the evaluated one")
    flags.DEFINE_string(
        "protocol",
        None,
        "protocol in the files' names, such as catalogue for eval-test-best-catalogue-per-user.parquet; "
        "unset: that of the training's report or, where it has no results, the only one",
    )


def table(result: dict[str, Any]) -> str:
    """Format the differences of metrics by list, over users and then over queries, and those of AUC.

    Args:
        result: Result of `per_user.compare`.
    """
    labels = ["", *difference_lines(result["labels"])] if result["labels"] else []
    if not result["metrics"]:
        return "\n".join([f"{result['first']} minus {result['second']}", *labels, "", _VISIBLE])
    first = next(iter(result["metrics"].values()))
    heads = ("t", "p", "Wilcoxon p", "equal")
    head = "".join(f"{name:>{width}}" for name, width in zip(heads, (9, 9, 12, 9), strict=True))
    lines = [
        f"{result['first']} minus {result['second']}, over {first['users']['n']:,} users",
        f"{'':<18}{'difference':>10}{'95% interval':>20}{'d':>8}{'visible':>9}{head}",
    ]
    for column, tests in result["metrics"].items():
        u = tests["users"]
        interval = "[{:+.4f}, {:+.4f}]".format(*u["interval"])
        spread = f"{interval:>20}{u['effect']:>8.3f}{u['smallest']:>9.4f}"
        lines.append(f"{column:<18}{u['mean']:>+10.4f}{spread}{_test_columns(u)}")
    queries = f"{first['queries_as_the_paper']['n']:,} queries"
    lines += ["", f"over {queries}, as the paper tests (but the queries of a user are not independent)"]
    for column, tests in result["metrics"].items():
        q = tests["queries_as_the_paper"]
        lines.append(f"{column:<18}{q['mean']:>+10.4f}{'':>37}{_test_columns(q)}")
    return "\n".join([*lines, *labels, "", f"{_VISIBLE}; equal: zeros dropped by the Wilcoxon test"])


def _test_columns(test: dict[str, Any]) -> str:
    return f"{test['t']:>9.2f}{test['t_p']:>9.2g}{test['wilcoxon_p']:>12.2g}{test['zeros']:>9,}"


def main(args: flags.FlagValues, first: str, second: str) -> None:
    """Compare the runs in the workdirs `first` and `second`, and print the result.

    Raises:
        InputError: A flag is invalid, or the runs have no comparable results.
    """
    if args.split not in SPLITS[1:]:
        raise InputError(f"--split={args.split}; allowed: {', '.join(SPLITS[1:])}")
    from jaxrec.evaluation import per_user

    result = per_user.compare(
        *(per_user.read(workdir, args.split, args.which, args.protocol) for workdir in (first, second))
    )
    print_result(result, table(result))


if __name__ == "__main__":
    run(main, json_flag, _flags, positional=("W1", "W2"))
