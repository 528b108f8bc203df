"""Preparation on Apache Beam, where one machine is too small: the steps of `data/spread.py` as a pipeline.

A worker holds the titles and one partition of users, or the rows of one shard; one of them the users'
table. The driver holds no row: once all is done it reads the catalogue and the held-out users' keys from
the dataset's partial directory, which it and the workers must all see.
"""

import contextlib
import logging
import os
import pickle
import shlex
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.runners.runner import PipelineState, create_runner

from jaxrec.config.schema import Config
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Source
from jaxrec.data.runners import messages, stages
from jaxrec.data.runners.manifest import manifest
from jaxrec.data.storage.writer import DatasetWriter

_WORKER_LOG = logging.getLogger("apache_beam.runners.common")
_SIGNALS = (SystemExit, KeyboardInterrupt)
_WRONG, _FOUND = "wrong.txt", "found.pickle"
_LOCAL = "FnApiRunner"  # Beam's direct runner; by the name DirectRunner it would first look for a Go program
_HERE = (_LOCAL, "DirectRunner")


def prepare(source: Source, config: Config, directory: str, flags: str = "") -> None:
    """Writes the dataset of `source` to `directory`, as `dataset.prepare` does. `flags` are Beam's own.

    Raises InputError, leaving nothing behind, on bad input.
    """
    options = options_of(flags)
    with DatasetWriter(directory) as writer:
        partial = writer.partial.resolve()  # workers may run elsewhere
        try:
            pipeline = beam.Pipeline(options=options)
        except ValueError as error:  # of Beam: options that do not go together
            raise InputError(f"--beam_args: {error}") from error
        _build(pipeline, source, config, str(partial))
        _run(pipeline, partial)
        arrays, users, found = pickle.loads((partial / _FOUND).read_bytes())
        (partial / _FOUND).unlink()
        writer.finish(arrays, users, manifest(config, found))


def options_of(flags: str) -> PipelineOptions:
    """Beam's options of a command line.

    Raises InputError for a wrong value, and for words that are no flag. A flag that Beam does not know may
    be one of its runner's; where Beam itself runs, nothing else could know it.
    """

    def wrong(message: str) -> Any:
        raise InputError(f"--beam_args={flags!r}: {message}")

    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise InputError(f"--beam_args={flags!r}: {error}") from error
    options = PipelineOptions([w for w in words if w not in ("-h", "--help")])
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or _LOCAL

    def judge(parser: Any) -> None:
        parser.error = wrong  # argparse's own prints every flag there is, and exits
        unknown = parser.parse_known_args(words)[1]
        for before, word in zip(["", *unknown], unknown, strict=False):
            value = before.startswith("--") and "=" not in before
            if standard.runner in _HERE or not (word.startswith("--") or value):
                wrong(f"{word!r} is no flag of Beam's; --beam_args=--help lists those that exist")

    options.get_all_options(add_extra_args_fn=judge, retain_unknown_options=True)
    try:
        create_runner(standard.runner)
    except (ValueError, RuntimeError, ImportError, AttributeError) as error:
        wrong(f"--runner={standard.runner}: {error}")
    return options


class _Step(beam.DoFn):
    """A step of `spread`. What it says is wrong is left for the driver, whatever becomes of exceptions."""

    def __init__(self, step: Callable[..., Iterator[stages.Output]], directory: str) -> None:
        self._step, self._directory = step, directory

    def process(self, element: Any, *rest: Any) -> Any:
        try:
            for name, value in self._step(element, *rest):
                yield TaggedOutput(name, value)
        except InputError as error:
            _write(Path(self._directory) / _WRONG, str(error).encode())
            raise


class _Sum(beam.CombineFn):
    """Adds up what has `add`, which the sums alone may be changed by."""

    def __init__(self, kind: Callable[[], Any]) -> None:
        self._kind = kind

    def create_accumulator(self) -> Any:
        return self._kind()

    def add_input(self, total: Any, more: Any) -> Any:
        total.add(more)
        return total

    def merge_accumulators(self, totals: Any) -> Any:
        out = self._kind()
        for total in totals:
            out.add(total)
        return out

    def extract_output(self, total: Any) -> Any:
        return total


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, though several be at it."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    beside.write_bytes(data)
    os.replace(beside, path)


def _keep(found: tuple, directory: str) -> Iterator[stages.Output]:
    _write(Path(directory) / _FOUND, pickle.dumps(found))
    yield "kept", None


def _build(pipeline: beam.Pipeline, source: Source, config: Config, directory: str) -> None:
    """The graph. What a step needs of all comes as a side input, so that it waits for it."""

    def step(name: str, of: Any, does: Callable[..., Iterator[stages.Output]], *rest: Any) -> Any:
        return of | name >> beam.ParDo(_Step(does, directory), *rest).with_outputs()

    def total(name: str, of: Any, kind: Callable[[], Any]) -> Any:
        return of | name >> beam.CombineGlobally(_Sum(kind))

    one = pipeline | "one" >> beam.Create([source])
    opened = step("open titles", one, stages.open_titles, config)
    titles = AsSingleton(opened.titles)
    parts = list(enumerate(source.parts()))
    dealt = pipeline | "parts" >> beam.Create(parts) | "deal" >> beam.Reshuffle()
    reading = step("read", dealt, stages.read, titles, config)
    tally = total("add tallies", reading.tallies, messages.Tally)
    settled = AsSingleton(step("settle", tally, stages.settle, len(parts), config).settled)
    users = step("share users", one, stages.share_users, titles, settled, config)
    shares = step("route", reading.chunks, stages.route, settled).shares
    together = {"shares": shares, "users": users.users} | "bring users together" >> beam.CoGroupByKey()
    sorting = step("sort", together, stages.sort, titles, settled, config)

    plays = total("add plays", sorting.plays, messages.PlayCounts)
    features, columns = AsSingleton(opened.features), AsSingleton(users.columns)
    ranking = step("rank", plays, stages.rank, titles, features, settled, columns, config)
    ranked = AsSingleton(ranking.ranked)
    building = step("build", sorting.sorted, stages.build, titles, settled, ranked, config)

    sizes = total("add sizes", building.sizes, messages.ByPartition)
    places = AsSingleton(step("places", sizes, stages.places, settled).places)
    placed = step("place", building.rows, stages.place, places).placed
    shards = placed | "bring shards together" >> beam.GroupByKey()
    sums = total("add sums", step("write", shards, stages.write, directory).sums, messages.RowSums)

    catalogue = AsSingleton(ranking.catalogue)
    keys = AsSingleton(total("add keys", building.keys, messages.ByPartition))
    ends = step("finish", sums, stages.finish, titles, settled, ranked, catalogue, places, keys)
    step("keep", ends.found, _keep, directory)


def _unexpected(record: logging.LogRecord) -> bool:
    """Not wrong input, nor a signal, which Beam logs with a traceback: they are raised once more."""
    return not (record.exc_info and isinstance(record.exc_info[1], (InputError, *_SIGNALS)))


def _run(pipeline: beam.Pipeline, directory: Path) -> None:
    _WORKER_LOG.addFilter(_unexpected)
    try:
        job = pipeline.run()
        try:
            state = job.wait_until_finish()
        except _SIGNALS:
            job.cancel()  # a cluster would go on
            raise
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None:  # Beam makes an error of a signal that comes while a step is run here
            if isinstance(inner, _SIGNALS):
                raise inner from None
            inner = inner.__cause__ or inner.__context__
        with contextlib.suppress(FileNotFoundError):
            raise InputError((directory / _WRONG).read_text()) from error
        raise
    finally:
        _WORKER_LOG.removeFilter(_unexpected)
    if state != PipelineState.DONE:
        raise RuntimeError(f"the Beam job ended as {state}")
