"""python -m jaxrec.compare W1 W2: what two judged runs differ by, user by user, and whether it is chance."""

from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS


def _flags() -> None:
    flags.DEFINE_string("split", "test", f"one of {', '.join(SPLITS[1:])}")
    flags.DEFINE_enum("which", None, ["best", "last"], "which checkpoint; empty: the one that was judged")


def table(result: dict[str, Any]) -> str:
    """A line a list and metric; below, the tests over queries."""
    some = next(iter(result["metrics"].values()))
    heads = ("t", "p", "Wilcoxon p", "equal")
    head = "".join(f"{name:>{width}}" for name, width in zip(heads, (9, 9, 12, 9), strict=True))
    lines = [
        f"{result['first']} minus {result['second']}, over {some['users']['n']:,} users",
        f"{'':<18}{'difference':>10}{'95% interval':>20}{'d':>8}{'visible':>9}{head}",
    ]
    for column, found in result["metrics"].items():
        u = found["users"]
        interval = "[{:+.4f}, {:+.4f}]".format(*u["interval"])
        spread = f"{interval:>20}{u['effect']:>8.3f}{u['smallest']:>9.4f}"
        lines.append(f"{column:<18}{u['mean']:>+10.4f}{spread}{_tests(u)}")
    queries = f"{some['queries_as_the_paper']['n']:,} queries"
    lines += ["", f"over {queries}, as the paper tests, though those of one user are not independent"]
    for column, found in result["metrics"].items():
        q = found["queries_as_the_paper"]
        lines.append(f"{column:<18}{q['mean']:>+10.4f}{'':>37}{_tests(q)}")
    return "\n".join(
        [*lines, "", "visible: what so many users show four times in five; equal: dropped by Wilcoxon"]
    )


def _tests(found: dict[str, Any]) -> str:
    return f"{found['t']:>9.2f}{found['t_p']:>9.2g}{found['wilcoxon_p']:>12.2g}{found['zeros']:>9,}"


def main(found: flags.FlagValues, first: str, second: str) -> None:
    if found.split not in SPLITS[1:]:
        raise InputError(f"--split={found.split}; allowed: {', '.join(SPLITS[1:])}")
    from jaxrec.evaluation import per_user

    result = per_user.compare(
        *(per_user.read(workdir, found.split, found.which) for workdir in (first, second))
    )
    print_result(result, table(result))


if __name__ == "__main__":
    run(main, json_flag, _flags, positional=("W1", "W2"))
