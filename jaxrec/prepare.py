"""python -m jaxrec.prepare --config C [--out DIR]: a config's source to a dataset directory."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator

from absl import flags, logging
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from jaxrec.command import config_flag, json_flag, print_result, run
from jaxrec.config import Config
from jaxrec.config_json import dataset_directory, digest
from jaxrec.data.dataset import prepare
from jaxrec.data.store import MANIFEST
from jaxrec.errors import InputError
from jaxrec.paths import AnyPath, as_path
from jaxrec.schema import SPLITS
from jaxrec.sources import open_source


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar a stage on a terminal, with rate and time left; elsewhere nothing but the stages' names."""
    tasks: dict[str, TaskID] = {}
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
                if bars.disable:
                    print(stage, file=sys.stderr, flush=True)
            bars.update(tasks[stage], completed=done)

        yield report


def ensure(config: Config, directory: str | AnyPath) -> None:
    """Prepares the dataset unless it is there. Raises InputError where another one is."""
    manifest = as_path(directory) / MANIFEST
    if not manifest.exists():
        logging.info("preparing %s", directory)
        with _progress() as progress:
            source = open_source(config.source, config.features, config.data.path)
            prepare(source, config, directory, progress)
        return
    kept = json.loads(manifest.read_bytes())["digest"]
    if kept != digest(config):
        raise InputError(
            f"dataset {directory}: was prepared with other source, features or data settings than these; "
            "allowed: the same ones, or another data.directory"
        )


def _out_flag() -> None:
    flags.DEFINE_string("out", "", "where the dataset goes; empty: where the config says")


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
    ensure(found.config, directory)
    manifest = json.loads((as_path(directory) / MANIFEST).read_bytes())
    print_result({"directory": directory, **manifest}, f"{directory}\n{table(manifest)}")


if __name__ == "__main__":
    run(main, config_flag, json_flag, _out_flag)
