"""Preparation on Apache Beam: `runners/stages.py` as a pipeline.

Beam is for logs that are too large for one machine.

A worker holds the titles and one partition of users, or the rows of one shard; one worker holds the users
table. The driver holds no rows: at the end it reads the catalogue, and keys and seen titles of the held-out
users, from the dataset's partial directory, which the driver and all workers must share.
"""

import contextlib
import logging
import os
import pickle
import re
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
from jaxrec.core.errors import InputError, RunError
from jaxrec.core.tables import Source
from jaxrec.data.increments.earlier import read_earlier
from jaxrec.data.runners import messages, stages
from jaxrec.data.runners.manifest import manifest
from jaxrec.data.signals import stages as signal_stages
from jaxrec.data.storage.source_files import describe
from jaxrec.data.storage.writer import DatasetWriter

_WORKER_LOG = logging.getLogger("apache_beam.runners.common")
_SIGNALS = (SystemExit, KeyboardInterrupt)
_INPUT_ERROR, _DEFECT, _RESULT = "wrong.txt", "defect.txt", "found.pickle"
# Beam's direct runner. Under the name DirectRunner, Beam would first look for a Go program.
_DIRECT_RUNNER = "FnApiRunner"
_DIRECT_RUNNERS = (_DIRECT_RUNNER, "DirectRunner")


def prepare(source: Source, config: Config, directory: str, flags: str = "") -> None:
    """Prepare the dataset of `source` in `directory`, on Beam.

    The bytes written are those of `local.prepare`.

    Args:
        source: Source to read.
        config: Config of the dataset.
        directory: Directory that the driver and all workers share.
        flags: Flags of Beam, as a command line.

    Raises:
        InputError: The input is invalid; no file remains.
    """
    options = parse_options(flags)
    with DatasetWriter(directory) as writer:
        partial = writer.partial.resolve()  # workers may have another working directory
        try:
            pipeline = beam.Pipeline(options=options)
        except ValueError as error:  # raised by Beam for incompatible options
            raise InputError(f"--beam_args: {error}") from error
        _build(pipeline, source, config, str(partial))
        _run(pipeline, partial)
        arrays, users, evaluation, result = pickle.loads((partial / _RESULT).read_bytes())
        (partial / _RESULT).unlink()
        described = manifest(config, result, describe(source.files()))
        writer.finish(arrays, users, described, evaluation, audited=config.data.verify)


def parse_options(flags: str) -> PipelineOptions:
    """Parse a command line of Beam's flags.

    A flag that Beam does not define may belong to the runner. With Beam's direct runner, such a flag is an
    error.

    Raises:
        InputError: A value is invalid, or a word is not a flag.
    """

    def fail(message: str) -> Any:
        raise InputError(f"--beam_args={flags!r}: {message}")

    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise InputError(f"--beam_args={flags!r}: {error}") from error
    options = PipelineOptions([w for w in words if w not in ("-h", "--help")])
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or _DIRECT_RUNNER

    def check_words(parser: Any) -> None:
        parser.error = fail  # argparse would print all flags and exit
        unknown = parser.parse_known_args(words)[1]
        for previous, word in zip(["", *unknown], unknown, strict=False):
            value = previous.startswith("--") and "=" not in previous
            if standard.runner in _DIRECT_RUNNERS or not (word.startswith("--") or value):
                fail(f"{word!r} is not a flag of Beam; --beam_args=--help lists the allowed flags")

    options.get_all_options(add_extra_args_fn=check_words, retain_unknown_options=True)
    try:
        create_runner(standard.runner)
    except (ValueError, RuntimeError, ImportError, AttributeError) as error:
        fail(f"--runner={standard.runner}: {error}")
    return options


class _Step(beam.DoFn):
    """DoFn of a stage, which also writes the message of its error to a file.

    The driver reads the file, because runners do not preserve exceptions.
    """

    def __init__(self, step: Callable[..., Iterator[stages.Output]], directory: str) -> None:
        self._step, self._directory = step, directory

    def process(self, element: Any, *rest: Any) -> Any:
        try:
            for name, value in self._step(element, *rest):
                yield TaggedOutput(name, value)
        except InputError as error:
            _write_atomically(Path(self._directory) / _INPUT_ERROR, str(error).encode())
            raise
        except Exception as error:
            _write_atomically(Path(self._directory) / _DEFECT, repr(error).encode())
            raise


class _Sum(beam.CombineFn):
    """Sum of values that have a method `add`, which modifies the accumulators only."""

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


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically, safely for concurrent writers."""
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    scratch.write_bytes(data)
    os.replace(scratch, path)


def _save_result(result: tuple, directory: str) -> Iterator[stages.Output]:
    _write_atomically(Path(directory) / _RESULT, pickle.dumps(result))
    yield "kept", None


def _build(pipeline: beam.Pipeline, source: Source, config: Config, directory: str) -> None:
    """Build the graph of stages.

    Global results are side inputs, for which a stage waits.
    """

    def step(name: str, inputs: Any, function: Callable[..., Iterator[stages.Output]], *rest: Any) -> Any:
        return inputs | name >> beam.ParDo(_Step(function, directory), *rest).with_outputs()

    def total(name: str, inputs: Any, kind: Callable[[], Any]) -> Any:
        return inputs | name >> beam.CombineGlobally(_Sum(kind))

    source_once = pipeline | "source" >> beam.Create([source])
    earlier = read_earlier(config)  # here, for workers may have another working directory
    opened = step("open titles", source_once, stages.open_titles, config, earlier)
    titles = AsSingleton(opened.titles)
    parts = list(enumerate(source.parts()))
    shuffled_parts = pipeline | "parts" >> beam.Create(parts) | "reshuffle" >> beam.Reshuffle()
    reading = step("read", shuffled_parts, stages.read, titles, config)
    signal_parts = list(enumerate(source.signal_parts())) if config.signals else []
    shuffled_signals = (
        pipeline | "signal parts" >> beam.Create(signal_parts) | "reshuffle signals" >> beam.Reshuffle()
    )
    signals = step("read signals", shuffled_signals, signal_stages.read_signals, titles, config)
    tallies = (reading.tallies, signals.tallies) | "all tallies" >> beam.Flatten()
    tally = total("add tallies", tallies, messages.Tally)
    counts = len(parts), config, len(signal_parts), earlier
    combined = step("combine tallies", tally, stages.combine_tallies, *counts)
    stats = AsSingleton(combined.stats)
    users = step("distribute users", source_once, stages.distribute_users, titles, stats, config)
    shares = step("route", reading.chunks, stages.route, stats).shares
    routed = step("route signals", signals.signal_chunks, signal_stages.route_signals, stats)
    grouped = {"shares": shares, "users": users.users, "signal_shares": routed.signal_shares}
    by_partition = grouped | "group by partition" >> beam.CoGroupByKey()
    sorting = step("sort", by_partition, stages.sort, titles, stats, config)

    plays = total("add plays", sorting.plays, messages.PlayCounts)
    features, columns = AsSingleton(opened.features), AsSingleton(users.columns)
    ranking = step("rank", plays, stages.rank, titles, features, stats, columns, config)
    ranked = AsSingleton(ranking.ranked)
    building = step("build", sorting.sorted, stages.build, titles, stats, ranked, config)

    sizes = total("add sizes", building.sizes, messages.ByPartition)
    offsets = AsSingleton(step("offsets", sizes, stages.offsets, stats, config).offsets)
    shard_rows = step("assign shards", building.rows, stages.assign_shards, offsets).shard_rows
    shards = shard_rows | "group by shard" >> beam.GroupByKey()
    sums = total("add sums", step("write", shards, stages.write, directory).sums, messages.RowSums)

    catalogue = AsSingleton(ranking.catalogue)
    keys = AsSingleton(total("add keys", building.keys, messages.ByPartition))
    seen = AsSingleton(total("add seen titles", building.seen, messages.ByPartition))
    results = step("finish", sums, stages.finish, titles, stats, ranked, catalogue, offsets, keys, seen)
    step("save result", results.result, _save_result, directory)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return False for invalid input and signals, which `_run` raises again.

    Beam would log both with a traceback.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], (InputError, *_SIGNALS)))


def _is_one_line(record: logging.LogRecord) -> bool:
    """Return False for a traceback among the messages of a job, which Beam logs and raises too."""
    return record.module != "portable_runner" or "Traceback" not in record.getMessage()


def _name_error(text: str) -> str:
    """Return the line that names the error in the message of a failed job, which may hold a traceback."""
    lines = text.splitlines() or [""]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines[:1])[-1].strip()[:300]


def _wait(job: Any, directory: Path) -> str:
    """Wait for the end of a job; return its state.

    Raises:
        RunError: The job failed, and none of its stages did: the engine lost a worker, for example.
    """
    try:
        return job.wait_until_finish()
    except _SIGNALS:
        job.cancel()  # otherwise a cluster would continue the job
        raise
    except RuntimeError as error:  # of Beam's portable runner
        if any((directory / name).exists() for name in (_INPUT_ERROR, _DEFECT)):
            raise
        raise RunError(
            f"the Beam job failed, and none of its stages did: {_name_error(str(error))}; no dataset was "
            "written. If a worker was lost, start the command again; the log of the job server has more"
        ) from error


def _run(pipeline: beam.Pipeline, directory: Path) -> None:
    """Run the pipeline, with the errors and signals of a single process.

    A worker's InputError, or the signal that stopped the job, is raised again.
    """
    _WORKER_LOG.addFilter(_is_unexpected)
    logging.getLogger().addFilter(_is_one_line)
    try:
        state = _wait(pipeline.run(), directory)
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None:  # Beam wraps a signal raised during a step in this process
            if isinstance(inner, _SIGNALS):
                raise inner from None
            inner = inner.__cause__ or inner.__context__
        with contextlib.suppress(FileNotFoundError):
            raise InputError((directory / _INPUT_ERROR).read_text()) from error
        raise
    finally:
        _WORKER_LOG.removeFilter(_is_unexpected)
        logging.getLogger().removeFilter(_is_one_line)
    if state != PipelineState.DONE:
        raise RuntimeError(f"the Beam job ended as {state}")
