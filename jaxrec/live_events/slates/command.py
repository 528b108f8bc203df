"""Command `python -m jaxrec.live slates`: its flags and its table."""

from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, require_value
from jaxrec.core.paths import as_path

PURPOSE = "write the slates of all segments, stages and regions"
_ORDERS = ("probability", "log_probability")


def declare() -> None:
    """Declare the flags."""
    flags.DEFINE_string("checkpoint", None, "workdir of a training run", required=True)
    flags.DEFINE_string("events", None, "events file, JSON, as in docs/live-slates.md", required=True)
    flags.DEFINE_string(
        "segments", "kmeans:64", "segments of users: feature:NAME,NAME by features, kmeans:K by k-means over "
        "the model's user vectors, one, or user for a segment of each held-out user",
    )  # fmt: skip
    flags.DEFINE_string("out", None, "folder to write, new or empty", required=True)
    flags.DEFINE_integer("titles", 40, "titles of a slate", lower_bound=1, upper_bound=1000)
    flags.DEFINE_integer(
        "spare", 20, "further titles, by which devices replace what their users have watched", lower_bound=0,
        upper_bound=1000,
    )  # fmt: skip
    flags.DEFINE_enum(
        "order", _ORDERS[0], _ORDERS, "mean over the users of a segment that orders the titles: probability "
        "favours titles of which some users are certain",
    )  # fmt: skip
    flags.DEFINE_string("licences", "", "table of the regions of titles, with the column region")
    flags.DEFINE_string(
        "available", "", "table of windows of titles, with the columns from and until, at the event's start"
    )
    flags.DEFINE_string("deny", "", "table of titles to leave out, with the config's column of titles")
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")
    flags.DEFINE_string("data", "", "dataset; empty: the dataset of the training")


def main(args: flags.FlagValues) -> None:
    """Write the slates, and print their number and their bytes.

    Raises:
        InputError: A flag is invalid, or `build_slates` raises the error.
    """
    from jaxrec.live_events.segments.rules import parse_rule

    require_value("--events", args.events, "an events file")
    require_value("--out", args.out, "a folder")
    rule = parse_rule(args.segments)
    from jaxrec.live_events.slates.building import SlateOptions, build_slates
    from jaxrec.runtime import compilation_cache, host_memory

    compilation_cache.enable()
    host_memory.retain_freed_memory()
    options = SlateOptions(
        rule, args.titles, args.spare, args.order, args.licences or None, args.available or None,
        args.deny or (),
    )  # fmt: skip
    data = as_path(args.data) if args.data else None
    result = build_slates(as_path(args.checkpoint), args.events, args.out, options, args.which, data)
    print_result(result, _table(result))


def _table(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    return "\n".join([
        f"{result['out']}: {result['slates']:,} slates of {result['number']:,} segments "
        f"({result['segments']}) for {', '.join(result['events'])}",
        f"kappa: {result['kappa']:,} distinct payloads of {result['bytes']:,} bytes; "
        f"{result['places']:,} positions",
        f"users: {result['training_users']:,} of the training, {result['users']:,} in segments.parquet",
        f"seconds: {seconds['all']:.1f}, of which {seconds['segments_and_scores']:.1f} for segments and "
        f"scores and {seconds['slates']:.1f} for slates",
    ])  # fmt: skip
