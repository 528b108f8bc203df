"""Quality of slates by the number of segments, beside slates of each user and popularity."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrec.analysis.rewritten.rewriting import content_digest
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.json_io import parse_json
from jaxrec.core.paths import AnyPath
from jaxrec.data.events.history_columns import title_rows
from jaxrec.data.loading.left_out import LeftOutTitles, left_out_titles
from jaxrec.data.storage.evaluation_arrays import TruthArrays
from jaxrec.evaluation import metrics
from jaxrec.evaluation.correction import load_or_fit_correction
from jaxrec.evaluation.results import EvaluationResult
from jaxrec.evaluation.slices.results import summaries, user_means
from jaxrec.evaluation.truth.shown_titles import shown_values
from jaxrec.live_events.segments.assignment import Assignment, assign, offset_segments
from jaxrec.live_events.segments.rules import KMEANS, USER, Rule, parse_rule
from jaxrec.live_events.segments.training_users import training_queries
from jaxrec.live_events.slates.folder import payload_of, read_manifest, read_payload
from jaxrec.live_events.slates.streamed import SegmentScorer, rank_titles
from jaxrec.runtime.mesh import replicate
from jaxrec.tasks.loading import LoadedCheckpoint, load_checkpoint, open_dataset

SEGMENTS = "segments"  # key of the result
KAPPAS = (1, 4, 16, 64, 256, 1024, 4096)
SHARE_OF = 64  # segments whose share of the way to user slates is printed
NO_RANK = np.int64(2**31)
_SHOWN = metrics.SHOWN


class SlateRanks(NamedTuple):
    """Slates of Q queries as devices display them.

    Attributes:
        ranks: [Q] rank of the target, from 1; NO_RANK where the slate lacks it.
        top: [Q, 10] ids of the first titles, 0 for none.
    """

    ranks: np.ndarray
    top: np.ndarray


def with_segments(
    evaluation: EvaluationResult, workdir: AnyPath, folder: str, data: AnyPath | None = None
) -> EvaluationResult:
    """Return an evaluation with the quality of slates as the value of SEGMENTS of its result.

    The segment of a query is that of the user before the query. K-means is fitted on training users.

    Args:
        evaluation: Evaluation of the run, with rankings of all titles.
        workdir: Workdir of the run.
        folder: Folder of slates of the same checkpoint.
        data: Dataset of the evaluation. None: that of the training.

    Raises:
        InputError: The slates are of another checkpoint, or damaged.
    """
    assert evaluation.ranked is not None, "slates are compared with rankings of all titles"
    manifest = read_manifest(folder)
    loaded = load_checkpoint(workdir, evaluation.result["which"])
    own = content_digest(loaded)[:16]
    if manifest["model"] != own:
        raise InputError(
            f"--segments={folder}: slates of the checkpoint {manifest['model']} of step {manifest['step']}; "
            f"allowed: slates of {own}, step {loaded.step} of {workdir}"
        )
    dataset, rows = open_dataset(loaded, data), evaluation.rows
    split, seen = evaluation.result["split"], evaluation.result["protocol"]["seen"]
    left_out = left_out_titles(dataset, split, rows, seen, evaluation.row_index)
    truth = dataset.truth(split)
    slates = _segment_slates(loaded, workdir, folder, manifest, rows, data)
    by_row = {
        name: SlateRanks(order.ranks, order.top)
        for name, order in evaluation.ranked.by_order.items()
        if name in ("model", "popularity")
    }
    ids_of = {name: (len(ids), ids, segment) for name, (ids, segment) in slates.items()}
    for name, (_, ids, segment) in ids_of.items():
        by_row[name] = displayed(ids, segment, rows["target"][:, 0], left_out, manifest["titles"])
    columns: dict[str, np.ndarray] = {}
    for name, slate in by_row.items():
        of_row = _query_values(slate, manifest["titles"], truth, evaluation.row_index)
        columns |= {f"{name}/{metric}": values for metric, values in of_row.items()}
    columns |= {
        f"{name}/below_user_slates": columns[f"model/ndcg@{_SHOWN}"] - columns[f"{name}/ndcg@{_SHOWN}"]
        for name in by_row
    }
    measured = summaries(user_means(rows["user"], columns))
    table = [
        {
            "name": name, "segments": ids_of[name][0] if name in ids_of else None,
            "metrics": {c.split("/", 1)[1]: measured[c] for c in columns if c.split("/", 1)[0] == name},
        }
        for name in by_row
    ]  # fmt: skip
    result = {
        "slates": str(folder), "by": manifest["segments"]["by"], "titles": manifest["titles"],
        "spare": manifest["spare"], "users": len(np.unique(rows["user"])), "rows": table,
        "share_of_way": _share_of_way(measured),
    }  # fmt: skip
    return evaluation._replace(result=evaluation.result | {SEGMENTS: result})


def _share_of_way(measured: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the share of the way from one slate to user slates that SHARE_OF segments cover, on NDCG@10.

    None without that many segments, or where the interval of the way holds 0: a share of noise means nothing.
    """
    way, some = measured["kappa 1/below_user_slates"], measured.get(f"kappa {SHARE_OF}/below_user_slates")
    if some is None or way["low"] is None or way["low"] <= 0:
        return None
    return 1.0 - some["mean"] / way["mean"]


def _segment_slates(
    loaded: LoadedCheckpoint, workdir: AnyPath, folder: str, manifest: dict[str, Any], rows: np.ndarray,
    data: AnyPath | None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Return the ids [S, titles + spare] and the segment [Q] of each query, by the name of the row."""
    dataset, table = open_dataset(loaded, data), replicate(loaded.task.title_table(loaded.arrays))
    training = training_queries(dataset)
    delivered = parse_rule(manifest["segments"]["by"])
    rules = [Rule(KMEANS, clusters=k) for k in KAPPAS if k <= len(training)]
    rules += [delivered] * (delivered.kind != USER)
    assignments = assign(loaded, dataset, table, rules, training, rows)
    segment, slices = offset_segments(assignments)
    correction = load_or_fit_correction(workdir, loaded, table, dataset)
    scorer = SegmentScorer(loaded.task, table, correction, slices[-1].stop, len(assignments))
    means = scorer(loaded.params, training, segment)
    arrays, number = loaded.arrays, manifest["titles"] + manifest["spare"]
    eligible = np.zeros(len(arrays.rank_of_id), bool)
    eligible[arrays.id_of_rank] = True
    out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for assignment, part in zip(assignments, slices, strict=True):
        of_part = means.select(part)
        if assignment.rule is delivered:
            out["delivered"] = _delivered(folder, manifest, loaded, assignment), assignment.queries
            continue
        for name, mean in (("", of_part.probability), (" by log", of_part.log_probability)):
            ids = rank_titles(mean, eligible, arrays.rank_of_id, number)
            out[f"kappa {assignment.rule.clusters}{name}"] = ids, assignment.queries
    return out


def _delivered(
    folder: str, manifest: dict[str, Any], loaded: LoadedCheckpoint, assignment: Assignment
) -> np.ndarray:
    """Return the ids [S, titles + spare] of the ranked titles in the payloads of the first event and region.

    Raises:
        InputError: The segments are not those of the folder.
    """
    if assignment.names != manifest["segments"]["names"][:-1]:
        raise InputError(f"--segments={folder}: segments of another dataset; allowed: that of the slates")
    event, region = manifest["events"][0]["id"], manifest["regions"][0]
    number = manifest["titles"] + manifest["spare"]
    out = np.zeros((len(assignment.names), number), np.int32)
    for segment in range(len(assignment.names)):
        name = payload_of(manifest, event, "live", region, segment)
        document = parse_json(read_payload(folder, name))
        slots = {slot["title"] for slot in document["slots"]}
        titles = [t for t in (*document["titles"], *document["spare"]) if t not in slots]
        out[segment, : len(titles)] = title_rows(titles, loaded.arrays.title_key) + FIRST_TITLE
    return out


def displayed(
    ids: np.ndarray, segment: np.ndarray, target: np.ndarray, left_out: LeftOutTitles, titles: int
) -> SlateRanks:
    """Return the slates that devices display: without watched titles, filled up with the spare ones.

    Args:
        ids: [S, titles + spare] ids of each segment, 0 for none.
        segment: [Q] segment of each query.
        target: [Q] ids. A target competes, also where its user has watched it.
        left_out: Watched titles of each query.
        titles: Number of titles of a slate.
    """
    ranks = np.full(len(target), NO_RANK)
    top = np.zeros((len(target), _SHOWN), np.int32)
    place = np.full((len(ids), max(int(ids.max(initial=0)), int(target.max(initial=0))) + 1), -1, np.int32)
    for s in range(ids.shape[1]):
        place[np.arange(len(ids)), ids[:, s]] = s
    place[:, 0] = -1
    for query in left_out.chunks(np.arange(len(target))):
        own = segment[query]
        shown = ids[own]
        row, title = left_out.pairs(query)
        inside = (title < place.shape[1]) & (title != target[query[row]])
        row, title = row[inside], title[inside]
        watched = place[own[row], title]
        kept = shown > 0
        kept[row[watched >= 0], watched[watched >= 0]] = False
        position = np.cumsum(kept, axis=1)
        hit = (shown == target[query, None]) & kept & (position <= titles)
        ranks[query] = np.where(hit.any(axis=1), (position * hit).max(axis=1), NO_RANK)
        order = np.argsort(~kept, axis=1, kind="stable")[:, :_SHOWN]
        first = np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(shown, order, 1), 0)
        top[query, : first.shape[1]] = first
    return SlateRanks(ranks, top)


def _query_values(
    slate: SlateRanks, titles: int, truth: TruthArrays | None, row_index: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return the metrics [Q] of slates; NaN for the truth of a query whose truth is not stored."""
    out = {
        f"ndcg@{_SHOWN}": metrics.ndcg(slate.ranks, _SHOWN),
        f"recall@{titles}": metrics.recall(slate.ranks, titles),
    }
    if truth is None or not len(truth.rows):
        return out
    for name, values in (("true_choice", truth.choice), ("true_enjoyment", truth.reward)):
        query, mean = shown_values(slate.top, values, truth.rows, row_index)
        out[f"{name}@{_SHOWN}"] = np.full(len(slate.ranks), np.nan)
        out[f"{name}@{_SHOWN}"][query] = mean
    return out
