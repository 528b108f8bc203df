"""Prepare the dataset of a config from its source, or check raw files.

Usage: python -m jaxrec.prepare --config C [--out DIR] [--runner beam]
       python -m jaxrec.prepare --check --interactions LOG [--titles T] [--users U] [--write-config my.py]
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from jaxrec.cli.app import print_result, require_value, run
from jaxrec.cli.flags import config_arguments, config_flag, json_flag, verify_flag
from jaxrec.config.python_text import python_text
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory, to_json
from jaxrec.config.validation import at, check
from jaxrec.core.errors import InputError
from jaxrec.core.ids import SPLITS
from jaxrec.core.paths import as_path
from jaxrec.data.runners.run import RUNNERS, ensure_dataset
from jaxrec.data.storage.audit import log_verified
from jaxrec.data.storage.dataset import MANIFEST, read_manifest
from jaxrec.reporting.check_report import format_check
from jaxrec.reporting.progress import stage_progress

_TABLES = ("interactions", "titles", "users")


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
    flags.DEFINE_boolean("check", False, "read the source and print what it holds; prepare nothing")
    flags.DEFINE_string("interactions", "", "with --check in place of --config: the log, as raw files")
    flags.DEFINE_string("titles", "", "with --interactions: titles table")
    flags.DEFINE_string("users", "", "with --interactions: users table")
    flags.DEFINE_string(
        "write_config", "", "with --check: new config file (.py) with the proposals, ready to train"
    )


def table(manifest: dict) -> str:
    """Format the counts of a manifest: users, examples and dropped rows."""
    rows, splits = manifest["rows"], manifest["splits"]
    lines = [f"{'split':<12}{'users':>12}{'examples':>12}"]
    lines += [f"{s:<12}{splits[s]['users']:>12,}{splits[s]['examples']:>12,}" for s in SPLITS]
    lines += [f"rows read {rows['read']:,}; duplicates {rows['copies']:,}; titles {manifest['titles']:,}"]
    lines += [f"rows dropped: {reason} {count:,}" for reason, count in rows["dropped"].items()]
    for name, signal in manifest.get("signals", {}).items():
        lines += [
            f"signal {name}: events read {signal['read']:,}; duplicates {signal['copies']:,}; "
            f"kept {signal['kept']:,}"
        ]
        lines += [f"  dropped: {reason} {count:,}" for reason, count in signal["dropped"].items()]
    for name, label in manifest.get("labels", {}).items():
        known = f"known for {label['known']:.1%} of {label['entries']:,} training targets"
        lines.append(f"label {name}: {known}" + (f", mean {label['mean']:.4g}" if label["known"] else ""))
    if "hard_fill_rate" in manifest:
        lines += [f"filled fraction of the pool of hard negatives {manifest['hard_fill_rate']:.1%}"]
    lines += [f"note: {note}" for note in manifest.get("notes", ())]
    return "\n".join([*lines, f"fingerprint {manifest['fingerprint']}"])


def main(args: flags.FlagValues) -> None:
    """Prepare the dataset unless it exists, and print its counts; or check raw files.

    Raises:
        InputError: A flag or the input is invalid.
    """
    if "config" not in args:
        require_value("--interactions", args.interactions, "a file, a folder or a glob; or give --config")
    if args.check:
        return _check(args)
    if "config" not in args:
        raise InputError("--interactions is allowed with --check only; without it give --config")
    for name in (*_TABLES, "write_config"):
        if getattr(args, name):
            raise InputError(
                f"--{name}={getattr(args, name)}: allowed with --check only; a config names its tables"
            )
    directory = args.out or dataset_directory(args.config)
    ensure_dataset(args.config, directory, args.runner, args.beam_args, stage_progress)
    manifest = read_manifest(as_path(directory) / MANIFEST)
    if args.verify:
        log_verified(directory)
    following = f"next: python -m jaxrec.train {config_arguments()}"
    if args.out:
        following += f" --config.data.directory={args.out}"
    print_result({"directory": directory, **manifest}, f"{directory}\n{table(manifest)}\n{following}")


def _check(args: flags.FlagValues) -> None:
    """Print what raw files or the source of a config hold, and write a config.

    Raises:
        InputError: A flag or the input is invalid, or the config file exists.
    """
    _check_flags(args)
    # Imported here, so that --help and wrong flags do not wait for polars.
    from jaxrec.data.runners.settings import fit_settings
    from jaxrec.data.runners.statistics import log_statistics
    from jaxrec.sources import open_source

    name = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(args.write_config).stem).strip("._-") or "own_data"
    report: dict[str, Any] = {}
    if args.interactions:
        from jaxrec.sources.proposals.propose import propose

        config, reasons, report["tables"], report["left_out"] = propose(
            args.interactions, args.titles, args.users, name
        )
        report["reasons"] = {
            key: {"value": _shown(config, key), "reason": why} for key, why in reasons.items()
        }
    else:
        config, reasons = args.config, {}
    source = open_source(config.source, config.stored_features, config.data.path, config.signals)
    statistics = log_statistics(source, config)
    config, settings = fit_settings(config, statistics)
    check(config)
    report |= {
        "statistics": statistics.to_json(),
        "proposed": {key: {"value": at(config, key), "reason": why} for key, why in settings.items()},
        "config": to_json(config),
        "written": args.write_config,
        "next": f"python -m jaxrec.train --config {args.write_config}"
        if args.write_config
        else "the same command with --write-config my_service.py writes a config to train",
    }
    if args.write_config:
        title = f"Config of {name}, proposed by `prepare --check`.\n\n{report['next']}\n"
        Path(args.write_config).write_text(python_text(config, reasons | settings, title))
    print_result(report, format_check(report))


def _shown(config: Config, key: str) -> Any:
    """Return the value of a dotted key for a report; of a feature, its name, kind and place."""
    index = re.fullmatch(r"features\[(\d+)\]", key)
    if index:
        feature = config.features[int(index[1])]
        return f"{feature.name} ({feature.kind}, {feature.where})"
    return at(config, key)


def _check_flags(args: flags.FlagValues) -> None:
    """Raise InputError for flags of --check that exclude one another, or a config file that exists."""
    if args.interactions and "config" in args:
        raise InputError(
            f"--interactions={args.interactions}: must be empty with --config, which names the log"
        )
    for name in ("titles", "users"):
        if getattr(args, name) and not args.interactions:
            raise InputError(f"--{name}={getattr(args, name)}: allowed with --interactions only")
    if args.interactions and args.out:
        raise InputError(f"--out={args.out}: must be empty with --check, which prepares nothing")
    path = Path(args.write_config)
    if not args.write_config:
        return
    if path.suffix != ".py":
        raise InputError(f"--write_config={path}: allowed: a file name that ends with .py")
    if path.exists():
        raise InputError(f"--write_config={path}: the file exists; allowed: a new file")
    if not path.parent.is_dir():
        raise InputError(f"--write_config={path}: the folder {path.parent} does not exist")


if __name__ == "__main__":
    run(main, partial(config_flag, replaced_by="interactions"), json_flag, verify_flag, _flags)
