"""Choice of the correction by which a checkpoint ranks the whole catalogue.

The density q of the negatives is estimated from the training rows. Estimates, heads and, for the hinge,
scales are compared on validation queries. The best of them is kept in the workdir, so that evaluation,
recommendation and export rank alike.
"""

import io
import zlib
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from absl import logging

from jaxrec.config.rules.declared.availability import check_ranks_titles
from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import FIRST_TITLE, LISTS, POOLS, RETRIEVAL_HEAD, SERVED
from jaxrec.core.json_io import write_bytes
from jaxrec.core.paths import AnyPath
from jaxrec.core.registry import HEADS
from jaxrec.data.examples.ranking import list_widths
from jaxrec.data.examples.sampling_density import SamplingDensity, count_negatives
from jaxrec.data.storage.dataset import Dataset
from jaxrec.evaluation import metrics
from jaxrec.evaluation.baselines import candidates
from jaxrec.evaluation.scorers import CatalogueRanker
from jaxrec.models.outputs import Correction
from jaxrec.runtime.mesh import replicate
from jaxrec.runtime.multihost import is_first_process
from jaxrec.tasks.base import Task
from jaxrec.tasks.loading import LoadedCheckpoint

_ALL_SERVED = tuple(int(name == SERVED) for name in POOLS)  # one served negative, and no other
METRIC = "ndcg@10"  # the best correction has the highest value on the validation queries
_FILE = "correction.npz"  # of the heads of the paper; another head or blend has its name in the file's
_QUERIES = 4_096  # validation queries that are ranked
# Scales of scores that are no log ratios: those of the hinge, of declared heads and of blends.
_SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)


class FittedCorrection(NamedTuple):
    """The best correction, and the value of `METRIC` of each correction that was compared."""

    correction: Correction
    compared: dict[str, float]  # "<head> <form> x<scale>" -> METRIC on the validation queries


def densities(density: SamplingDensity, rank_of_id: np.ndarray, trending: int) -> dict[str, np.ndarray]:
    """Return estimates of log q [V] by name.

    "counted" is the frequency of each title among the negatives, "counted_hard" the same with the hard
    negatives. "pools" is the mean of "counted" over the trending and over the tailing titles. An estimate for
    each user, with the sizes of the user's own pools, ranked no better than "pools" (NDCG@10 .1796 and .1791
    on `smoe.py:small`).

    Args:
        density: Frequencies of the titles.
        rank_of_id: [V] popularity rank of each id; V for padding and unknown.
        trending: Number of trending titles, which have the first ranks.
    """
    smoothing = 0.5 * density.drawn_V.sum() / len(rank_of_id) / 100.0  # of a title that was never drawn
    is_trending = rank_of_id < trending
    is_tailing = (rank_of_id >= trending) & (rank_of_id < len(rank_of_id))
    pools_V = np.zeros_like(density.drawn_V)
    for group in (is_trending, is_tailing):
        pools_V[group] = density.drawn_V[group].mean() if group.any() else 0.0
    pools = SamplingDensity(pools_V, np.zeros_like(pools_V))
    return {
        "counted": density.log_density(0.0, smoothing),
        "counted_hard": density.log_density(1.0, smoothing),
        "pools": pools.log_density(0.0, smoothing),
    }


def uncorrected(task: Task) -> Correction:
    """Return the order of the catalogue by the plain scores of the task's first head."""
    return Correction((*task.catalogue_heads, *task.ranking_heads)[0])


def fit_correction(task: Task, params: Any, table: TitleTable, dataset: Dataset) -> FittedCorrection:
    """Choose the correction that ranks the catalogue best for validation users.

    Args:
        task: The task of the checkpoint.
        params: Parameters, on the devices.
        table: Title features, on the devices.
        dataset: Dataset of the training.
    """
    if task.pool_mix is None or not task.catalogue_heads:
        return FittedCorrection(uncorrected(task), {})
    density = count_negatives(dataset.rows("train"), task.layout.num_titles, task.pool_mix)
    estimates = densities(density, dataset.arrays.rank_of_id, dataset.manifest["trending"])
    corrections = {}
    for head in task.catalogue_heads:
        corrections[f"{head} none x1"] = Correction(head)
        if head == RETRIEVAL_HEAD:  # trained against titles drawn uniformly
            continue
        hinge = head == "ranking" and task.config.objective.ranking_loss == "hinge"
        is_ratio = head in HEADS and not hinge
        for form, log_q_V in estimates.items():
            for scale in (1.0,) if is_ratio else _SCALES:
                corrections[f"{head} {form} x{scale:g}"] = Correction(head, scale, log_q_V, form)
    ranker = CatalogueRanker(task, table, corrections, seen="stored")
    ranked = ranker(params, dataset.rows("validation").head(_QUERIES))
    compared = {
        name: float(metrics.FULL[METRIC](order.ranks).mean()) for name, order in ranked.by_order.items()
    }
    best = max(
        (name for name in compared if corrections[name].head != RETRIEVAL_HEAD), key=compared.__getitem__
    )
    return FittedCorrection(corrections[best], compared)


def list_shift(
    density: SamplingDensity, widths: tuple[int, int, int, int], num_hard: float, is_trending_V: np.ndarray
) -> float:
    """Return the shift of trending titles for a frozen list, whose negatives are not drawn as in training.

    A score estimates log p / q of training's negatives; the list is ranked best by log p / q of its own. The
    difference log q(training) - log q(list) has one value for trending and one for tailing titles; the shift
    is the first minus the second, in nats.

    Args:
        density: Frequencies of the titles among training's negatives.
        widths: Columns of each pool of the list: hard, trending, tailing, random.
        num_hard: Mean number of real hard negatives of the list; trending titles fill the other columns.
        is_trending_V: [V] bool, True for the trending titles.

    Returns:
        The shift; 0 if training or the list draws from one of the two groups alone.
    """
    trained_V = density.drawn_V[FIRST_TITLE:]
    is_trending = is_trending_V[FIRST_TITLE:]
    hard, trending, tailing, random = widths
    trained = _group_means(trained_V, is_trending)
    if min(*trained, trending + hard - num_hard + random, tailing + random) <= 0:
        return 0.0
    in_trending = (trending + hard - num_hard) / is_trending.sum() + random / len(is_trending)
    in_tailing = tailing / (~is_trending).sum() + random / len(is_trending)
    return _shift(trained, (in_trending, in_tailing))


def _group_means(drawn_V: np.ndarray, is_trending_V: np.ndarray) -> tuple[float, float]:
    """Return the mean frequency of trending titles and that of tailing titles."""
    sums = [(drawn_V[group].sum(), group.sum()) for group in (is_trending_V, ~is_trending_V)]
    trending, tailing = (float(total / max(count, 1)) for total, count in sums)
    return trending, tailing


def _shift(trained: tuple[float, float], of_list: tuple[float, float]) -> float:
    """Return the shift of trending titles from training's negatives to those of a list, in nats.

    Args:
        trained: Frequencies of a trending and of a tailing title among training's negatives.
        of_list: The same among the negatives of the list, up to a factor.

    Returns:
        The shift; 0 if training or the list draws from one of the two groups alone.
    """
    if min(*trained, *of_list) <= 0:
        return 0.0
    (t_trending, t_tailing), (l_trending, l_tailing) = np.log(trained), np.log(of_list)
    return float((t_trending - t_tailing) - (l_trending - l_tailing))


def candidate_shifts(task: Task, dataset: Dataset, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the shift of each candidate of the frozen lists by `list_shift`, in nats.

    Args:
        task: the task of the checkpoint.
        dataset: dataset of the rows, whose training negatives are counted.
        rows: the Q held-out rows.
        shape: [Q, lists, K, 1 + negatives], the shape of the result.
    """
    out = np.zeros(shape, np.float32)
    if task.pool_mix is None or not len(rows):
        return out
    density = count_negatives(dataset.rows("train"), task.layout.num_titles, task.pool_mix)
    is_trending_V = dataset.arrays.rank_of_id < dataset.manifest["trending"]
    for l, name in enumerate(LISTS[: shape[1]]):
        if name == SERVED:
            served = count_negatives(dataset.rows("train"), task.layout.num_titles, _ALL_SERVED).drawn_V
            titles = slice(FIRST_TITLE, None)
            trained, of_list = (
                _group_means(x[titles], is_trending_V[titles]) for x in (density.drawn_V, served)
            )
            shift = _shift(trained, of_list)
        else:
            widths = list_widths(name, dataset.layout.negatives)
            num_hard = float(rows["num_hard"][:, 0].mean()) if widths[0] else 0.0
            shift = list_shift(density, widths, num_hard, is_trending_V)
        out[:, l] = shift * is_trending_V[candidates(rows, name)][:, : shape[2]]
    return out


def _path(workdir: AnyPath, task: Task | None) -> AnyPath:
    """Return the file of the correction of what orders the titles; None: a head of the paper."""
    head = task.ranking_heads[0] if task is not None and task.pool_mix is not None else ""
    if task is None or not head or head in HEADS:
        return workdir / _FILE
    # Blends of all requests have the names of before there were others.
    texts = (repr(b).replace(", where=''", "") for b in task.config.evaluate.blends if b.name == head)
    blend = next(texts, head)
    return workdir / f"correction-{head}-{zlib.crc32(blend.encode()):08x}.npz"


def write_correction(workdir: AnyPath, step: int, correction: Correction, task: Task | None = None) -> None:
    """Write the correction of a checkpoint to the workdir; log a warning where nothing can be written.

    Args:
        workdir: Folder of the run.
        step: Step of the checkpoint.
        correction: The correction.
        task: The task, whose first head or blend orders the titles; None: a head of the paper.
    """
    head, scale, log_q_V, form = correction
    file = io.BytesIO()
    stored = np.empty(0, np.float32) if log_q_V is None else log_q_V
    np.savez(file, step=step, head=head, scale=scale, log_q=stored, form=form)
    path = _path(workdir, task)
    try:
        write_bytes(path, file.getvalue())
    except OSError as error:
        logging.warning("%s is not kept, and is fitted again next time: %s", path, error.strerror)


def read_correction(workdir: AnyPath, step: int, task: Task | None = None) -> Correction | None:
    """Return the correction of a checkpoint; None if there is none for `step`, or the file is damaged.

    Arguments as for `write_correction`.
    """
    path = _path(workdir, task)
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if int(stored["step"]) != step:
                return None
            log_q_V = stored["log_q"] if len(stored["log_q"]) else None
            return Correction(str(stored["head"]), float(stored["scale"]), log_q_V, str(stored["form"]))
    except (ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        logging.warning("%s is damaged, and the correction is fitted again: %s", path, error)
        return None


def extend_correction(correction: Correction, known: int, titles: int) -> Correction:
    """Return a correction with a log density for each of `titles` ids.

    The log density of a title launched since the training is the least of the training's titles.

    Args:
        correction: Correction of the checkpoint.
        known: Number of ids of the training, padding and unknown included.
        titles: Number of title ids, at least `known`.
    """
    log_q_V = np.zeros(known, np.float32) if correction.log_q_V is None else correction.log_q_V[:known]
    new = np.full(titles - known, log_q_V[FIRST_TITLE:].min(), log_q_V.dtype)
    return correction._replace(log_q_V=np.concatenate([log_q_V, new]))


def load_or_fit_correction(
    workdir: AnyPath, loaded: LoadedCheckpoint, table: TitleTable, dataset: Dataset | None = None
) -> Correction:
    """Return the correction of a checkpoint; fit it and keep it in the workdir on first use.

    The correction is fitted on the dataset of the training. If that dataset is not there, the scores are not
    corrected, a warning is logged, and nothing is kept. For a checkpoint with the titles of a later dataset
    it is the correction of the training, extended.

    Args:
        workdir: Folder of the run.
        loaded: The checkpoint.
        table: Title features, on the devices.
        dataset: An open dataset, which may be that of the training.

    Raises:
        InputError: The run is offline.
    """
    check_ranks_titles(loaded.config)
    if loaded.trained is not None:
        first, titles = loaded.trained, loaded.task.layout.num_titles
        own = load_or_fit_correction(workdir, first, replicate(first.task.title_table(first.arrays)))
        known = FIRST_TITLE + len(first.arrays.title_key)
        return own if own.log_q_V is None else extend_correction(own, known, titles)
    correction = read_correction(workdir, loaded.step, loaded.task)
    if correction is not None:
        return correction
    if dataset is None or dataset.fingerprint != loaded.meta["dataset"]:
        try:
            dataset = Dataset(loaded.meta["dataset_directory"])
        except InputError as error:
            logging.warning("the catalogue is ranked by uncorrected scores: %s", error)
            return uncorrected(loaded.task)
    correction = fit_correction(loaded.task, loaded.params, table, dataset).correction
    if is_first_process():
        write_correction(workdir, loaded.step, correction, loaded.task)
    return correction
