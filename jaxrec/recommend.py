"""Recommend titles to the users of watch histories, from a checkpoint alone.

Usage: python -m jaxrec.recommend --checkpoint W --histories H.parquet --k 20 --out R.parquet
"""

import contextlib
import time
from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import blend_flag, json_flag
from jaxrec.core.errors import InputError
from jaxrec.core.json_io import plain
from jaxrec.core.paths import as_path

_SHOWN_USERS, _SHOWN_TITLES = 3, 5
_TABLE = "CSV or Parquet: a file, a folder or a glob"


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a training run", required=True)
    flags.DEFINE_string(
        "histories", None, f"plays in the columns of the config, {_TABLE}; users never seen in training "
        "are served too, plays of unknown titles are skipped", required=True,
    )  # fmt: skip
    flags.DEFINE_string(
        "signals", "", f"events before the requests beside plays, {_TABLE}, with the histories' columns of "
        "users, titles and times, the column signal with a name, and value; for models of sessions or tokens",
    )  # fmt: skip
    flags.DEFINE_string(
        "users", "", f"users, {_TABLE}; users without plays are served too; columns with features, the "
        "context or the time of the request, and region are read where they exist",
    )  # fmt: skip
    flags.DEFINE_string(
        "titles", "", f"titles in the columns of the config's titles table, {_TABLE}; titles launched since "
        "the training are served from their features",
    )  # fmt: skip
    flags.DEFINE_integer("k", 20, "number of titles of each user", lower_bound=1)
    flags.DEFINE_string(
        "out", "", "file to write, .parquet or .csv; empty: only the table of the first users"
    )
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")
    flags.DEFINE_string(
        "now", "", "time of the recommendations, such as 2024-01-31T20:00:00Z; plays at or after it are left "
        "out; empty: just after the last play of each user",
    )  # fmt: skip
    flags.DEFINE_bool("filter_watched", True, "leave out titles that the user has watched")
    flags.DEFINE_bool("filter_abandoned", True, "leave out titles that the user has abandoned")
    flags.DEFINE_string(
        "allow", "", "table of the only titles to recommend, with the config's column of titles"
    )
    flags.DEFINE_string("deny", "", "table of titles to leave out, with the config's column of titles")
    flags.DEFINE_string(
        "available", "", "table of windows of titles, with the columns from and until; needs --now"
    )
    flags.DEFINE_string("licences", "", "table of the regions of titles, with the column region")
    flags.DEFINE_string("region", "", "region of users for whom the users table has none")
    flags.DEFINE_enum(
        "index", "auto", ["auto", "exact", "ann"], "ranking of the catalogue: exact scores all titles; ann "
        "scores the candidates of an approximate index (extra ann), for models whose score is an inner "
        "product; auto: ann above a million titles",
    )  # fmt: skip
    flags.DEFINE_float("diversity", 0.0, "weight of dissimilarity (MMR) in a list, from 0 to 1")
    flags.DEFINE_bool("page", False, "pages of named rows, without a title twice, in place of lists")
    flags.DEFINE_integer("page_rows", 6, "rows of a page", lower_bound=1)
    flags.DEFINE_integer("page_width", 10, "titles of a row of a page", lower_bound=1)


def main(args: flags.FlagValues) -> None:
    """Check the flags, recommend and print the first users."""
    started = time.perf_counter()
    if args.available and not args.now:
        raise InputError(f"--available={args.available}: needs --now, such as --now=2024-01-31T20:00:00Z")
    if not 0.0 <= args.diversity <= 1.0:
        raise InputError(f"--diversity={args.diversity:g}; allowed: 0 to 1")
    if args.page and args.diversity:
        raise InputError(f"--diversity={args.diversity:g}; allowed without --page")
    from jaxrec.sources.frames import TableWriter

    writer = TableWriter("--out", args.out) if args.out else None
    from jaxrec.runtime import compilation_cache
    from jaxrec.serving.filters import Filters
    from jaxrec.serving.pages import PageLayout
    from jaxrec.serving.recommender import Recommender
    from jaxrec.serving.requests import PastEvents
    from jaxrec.sources.histories import title_names

    compilation_cache.enable()
    filters = Filters(
        args.filter_watched,
        args.filter_abandoned,
        args.allow or None,
        args.deny or (),
        args.available or None,
        args.licences or None,
        args.region,
    )
    recommender = Recommender.load(
        as_path(args.checkpoint), args.which, args.titles or None, args.index, args.blend
    )
    names = title_names(recommender.config.source, recommender.titles)
    first: dict[str, Any] | None = None
    counts: dict[str, Any] = {}
    with writer or contextlib.nullcontext():
        for group in recommender.stream(
            PastEvents(args.histories, args.signals) if args.signals else args.histories,
            args.k,
            filters,
            users=args.users or None,
            now=args.now or None,
            diversity=args.diversity,
            page=PageLayout(args.page_rows, args.page_width) if args.page else None,
        ):
            columns = recommender.with_names(group.columns, names)
            first, counts = first or columns, group.counts
            if writer is not None:
                writer.add(columns)
    seconds = time.perf_counter() - started
    result = {
        "checkpoint": args.checkpoint,
        "step": recommender.step,
        "out": args.out or None,
        **counts,
        "seconds": seconds,
        "first": _first_rows(first or {}),
    }
    following = f"next: python -m jaxrec.export --checkpoint {args.checkpoint} --out DIR"
    print_result(plain(result), f"{_table(result)}\n{following}")


def _first_rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the first titles of the first users as rows."""
    rows, shown = [], dict[Any, int]()
    for i in range(len(columns.get("user", ()))):
        user = columns["user"][i].item()
        if user not in shown and len(shown) == _SHOWN_USERS:
            break
        shown[user] = shown.get(user, 0) + 1
        if shown[user] <= _SHOWN_TITLES:
            rows.append({name: column[i].item() for name, column in columns.items()})
    return rows


def _table(result: dict[str, Any]) -> str:
    """Format the first rows and the counts."""
    lines, rows = [], result["first"]
    if rows:
        cells = [[*rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines += [
            "  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
    lines += [
        f"users {result['users']:,}, of which {result['empty_histories']:,} with an empty history and "
        f"{result['empty_lists']:,} without an eligible title",
        f"plays {result['plays']:,}, of which {result['plays_of_unknown_titles']:,} of unknown titles "
        "(skipped)",
    ]
    if "index" in result:
        index = result["index"]
        built = f"built in {index['build_seconds']:,.0f} s" if index["is_new"] else "opened"
        lines.append(
            f"index: {built}; recall@100 {_cell(index['recall@100'])} against exact ranking, on "
            f"{index['measured_requests']:,} requests, with {_cell(index['expansion_search'])} candidates; "
            f"{index['exact_requests']:,} of {index['requests']:,} requests ran out of candidates and were "
            "ranked exactly"
        )
    return "\n".join([*lines, f"written to {result['out']}"] if result["out"] else lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


if __name__ == "__main__":
    run(main, json_flag, blend_flag, _flags)
