"""Fill a dataset's unknown labels with the predictions of an offline model.

Usage: python -m jaxrec.fill --checkpoint OFFLINE --data D --out D2
"""

import time

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import json_flag
from jaxrec.core.ids import SPLITS


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a training run with offline=True", required=True)
    flags.DEFINE_string("data", None, "dataset whose unknown labels are predicted", required=True)
    flags.DEFINE_string(
        "out",
        None,
        "folder of the filled dataset, which must not exist, or hold the same content",
        required=True,
    )
    flags.DEFINE_enum("which", None, ["best", "last"], "checkpoint; empty: the value of the config")


def main(args: flags.FlagValues) -> None:
    """Fill the dataset, and print the number of predictions of each label.

    Raises:
        InputError: The run is not offline, its labels, titles or categories are not those of the dataset, or
            the folder holds something else.
    """
    started = time.perf_counter()
    from jaxrec.analysis.rewritten.filling import fill
    from jaxrec.runtime import compilation_cache, host_memory

    compilation_cache.enable()
    host_memory.retain_freed_memory()
    manifest, written = fill(args.checkpoint, args.data, args.out, args.which)
    filled = manifest["filled"]
    result = {
        "checkpoint": args.checkpoint,
        "data": args.data,
        "out": args.out,
        "written": written,
        "fingerprint": manifest["fingerprint"],
        "filled": filled["labels"],
        "seconds": time.perf_counter() - started,
    }
    lines = [f"{args.out}: {'written' if written else 'was there, with the same content'}"]
    for name, counts in filled["labels"].items():
        entry = manifest["labels"][name]
        by_split = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)
        lines.append(
            f"label {name}: {by_split} predictions; of training targets {entry['known']:.1%} are known and "
            f"{entry['filled']:.1%} predicted"
        )
    print_result(result, "\n".join(lines))


if __name__ == "__main__":
    run(main, json_flag, _flags)
