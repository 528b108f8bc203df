"""Slates of all segments, stages and regions, from a checkpoint and an events file."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrec.analysis.derived.workdirs import check_new
from jaxrec.analysis.rewritten.rewriting import content_digest
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, SPLITS
from jaxrec.core.paths import AnyPath
from jaxrec.data.events.history_columns import title_rows
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.live_events.segments.assignment import assign, offset_segments
from jaxrec.live_events.segments.rules import USER, Rule
from jaxrec.live_events.segments.training_users import training_queries
from jaxrec.live_events.slates.events import Event, check_titles, read_events
from jaxrec.live_events.slates.folder import DEFAULT, write_slates
from jaxrec.live_events.slates.payloads import RULE, payload
from jaxrec.live_events.slates.streamed import SegmentScorer, UserRanker, rank_titles
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import replicate
from jaxrec.serving.filters import Filters, TitleFilter
from jaxrec.tasks.loading import LoadedCheckpoint, default_checkpoint, load_checkpoint, open_dataset

PROBABILITY, LOG_PROBABILITY = "probability", "log_probability"
ORDERS = (PROBABILITY, LOG_PROBABILITY)
_MOST_PAYLOADS = 2**20


class SlateOptions(NamedTuple):
    """Settings of slates.

    Attributes:
        segments: Rule that divides users into segments.
        titles: Number of titles of a slate.
        spare: Number of titles by which a device replaces those that its user has watched.
        order: Mean that orders the titles of a segment, one of ORDERS.
        licences: Table of the regions of titles, as `Filters.licences`. None: all titles in all regions.
        available: Table of the windows of titles, as `Filters.available`, at the start of an event.
        deny: Titles to leave out, as `Filters.deny`.
    """

    segments: Rule
    titles: int = 40
    spare: int = 20
    order: str = PROBABILITY
    licences: Any = None
    available: Any = None
    deny: Any = ()


class _Model(NamedTuple):
    loaded: LoadedCheckpoint
    dataset: Dataset
    table: Any
    correction: Correction


class _Ranked(NamedTuple):
    """Ranked titles of segments, and the users whose segments are known."""

    names: list[str]
    ids: dict[tuple[str, str], np.ndarray]  # (event, region) -> [S, titles + spare], 0 for none
    users: dict[str, np.ndarray]
    fitted_on: int


def build_slates(
    workdir: AnyPath, events: str, out: str, options: SlateOptions, which: str | None = None,
    data: AnyPath | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the slates of a checkpoint to a folder, and return what was written.

    Args:
        workdir: Workdir of the run.
        events: Events file.
        out: New or empty folder.
        options: Settings.
        which: "best" or "last" checkpoint. None: the value of the config.
        data: Dataset. None: that of the training.

    Raises:
        InputError: The events, the segments, a table or the folder is invalid; or a region has fewer
            eligible titles than a slate.
    """
    started = time.perf_counter()
    folder = check_new("out", out)
    if not isinstance(folder, Path):
        raise InputError(f"--out={out}; allowed: a local folder")
    all_events = read_events(events, options.titles)
    loaded = load_checkpoint(workdir, which or default_checkpoint(workdir))
    check_titles(all_events, events, loaded.arrays.title_key)
    dataset = open_dataset(loaded, data)
    table = replicate(loaded.task.title_table(loaded.arrays))
    correction = load_or_fit_correction(workdir, loaded, table, dataset)
    model = _Model(loaded, dataset, table, correction)
    eligible = _eligible(loaded, all_events, options)
    opened = time.perf_counter()
    rank = _rank_for_users if options.segments.kind == USER else _rank_for_segments
    ranked = rank(model, eligible, options)
    scored = time.perf_counter()
    stages = sum(len(event.stages) for event in all_events) * len({region for _, region in eligible})
    if stages * len(ranked.names) > _MOST_PAYLOADS:
        raise InputError(
            f"--segments={options.segments}: {stages * len(ranked.names):,} slates; allowed: at most "
            f"{_MOST_PAYLOADS:,}, segments times stages times regions"
        )
    written = write_slates(folder, _payloads(ranked, all_events, loaded, options), {
        "model": content_digest(loaded)[:16], "dataset": dataset.fingerprint, "step": loaded.step,
        "titles": options.titles, "spare": options.spare, "order": options.order, "rule": RULE,
        "segments": {"by": str(options.segments), "names": ranked.names},
        "regions": sorted({region for _, region in eligible}),
        "events": [_event_record(event) for event in all_events],
    }, ranked.users)  # fmt: skip
    done = time.perf_counter()
    manifest = written.manifest
    return {
        "out": str(folder), "segments": str(options.segments), "number": len(ranked.names) - 1,
        "events": [event.id for event in all_events], "regions": manifest["regions"],
        "kappa": manifest["kappa"], "bytes": manifest["bytes"], "places": written.places,
        "slates": written.places // options.titles, "training_users": ranked.fitted_on,
        "users": len(ranked.users["user"]), "model": manifest["model"],
        "seconds": {
            "open": opened - started, "segments_and_scores": scored - opened, "slates": done - scored,
            "all": done - started,
        },
    }  # fmt: skip


def _event_record(event: Event) -> dict[str, Any]:
    schedule = {name: moment._asdict() for name, moment in event.schedule.items()}
    return {
        "id": event.id, "title": event.title, "priority": event.priority,
        "schedule": schedule, "regions": list(event.regions), "stages": list(event.stages),
    }  # fmt: skip


def _eligible(
    loaded: LoadedCheckpoint, events: Sequence[Event], options: SlateOptions
) -> dict[tuple[str, str], np.ndarray]:
    """Return the mask [V] of the titles by id that may be on slates, for each event and region.

    Raises:
        InputError: A table is invalid, or a region has too few titles.
    """
    arrays, filters = loaded.arrays, Filters(
        False, False, None, options.deny, options.available, options.licences
    )  # fmt: skip
    rows = title_rows([event.title for event in events], arrays.title_key)
    of_events = rows[rows >= 0] + FIRST_TITLE
    regions = {r for event in events for r in (*event.regions, *(event.recap_regions or ()))}
    out = {}
    for event in events:
        title_filter = TitleFilter(filters, loaded.config, arrays, event.schedule["start"].at)
        for region in sorted(regions | {*title_filter.regions}) or [""]:
            mask = np.zeros(len(arrays.rank_of_id), bool)
            mask[arrays.id_of_rank] = title_filter.eligible(region)
            mask[of_events] = False
            if mask.sum() < options.titles:
                raise InputError(
                    f"region {region!r}: {int(mask.sum())} titles may be on the slates of {event.id}; "
                    f"allowed: at least {options.titles}, the titles of a slate"
                )
            out[event.id, region] = mask
    return out


def _held_out(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys [Q] and the last queries [Q] of all held-out users, each once.

    Of a user of both splits, as with data.split="last", the query of the later split counts.
    """
    keys, queries = [], []
    for split in SPLITS[1:]:
        rows = dataset.rows(split).all()
        last = np.append(rows["user"][1:] != rows["user"][:-1], True) if len(rows) else np.empty(0, bool)
        keys.append(dataset.user_keys(split)[rows["user"][last]])
        queries.append(rows[last])
    every = np.concatenate(keys)
    _, from_the_end = np.unique(every[::-1], return_index=True)
    kept = np.sort(len(every) - 1 - from_the_end)
    return every[kept], np.concatenate(queries)[kept]


def _rank_for_segments(
    model: _Model, eligible: dict[tuple[str, str], np.ndarray], options: SlateOptions
) -> _Ranked:
    loaded, training = model.loaded, training_queries(model.dataset)
    keys, queries = _held_out(model.dataset)
    (own,) = assign(loaded, model.dataset, model.table, [options.segments], training, queries)
    segment, _ = offset_segments([own])
    scorer = SegmentScorer(loaded.task, model.table, model.correction, len(own.names), 1)
    means = scorer(loaded.params, training, segment).select(slice(None))
    mean = means.probability if options.order == PROBABILITY else means.log_probability
    # Users of no segment have the slates of all users.
    mean = np.concatenate([mean, means.users[None] @ mean / max(means.users.sum(), 1)])
    number, ids = options.titles + options.spare, {}
    last: tuple[np.ndarray, np.ndarray] | None = None
    for key, mask in eligible.items():
        if last is None or not np.array_equal(last[0], mask):
            last = mask, rank_titles(mean, mask, loaded.arrays.rank_of_id, number)
        ids[key] = last[1]
    return _Ranked([*own.names, DEFAULT], ids, {"user": keys, "segment": own.queries}, len(training))


def _rank_for_users(
    model: _Model, eligible: dict[tuple[str, str], np.ndarray], options: SlateOptions
) -> _Ranked:
    loaded, number = model.loaded, options.titles + options.spare
    keys, queries = _held_out(model.dataset)
    ranker = UserRanker(
        loaded.task, model.table, model.correction, np.stack([*eligible.values()]),
        min(number, len(loaded.arrays.id_of_rank)),
    )  # fmt: skip
    best = ranker(loaded.params, queries)
    ids = {}
    for i, (key, mask) in enumerate(eligible.items()):
        popular = rank_titles(np.zeros((1, len(mask))), mask, loaded.arrays.rank_of_id, best.shape[2])
        ids[key] = np.concatenate([best[:, i], popular])
    segment = np.arange(len(keys), dtype=np.int32)
    return _Ranked([*map(str, keys.tolist()), DEFAULT], ids, {"user": keys, "segment": segment}, 0)


def _payloads(
    ranked: _Ranked, events: Sequence[Event], loaded: LoadedCheckpoint, options: SlateOptions
) -> dict[tuple[str, str, str], Iterator[dict[str, Any]]]:
    """Return the payloads of each event, stage and region, made as they are written."""
    keys = np.array([*map(str, loaded.arrays.title_key.tolist())], object)
    texts = {
        key: [keys[row[row > 0] - FIRST_TITLE].tolist() for row in ids] for key, ids in ranked.ids.items()
    }

    def of_segments(event: Event, stage: str, region: str) -> Iterator[dict[str, Any]]:
        for row in texts[event.id, region]:
            yield payload(row, options.titles, event, stage, region)

    return {
        (event.id, stage, region): of_segments(event, stage, region)
        for event in events
        for stage in event.stages
        for region in sorted({region for _, region in ranked.ids})
    }
