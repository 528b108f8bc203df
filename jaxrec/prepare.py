"""Prepare the dataset of a config from its source.

Usage: python -m jaxrec.prepare --config C [--out DIR] [--runner beam]
"""

import json

from absl import flags

from jaxrec.cli.app import print_result, run
from jaxrec.cli.flags import config_flag, json_flag
from jaxrec.config.serialization import dataset_directory
from jaxrec.core.ids import SPLITS
from jaxrec.core.paths import as_path
from jaxrec.data.runners.run import RUNNERS, ensure_dataset
from jaxrec.data.storage.dataset import MANIFEST
from jaxrec.reporting.progress import stage_progress


def _flags() -> None:
    flags.DEFINE_string("out", "", "directory of the dataset; empty: the directory of the config")
    flags.DEFINE_enum(
        "runner",
        RUNNERS[0],
        RUNNERS,
        "threads: threads of this machine; beam: Apache Beam, for data too large for one machine; the "
        "dataset is the same",
    )
    flags.DEFINE_string(
        "beam_args",
        "",
        "Beam flags in one argument, such as --beam_args='--runner=DataflowRunner --project=P --region=R "
        "--temp_location=gs://B/tmp'; --beam_args=--help lists them; empty: the local direct runner",
    )


def table(manifest: dict) -> str:
    """Format the counts of a manifest: users, examples and dropped rows."""
    rows, splits = manifest["rows"], manifest["splits"]
    lines = [f"{'split':<12}{'users':>12}{'examples':>12}"]
    lines += [f"{s:<12}{splits[s]['users']:>12,}{splits[s]['examples']:>12,}" for s in SPLITS]
    lines += [f"rows read {rows['read']:,}; duplicates {rows['copies']:,}; titles {manifest['titles']:,}"]
    lines += [f"rows dropped: {reason} {count:,}" for reason, count in rows["dropped"].items()]
    if "hard_fill_rate" in manifest:
        lines += [f"filled fraction of the pool of hard negatives {manifest['hard_fill_rate']:.1%}"]
    return "\n".join([*lines, f"fingerprint {manifest['fingerprint']}"])


def main(args: flags.FlagValues) -> None:
    """Prepare the dataset unless it exists, and print its counts.

    Raises:
        InputError: A flag or the input is invalid.
    """
    directory = args.out or dataset_directory(args.config)
    ensure_dataset(args.config, directory, args.runner, args.beam_args, stage_progress)
    manifest = json.loads((as_path(directory) / MANIFEST).read_bytes())
    print_result({"directory": directory, **manifest}, f"{directory}\n{table(manifest)}")


if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
