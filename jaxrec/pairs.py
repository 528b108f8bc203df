"""Draw pairs of titles from a policy, of which reward models prefer one, for DPO and IPO.

Usage: python -m jaxrec.pairs --checkpoint P --rewards R --config C --out D
"""

import time

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import config_flag, json_flag


def _flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of the run whose policy draws titles", required=True)
    flags.DEFINE_string("rewards", None, "workdir of the run whose reward models prefer", required=True)
    flags.DEFINE_string(
        "out", None, "folder of the dataset with pairs, which must not exist, or hold the same content",
        required=True,
    )  # fmt: skip


def main(args: flags.FlagValues) -> None:
    """Write the pairs, and print their number.

    Raises:
        InputError: A run has no policy or no reward models of the dataset's titles, no pair is kept, or the
            folder holds something else.
    """
    started = time.perf_counter()
    from jaxrec.analysis.rewritten.preference_pairs import write_pairs
    from jaxrec.runtime import compilation_cache, host_memory

    compilation_cache.enable()
    host_memory.retain_freed_memory()
    manifest, written = write_pairs(args.checkpoint, args.rewards, args.config, args.out)
    states, pairs = manifest["pairs"]["states"], manifest["pairs"]["pairs"]
    result = {
        "checkpoint": args.checkpoint,
        "rewards": args.rewards,
        "out": args.out,
        "written": written,
        "fingerprint": manifest["fingerprint"],
        "states": states,
        "pairs": pairs,
        "seconds": time.perf_counter() - started,
    }
    done = "written" if written else "was there, with the same content"
    print_result(result, f"{args.out}: {done}\n{pairs:,} pairs at {states:,} states ({pairs / states:.1%})")


if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
