"""Write the vectors of users or of titles of a checkpoint.

Usage: python -m jaxrec.embed --checkpoint W --of users --histories H.parquet --out E.parquet
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import plain
from jaxrec.core.paths import as_path

if TYPE_CHECKING:
    from jaxrec.serving.recommender import Recommender
    from jaxrec.sources.frames import TableWriter

_OF = ("users", "titles")
_TABLE = "CSV or Parquet: a file, a folder or a glob"


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a training run", required=True)
    flags.DEFINE_string("of", None, "users or titles", required=True)
    flags.DEFINE_string(
        "out", None, "Parquet file to write, with a row for each user or title", required=True
    )
    flags.DEFINE_string("histories", "", f"with --of=users, plays in the columns of the config, {_TABLE}")
    flags.DEFINE_string("users", "", f"with --of=users, users as for recommend, {_TABLE}")
    flags.DEFINE_string(
        "now", "", "with --of=users, time of the vectors, such as 2024-01-31T20:00:00Z; plays at or after it "
        "are left out; empty: just after the last play of each user",
    )  # fmt: skip
    flags.DEFINE_string(
        "titles", "", f"titles in the columns of the config's titles table, {_TABLE}; titles launched since "
        "the training have vectors of their features",
    )  # fmt: skip
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")


def main(args: flags.FlagValues) -> None:
    """Check the flags, write the vectors and print their number.

    Raises:
        InputError: A flag does not fit --of, or a table is invalid.
    """
    started = time.perf_counter()
    if args.of not in _OF:
        raise InputError(f"--of={args.of}; allowed: {', '.join(_OF)}")
    if args.of == "users" and not args.histories:
        raise InputError("--of=users: needs --histories, a table of plays")
    for name in ("histories", "users", "now"):
        if args.of == "titles" and getattr(args, name):
            raise InputError(f"--{name}={getattr(args, name)}; allowed only with --of=users")
    if Path(args.out).suffix != ".parquet":
        raise InputError(f"--out={args.out}: allowed: a file name that ends with .parquet")
    from jaxrec.sources.frames import TableWriter

    writer = TableWriter("--out", args.out)
    from jaxrec.runtime import compilation_cache
    from jaxrec.serving.recommender import Recommender

    compilation_cache.enable()
    recommender = Recommender.load(as_path(args.checkpoint), args.which, args.titles or None)
    with writer:
        written = (
            _write_users(recommender, args, writer)
            if args.of == "users"
            else _write_titles(recommender, writer)
        )
    result: dict[str, Any] = {"checkpoint": args.checkpoint, "step": recommender.step, "of": args.of}
    result |= {"out": args.out} | written | {"seconds": time.perf_counter() - started}
    table = f"{result['rows']:,} vectors of {args.of}, of width {result['width']}, written to {args.out}"
    print_result(plain(result), table)


def _write_users(recommender: "Recommender", args: flags.FlagValues, writer: "TableWriter") -> dict[str, Any]:
    """Write the vectors of users, group by group; return the counts."""
    from jaxrec.serving.requests import RequestCounts

    counts, width = RequestCounts(), 0
    for columns in recommender.embed_stream(
        args.histories, users=args.users or None, now=args.now or None, counts=counts
    ):
        writer.add(columns)
        width = columns["vector"].shape[1]
    if not width:
        raise InputError("--histories: no user; allowed: at least one row of histories or of users")
    return {"rows": counts.users, "width": width} | counts.to_json()


def _write_titles(recommender: "Recommender", writer: "TableWriter") -> dict[str, Any]:
    """Write the vectors of all titles, by popularity; return their number and width."""
    columns = recommender.embed_all_titles()
    writer.add(columns)
    return {"rows": len(columns["title"]), "width": columns["vector"].shape[1]}


if __name__ == "__main__":
    run(main, json_flag, _flags)
