"""Export a checkpoint to a folder that jax and NumPy alone can serve.

Usage: python -m jaxrec.export --checkpoint W --out DIR
"""

import time

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag
from jaxrec.core.json_io import plain
from jaxrec.core.paths import as_path


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a training run", required=True)
    flags.DEFINE_string("out", None, "folder to write; an export that is there is replaced", required=True)
    flags.DEFINE_list("platforms", ["cpu", "cuda"], "platforms of the programs: cpu, cuda, rocm, tpu")
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")
    flags.DEFINE_integer("max_k", 1000, "most titles of a list", lower_bound=1)
    flags.DEFINE_string(
        "titles", "", "titles in the columns of the config's titles table, CSV or Parquet: a file, a folder "
        "or a glob; titles launched since the training are served from their features",
    )  # fmt: skip


def main(args: flags.FlagValues) -> None:
    """Export the checkpoint and print the files."""
    started = time.perf_counter()
    from jaxrec.runtime import compilation_cache
    from jaxrec.serving.export import export

    compilation_cache.enable()
    manifest = export(
        as_path(args.checkpoint), args.out, args.which, tuple(args.platforms), args.max_k, args.titles or None
    )
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    result = {
        "checkpoint": args.checkpoint,
        "out": args.out,
        "step": manifest["step"],
        "platforms": manifest["platforms"],
        "programs": sorted(manifest["programs"]),
        "titles": manifest["counts"]["titles"],
        "parameters": manifest["counts"]["parameters"],
        "bytes": size,
        "readable_until": manifest["readable_until"],
        "seconds": time.perf_counter() - started,
    }
    table = (
        f"step {result['step']}: {result['titles']:,} titles, {result['parameters']:,} parameters\n"
        f"programs {', '.join(result['programs'])} for {', '.join(result['platforms'])}\n"
        f"jax reads them until {result['readable_until'][:10]}; then run this command again\n"
        f"{size / 1e6:.1f} MB written to {args.out}\n"
        f"next: python -m jaxrec.serve --export {args.out}"
    )
    print_result(plain(result), table)


if __name__ == "__main__":
    run(main, json_flag, _flags)
