"""Describe what a config learns from: signals, labels, rewards, tasks, features and leaks.

Usage: python -m jaxrec.describe --config C [--data D]
"""

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import config_flag, json_flag
from jaxrec.config.serialization import dataset_directory


def _flags() -> None:
    flags.DEFINE_string(
        "data", "", "directory of the dataset, which is prepared if it is missing; empty: that of the config"
    )


def main(args: flags.FlagValues) -> None:
    """Prepare the dataset unless it exists, and print the description.

    Raises:
        InputError: The source is invalid, or the directory contains another dataset.
    """
    # Imported here, so that --help and wrong flags do not wait for polars.
    from jaxrec.analysis.description import describe
    from jaxrec.data.runners.run import ensure_dataset
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.reporting.description_report import format_description
    from jaxrec.reporting.progress import stage_progress

    config = args.config
    directory = args.data or dataset_directory(config)
    ensure_dataset(config, directory, progress=stage_progress)
    description = describe(config, Dataset(directory, config.data.verify))
    print_result(description, format_description(description))


if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
