"""python -m jaxrec.prepare --config C [--out DIR] [--runner beam]: a config's source to a dataset."""

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
    flags.DEFINE_string("out", "", "where the dataset goes; empty: where the config says")
    flags.DEFINE_enum(
        "runner",
        RUNNERS[0],
        RUNNERS,
        "who prepares it: threads of this machine; or Apache Beam, the same dataset, where one is too small",
    )
    flags.DEFINE_string(
        "beam_args",
        "",
        "Beam's own flags in one argument, as --beam_args='--runner=DataflowRunner --project=P --region=R "
        "--temp_location=gs://B/tmp'; --beam_args=--help lists them; empty: Beam's direct runner, here",
    )


def table(manifest: dict) -> str:
    """What preparation kept and left out, in a few lines."""
    rows, splits = manifest["rows"], manifest["splits"]
    lines = [f"{'split':<12}{'users':>12}{'examples':>12}"]
    lines += [f"{s:<12}{splits[s]['users']:>12,}{splits[s]['examples']:>12,}" for s in SPLITS]
    lines += [f"rows read {rows['read']:,}; copies {rows['copies']:,}; titles {manifest['titles']:,}"]
    lines += [f"left out: {reason} {count:,}" for reason, count in rows["dropped"].items()]
    if "hard_fill_rate" in manifest:
        lines += [f"share of the hard pool that is filled {manifest['hard_fill_rate']:.1%}"]
    return "\n".join([*lines, f"fingerprint {manifest['fingerprint']}"])


def main(found: flags.FlagValues) -> None:
    directory = found.out or dataset_directory(found.config)
    ensure_dataset(found.config, directory, found.runner, found.beam_args, stage_progress)
    manifest = json.loads((as_path(directory) / MANIFEST).read_bytes())
    print_result({"directory": directory, **manifest}, f"{directory}\n{table(manifest)}")


if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
