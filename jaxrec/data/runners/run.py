"""Preparation of a config's dataset: opens the source and picks the runner."""

import contextlib
import logging as python_logging
from collections.abc import Callable

from absl import logging

from jaxrec.config.rules.declared.labels import check_rules
from jaxrec.config.schema import Config
from jaxrec.config.serialization import dataset_directory, digest
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.core.paths import AnyPath, as_path, scheme_of
from jaxrec.core.tables import Source
from jaxrec.data.runners.local import Progress, prepare
from jaxrec.data.runners.manifest import CONTINUES
from jaxrec.data.storage.dataset import MANIFEST, Dataset, read_manifest
from jaxrec.data.storage.source_files import differences
from jaxrec.runtime.locks import exclusive
from jaxrec.sources import open_source

RUNNERS = ("threads", "beam")
_REWRITTEN = ("filled", "pairs", "retrieved")  # entries of a manifest that name the dataset before


def _no_progress() -> contextlib.AbstractContextManager[Progress]:
    return contextlib.nullcontext(lambda *_: None)


def ensure_dataset(
    config: Config,
    directory: str | AnyPath,
    runner: str = RUNNERS[0],
    beam_args: str = "",
    progress: Callable[[], contextlib.AbstractContextManager[Progress]] = _no_progress,
) -> None:
    """Prepare the dataset of `config` unless `directory` already contains it.

    If another process prepares it, wait and use it.

    Args:
        config: Config of the dataset.
        directory: Local directory or bucket URL.
        runner: "threads" (this machine) or "beam" (Apache Beam); the bytes written are the same.
        beam_args: Flags of Beam in one string; for `runner="beam"` only.
        progress: Returns a context manager whose value is called as `report(stage, done, total)`.

    Raises:
        InputError: The input is invalid, or `directory` contains a dataset of other source, features or data
            settings.
    """
    if beam_args and runner != "beam":
        raise InputError(f"--beam_args={beam_args!r}: must be empty unless --runner is beam")
    if runner == "beam" and scheme_of(str(directory)):
        allowed = "a folder that all workers share; copy the finished dataset to a bucket"
        raise InputError(f"dataset {directory}: allowed with --runner=beam: {allowed}")
    folder = as_path(directory)
    manifest = folder / MANIFEST
    if not manifest.exists():
        with exclusive(folder.parent / f".{folder.name}.lock", f"dataset {directory}", wait=True):
            if not manifest.exists():  # else another process prepared it
                _prepare(config, directory, runner, beam_args, progress)
                for note in read_manifest(manifest)["notes"]:
                    logging.warning("note on %s: %s", directory, note)
                return
    kept = read_manifest(manifest)
    digests = {kept["digest"], *(kept[key]["digest"] for key in _REWRITTEN if key in kept)}
    if digest(config) not in digests:
        raise InputError(
            f"dataset {directory}: was prepared with other source, features, signals, labels or data "
            "settings; allowed: the same settings, or another data.directory"
        )
    _check_earlier(config, directory, kept.get(CONTINUES, ""))
    _check_source_files(config, directory, kept.get("source_files", []))


def _prepare(
    config: Config, directory: str | AnyPath, runner: str, beam_args: str,
    progress: Callable[[], contextlib.AbstractContextManager[Progress]],
) -> None:  # fmt: skip
    logging.info("preparing %s", directory)
    check_rules(config.labels)
    if runner == "beam":
        prepare_on_beam = _import_beam()
        source = _open(config)
        return prepare_on_beam(source, config, str(directory), beam_args)
    with progress() as report:
        source = _open(config)
        prepare(source, config, directory, report)


def _open(config: Config) -> Source:
    return open_source(config.source, config.stored_features, config.data.path, config.signals)


def _check_earlier(config: Config, directory: str | AnyPath, fingerprint: str) -> None:
    """Raise InputError if the dataset `data.continues` is another one now; it may be absent."""
    path = as_path(config.data.continues) / MANIFEST if config.data.continues else None
    if path is None or not path.exists():
        return
    now = read_manifest(path)["fingerprint"]
    if now != fingerprint:
        raise InputError(
            f"dataset {directory}: continues a dataset of fingerprint {fingerprint}, but "
            f"data.continues={config.data.continues!r} has {now}; allowed: the same dataset, or none at "
            f"{directory} (remove it to prepare it again)"
        )


def _check_source_files(config: Config, directory: str | AnyPath, described: list[dict]) -> None:
    """Raise InputError if the files of a config's source are not those that a dataset was prepared from.

    Files that are no longer here are not compared: a dataset may be used on another machine.
    """
    if not described:  # a simulator, or a dataset that was prepared before files were recorded
        return
    try:
        files = _open(config).files()
    except InputError as error:
        logging.info("dataset %s: the source's files were not compared: %s", directory, error)
        return
    changed = differences(described, files)
    if changed:
        more = f" and {len(changed) - 1:,} more differences" if len(changed) > 1 else ""
        raise InputError(
            f"dataset {directory}: was prepared from files that have changed: {changed[0]}{more}; allowed: "
            "the same files, another data.directory, or none there (remove it to prepare it again)"
        )


class PreparedDataset(Dataset):
    """A prepared dataset; public as `jaxrec.Dataset`."""

    @classmethod
    def prepare(cls, config: Config, directory: str | AnyPath | None = None) -> "PreparedDataset":
        """Prepare the dataset of a config unless it exists, and open it.

        Args:
            config: Config of the dataset.
            directory: Local directory or bucket URL. None: the directory of the config.

        Raises:
            InputError: The config or the source is invalid, or the directory contains another dataset.
        """
        check(config)
        directory = as_path(directory or dataset_directory(config))
        ensure_dataset(config, directory)
        return cls(directory)


def _import_beam() -> Callable[[Source, Config, str, str], None]:
    """Return `beam.prepare`; raise InputError where Apache Beam is not installed."""

    def expected(record: python_logging.LogRecord) -> bool:
        return not record.getMessage().startswith("apitools not found")  # for BigQuery, which is not used

    python_logging.getLogger().addFilter(expected)
    try:
        from jaxrec.data.runners import beam
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("apache_beam"):
            raise
        raise InputError(
            "--runner=beam: apache_beam is not installed; install it with: pip install jaxrec[beam]"
        ) from error
    finally:
        python_logging.getLogger().removeFilter(expected)
    return beam.prepare
