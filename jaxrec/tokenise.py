"""Write the codes of a config's titles, by which a generative model writes them.

Usage: python -m jaxrec.tokenise --config C --workdir CODES
"""

import time

from absl import flags

from jaxrec.cli.app import UNUSED_LIBRARIES, hide_libraries, print_result, run
from jaxrec.cli.flags import config_flag, json_flag
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.paths import as_path


def _flags() -> None:
    flags.DEFINE_string("workdir", None, "folder of the codes, for --config.codes.path", required=True)
    flags.DEFINE_string(
        "extends", "", "folder of codes that stay: only titles that it lacks are coded, by the nearest "
        "clusters that are not full",
    )  # fmt: skip


def main(args: flags.FlagValues) -> None:
    """Prepare the dataset if it is missing, code its titles, and print the sizes of clusters and leaves.

    Raises:
        InputError: The config has no codes, or `tokenising.tokenise` raises the error.
    """
    started = time.perf_counter()
    with hide_libraries(*UNUSED_LIBRARIES):
        from jaxrec.analysis.tokenising import check_tokenise, read_earlier, tokenise
        from jaxrec.data.runners.run import ensure_dataset
        from jaxrec.data.storage.dataset import Dataset
        from jaxrec.reporting.progress import stage_progress
        from jaxrec.runtime import compilation_cache

    config = args.config
    check_tokenise(config)
    earlier = read_earlier(config, args.extends) if args.extends else None
    compilation_cache.enable()
    directory = as_path(dataset_directory(config))
    ensure_dataset(config, directory, progress=stage_progress)
    record = tokenise(config, Dataset(directory, config.data.verify), args.workdir, earlier)
    sizes = " ".join(map(str, record["largest_cluster"]))
    distortion = " ".join(f"{x:.4g}" for x in record["distortion"]) or "none"
    print_result(
        record | {"seconds": time.perf_counter() - started},
        f"{args.workdir}: codes {record['fingerprint']} of {record['titles']:,} titles, from "
        f"{record['vectors']}\nlargest cluster of each level: {sizes}; distortion: {distortion}\n"
        f"titles that share a path with an earlier title: {record['collisions']:,}; largest leaf: "
        f"{record['largest_leaf']}\nnext: python -m jaxrec.train with --config.codes.path={args.workdir}",
    )


if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
