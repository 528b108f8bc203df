"""Stabilise a checkpoint: the same scores, with vectors like those of an earlier run.

Usage: python -m jaxrec.stabilise W --like W0 --out W1
"""

from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag


def _flags() -> None:
    flags.DEFINE_string(
        "like", None, "workdir of the earlier run, one that this command wrote or any other with the same "
        "width of vectors", required=True,
    )  # fmt: skip
    flags.DEFINE_string("out", None, "workdir to write, new or empty", required=True)
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")


def table(result: dict[str, Any]) -> str:
    """Format the cosines and the R^2 of the probe by head."""
    lines = []
    for head, of_head in result["heads"].items():
        lines.append(
            f"{head}: {of_head['common']:,} common titles, {of_head['rank']} singular values, scores kept to "
            f"{of_head['score_error']:.1e}"
        )
        lines.append(f"  {'vectors':<12}{'cosine':>8}{'R2 plays':>10}{'R2 categories':>15}")
        for name, r2 in of_head["probe"].items():
            cosine = of_head["cosine"].get(name, 1.0)
            features = "" if r2["features"] is None else f"{r2['features']:>15.3f}"
            lines.append(f"  {name:<12}{cosine:>8.3f}{r2['plays']:>10.3f}{features}")
    return "\n".join([*lines, f"written to {result['out']}"])


def main(args: flags.FlagValues, workdir: str) -> None:
    """Write the stabilised workdir, and print how near its vectors are.

    Raises:
        InputError: A model has no dot product, the runs do not fit, or the folder is not empty.
    """
    from jaxrec.analysis.derived.stabilising import stabilise
    from jaxrec.runtime import compilation_cache, host_memory

    compilation_cache.enable()
    host_memory.retain_freed_memory()
    result = stabilise(workdir, args.like, args.out, args.which)
    print_result(result, table(result))


if __name__ == "__main__":
    run(main, json_flag, _flags, positional=("W",))
