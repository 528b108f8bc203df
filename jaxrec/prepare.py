"""python -m jaxrec.prepare --config C [--out DIR] [--runner beam]: a config's source to a dataset."""

import contextlib
import json
import logging as python_logging
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
from jaxrec.paths import AnyPath, as_path, scheme_of
from jaxrec.schema import SPLITS, Source
from jaxrec.sources import open_source

RUNNERS = ("threads", "beam")


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


def ensure(config: Config, directory: str | AnyPath, runner: str = RUNNERS[0], beam_args: str = "") -> None:
    """Prepares the dataset unless it is there. Raises InputError where another one is."""
    if beam_args and runner != "beam":
        raise InputError(f"--beam_args={beam_args!r}: must be empty unless --runner is beam")
    if runner == "beam" and scheme_of(str(directory)):
        allowed = "a folder that all workers share; it can be copied to a bucket once it is whole"
        raise InputError(f"dataset {directory}: allowed with --runner=beam: {allowed}")
    manifest = as_path(directory) / MANIFEST
    if not manifest.exists():
        logging.info("preparing %s", directory)
        if runner == "beam":
            prepare_on_beam = _beam()
            source = open_source(config.source, config.features, config.data.path)
            return prepare_on_beam(source, config, str(directory), beam_args)
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


def _beam() -> Callable[[Source, Config, str, str], None]:
    def expected(record: python_logging.LogRecord) -> bool:
        return not record.getMessage().startswith("apitools not found")  # of BigQuery, which nothing asks for

    python_logging.getLogger().addFilter(expected)
    try:
        from jaxrec.data import beam
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("apache_beam"):
            raise
        raise InputError(
            "--runner=beam: apache_beam is not installed; it comes with the extra: pip install jaxrec[beam]"
        ) from error
    finally:
        python_logging.getLogger().removeFilter(expected)
    return beam.prepare


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
    ensure(found.config, directory, found.runner, found.beam_args)
    manifest = json.loads((as_path(directory) / MANIFEST).read_bytes())
    print_result({"directory": directory, **manifest}, f"{directory}\n{table(manifest)}")


if __name__ == "__main__":
    run(main, config_flag, json_flag, _flags)
