"""Write a dataset whose served titles are those that a retrieval head selects.

Usage: python -m jaxrec.retrieve --checkpoint W --data D --out D2 [--top 50] [--titles 20]
"""

import time

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a run with a retrieval head", required=True)
    flags.DEFINE_string("data", None, "dataset of requests", required=True)
    flags.DEFINE_string(
        "out", None, "folder of the new dataset: absent, or with the same content", required=True
    )  # fmt: skip
    flags.DEFINE_integer("top", 50, "titles that the retrieval head selects for each request")
    flags.DEFINE_integer("titles", 20, "titles that are drawn from them and stored")
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")


def main(args: flags.FlagValues) -> None:
    """Write the dataset, and print its fingerprint.

    Raises:
        InputError: The run has no retrieval head, its titles or categories are not those of the dataset, or
            the folder holds something else.
    """
    started = time.perf_counter()
    from jaxrec.analysis.rewritten.retrieved_titles import write_retrieved
    from jaxrec.runtime import compilation_cache, host_memory

    compilation_cache.enable()
    host_memory.retain_freed_memory()
    made = write_retrieved(args.checkpoint, args.data, args.out, args.top, args.titles, args.which)
    result = {
        "checkpoint": args.checkpoint,
        "data": args.data,
        "out": args.out,
        "written": made.written,
        "fingerprint": made.manifest["fingerprint"],
        "top": args.top,
        "titles": args.titles,
        "rows": made.manifest["retrieved"]["rows"],
        "seconds": time.perf_counter() - started,
    }
    of_splits = made.manifest["splits"]
    rows = ", ".join(
        f"{count:,} of {of_splits[split]['examples']:,} {split}" for split, count in result["rows"].items()
    )
    done = "written" if made.written else "was there, with the same content"
    print_result(
        result,
        f"{args.out}: {done}\n{args.titles} of the best {args.top} titles stored as served titles of rows "
        f"whose next title is among the {args.top}: {rows}\n"
        f"next: python -m jaxrec.train --config C --config.data.directory={args.out} with a "
        "sampling.mix whose served is above 0",
    )


if __name__ == "__main__":
    run(main, json_flag, _flags)
