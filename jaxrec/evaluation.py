"""A checkpoint's scores: the model beside the rules and, where it is known, the oracle."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxrec import baselines, gating, metrics, programs
from jaxrec.checkpoint import Checkpointer, abstract
from jaxrec.config import Config
from jaxrec.config_check import check_dealing
from jaxrec.config_json import from_json
from jaxrec.data.store import Arrays, Dataset, Rows
from jaxrec.errors import InputError
from jaxrec.parallel import devices, placement, replicate
from jaxrec.paths import AnyPath, as_path
from jaxrec.plain import write_json
from jaxrec.schema import CATALOGUE, LISTS, Layout, TitleTable
from jaxrec.scoring import Ranked, Ranker, Scorer
from jaxrec.step import Program
from jaxrec.training import Training, means

CHECKPOINTS = "checkpoints"  # the folder of a workdir that holds them


def _ranks(scores: np.ndarray, rows: np.ndarray, next_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The rank of every target that is present among the next `next_k`, and whose it is, both [N]."""
    present, users = _present(rows, next_k)
    return metrics.rank(scores[:, :next_k])[present], users


def _present(rows: np.ndarray, next_k: int) -> tuple[np.ndarray, np.ndarray]:
    """[Q, next_k] bool: which of the next titles there are; and whose those are, [N]."""
    present = rows["target"][:, :next_k] > 0
    return present, np.broadcast_to(rows["user"][:, None], present.shape)[present]


def summary(scores: np.ndarray, rows: np.ndarray, next_k: int) -> dict[str, Any]:
    """Metrics of one list from scores [Q, >= next_k, 1 + negatives], the target first: means over queries."""
    rank, users = _ranks(scores, rows, next_k)
    out: dict[str, Any] = {name: float(f(rank).mean()) for name, f in metrics.METRICS.items()}
    return out | {"users": len(np.unique(users)), "examples": len(rank)}


def model_lists(scores: np.ndarray, rows: np.ndarray, next_k: int, lists: tuple[str, ...]) -> dict[str, Any]:
    return {name: summary(scores[:, LISTS.index(name)], rows, next_k) for name in lists}


def baseline_lists(
    rows: np.ndarray, arrays: Arrays, next_k: int, lists: tuple[str, ...], shown_abandoned: bool,
    rules: dict[str, baselines.Rule],
) -> dict[str, Any]:  # fmt: skip
    """Every rule, and for K=1 the oracle's rows where the source knows the truth."""
    out = {
        rule: {name: summary(score(rows, name, arrays), rows, next_k) for name in lists}
        for rule, score in rules.items()
    }
    if next_k == 1 and len(rows) and np.isfinite(rows["oracle_enabled"]).all():
        out |= {
            row: {name: summary(score(rows, name, shown_abandoned), rows, 1) for name in lists}
            for row, score in baselines.ORACLES.items()
        }
    return out


def by_hard(scores: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Metrics on the enabled list by how many hard negatives it holds (K=1)."""
    counts = rows["list_hard"][:, 0]
    return {
        str(n): summary(scores[counts == n, LISTS.index("enabled")], rows[counts == n], 1)
        for n in np.unique(counts)
    }


def _full(ranks: np.ndarray) -> dict[str, float]:
    return {metric: float(f(ranks).mean()) for metric, f in metrics.FULL.items()}


def whole_catalogue(
    ranked: dict[str, Ranked], rows: np.ndarray, arrays: Arrays, filtered: bool
) -> dict[str, Any]:
    """Each row's metrics over all titles (K=1), by its name; and what was asked."""
    targets, users = rows["target"][:, 0], len(np.unique(rows["user"]))
    out: dict[str, Any] = {
        name: _full(found.ranks) | metrics.shown(found.top, arrays.title_plays, targets)
        for name, found in ranked.items()
    }
    titles = len(arrays.id_of_rank)
    return out | {"filtered": filtered, "titles": titles, "users": users, "examples": len(rows)}


class Validator:
    """Judges parameters on the validation queries while they are trained.

    `metric` of the list `watched` says which checkpoint is the best: NDCG@1 of the enabled list or, of
    sequences, NDCG@10 of the catalogue, titles of the history left out.
    """

    def __init__(self, program: Training, table: TitleTable, rows: Rows) -> None:
        self._rows, self._lists = rows, isinstance(program, Program)
        self.watched, self.metric = ("enabled", "ndcg@1") if self._lists else (CATALOGUE, "ndcg@10")
        self._users = rows.all()
        self._ranker: Ranker | None = None
        if isinstance(program, Program):
            self._scorer = Scorer(program, table, with_loss=True, next_k=1)
        else:
            temperature = program.config.next_title.temperature
            self._ranker = Ranker(program, table, filtered=True, with_loss=True, temperature=temperature)

    def __call__(self, params: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Figures, `loss` among them, and the metrics of each list."""
        if self._ranker is None:
            scored = self._scorer(params, self._rows)
            return means(scored.sums), model_lists(scored.scores, self._users, 1, LISTS)
        ranked = self._ranker(params, self._rows)
        return means(ranked.sums), {CATALOGUE: _full(ranked.ranks)}


@dataclass
class Loaded:
    """What a checkpoint holds, ready to score."""

    config: Config
    program: Training
    arrays: Arrays
    params: Any  # those that are judged
    step: int
    meta: dict[str, Any]


def load(workdir: str | AnyPath, which: str) -> Loaded:
    """From a checkpoint alone. Raises InputError where there is none."""
    with Checkpointer(as_path(workdir) / CHECKPOINTS) as checkpoints:
        meta = checkpoints.restore_meta(which)
        config = from_json(meta["config"])
        config.model.attention = "auto"  # the form is of the machine that trained, not of the model
        check_dealing(config, devices())
        program = program_of(config, meta)
        like = program.abstract_state()
        state = checkpoints.restore(which, abstract(like, placement(like)))
        arrays = Arrays(**checkpoints.restore_arrays(which))
        return Loaded(config, program, arrays, state.judged, checkpoints.step(which), meta)


def program_of(config: Config, meta: dict[str, Any]) -> Training:
    return programs.make(
        config,
        Layout.from_json(meta["layout"]),
        meta["threshold"],
        meta["steps_per_epoch"],
        meta["total_steps"],
    )


class Judged(NamedTuple):
    """A checkpoint's result as `report` prints it, and what it was worked out from."""

    result: dict[str, Any]
    rows: np.ndarray  # [Q] Layout.query_dtype
    scores: np.ndarray  # [Q, lists, K, 1 + negatives], the target first
    user_keys: np.ndarray  # the caller's keys, by a row's `user`
    lists: tuple[str, ...]
    next_k: tuple[int, ...]
    other_heads: dict[str, np.ndarray]  # scores by the heads that could rank and do not, where asked for
    ranked: Ranked | None  # among all titles, where asked for


def judge(
    workdir: str | AnyPath, *, which: str | None = None, data: str | AnyPath | None = None,
    split: str = "test", lists: tuple[str, ...] = (), next_k: tuple[int, ...] | None = None,
    heads: bool = False, seen: str = "filtered", retrieve: int = 0,
) -> Judged:  # fmt: skip
    """Scores a checkpoint on a split's frozen lists, beside the baselines. With `heads`, also by each other
    head that can rank: the objective is then not mistaken for the head. Among `lists`, CATALOGUE ranks all
    titles, those of the history "filtered" or "kept", as `seen` says, and, with `retrieve`, in two stages
    beside: so many titles by the retrieval head, in the order of the head that ranks. Without any it is
    the frozen lists or, for a model of sequences, which has none, the catalogue.

    Raises InputError where the dataset is not the one the checkpoint was trained on, or one laid out alike,
    and where there is nothing to retrieve by.
    """
    started = time.perf_counter()
    workdir = as_path(workdir)
    if which is None:
        with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
            which = from_json(checkpoints.restore_meta("last")["config"]).evaluate.which
            which = which if checkpoints.best_step() is not None else "last"
    loaded = load(workdir, which)
    dataset = Dataset(data or loaded.meta["dataset_directory"])
    if dataset.layout != loaded.program.layout:
        raise InputError(
            f"dataset {dataset.directory}: its layout is not the checkpoint's; prepare it with its config"
        )
    found = dataset.rows(split)
    rows = found.all()
    table = replicate(loaded.arrays.title_table())
    program = loaded.program
    lists = lists or ((CATALOGUE,) if dataset.layout.examples == "sequences" else LISTS)
    frozen = tuple(name for name in lists if name != CATALOGUE)
    if frozen and not isinstance(program, Program):
        raise InputError(f"lists={','.join(frozen)}; allowed of a model of sequences: {CATALOGUE}")
    result: dict[str, Any] = {"name": loaded.config.name, "split": split, "which": which}

    ranked = None
    if CATALOGUE in lists:
        filtered = seen == "filtered"
        most = min(metrics.SHOWN, len(loaded.arrays.id_of_rank))
        if retrieve and not loaded.config.model.retrieval:
            raise InputError(
                f"retrieve={retrieve}; allowed of a model that has a head for it: model.retrieval=0"
            )
        ranker = Ranker(program, table, filtered, most, retrieve=retrieve)
        ranked = ranker(loaded.params, found)
        ranks, top = baselines.popularity_ranks(rows, loaded.arrays, filtered, most)
        popular = ranked._replace(ranks=ranks, top=top)
        of_all = {"model": ranked, "popularity": popular}
        result[CATALOGUE] = whole_catalogue(of_all, rows, loaded.arrays, filtered)
        if retrieve:
            result[CATALOGUE] |= {
                "retrieval_head": _full(ranked.retrieved),
                "two_stage": _full(ranked.staged),
                "retrieved": retrieve,
                "kept": float(ranked.kept.mean()),
            }
    ks = next_k or loaded.config.evaluate.next_k
    scores, others = np.empty((len(rows), 0)), dict[str, np.ndarray]()
    if isinstance(program, Program):
        scores, others = _judge_lists(loaded, program, dataset, table, found, rows, frozen, ks, heads, result)
    else:
        ks = (1,)
    result |= {
        "dataset": dataset.fingerprint,
        "step": loaded.step,
        "seed": loaded.config.train.seed,
        "seconds": time.perf_counter() - started,
    }
    return Judged(result, rows, scores, dataset.user_keys(split), frozen, ks, others, ranked)


def _judge_lists(
    loaded: Loaded, program: Program, dataset: Dataset, table: TitleTable, found: Rows, rows: np.ndarray,
    lists: tuple[str, ...], ks: tuple[int, ...], heads: bool, result: dict[str, Any],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """Joins what the frozen lists say to `result`; the scores, by the head that ranks and by the others."""
    if max(ks) > dataset.layout.next_k:
        raise InputError(
            f"next_k={max(ks)} must be at most {dataset.layout.next_k}, which the dataset stores"
        )
    tasks = _other_heads(program, heads)
    scores, gate, _, by_head = Scorer(program, table, False, max(ks), tasks)(loaded.params, found)
    others = {task: by_head[task] for task in tasks}
    shown = loaded.config.sampling.history_keeps_abandoned
    together = baselines.item_to_item(dataset.rows("train"), loaded.arrays, shown)
    rules = baselines.RULES | {"item_to_item": together}
    for k in ks:
        result[f"lists{metrics.suffix(k)}"] = model_lists(scores, rows, k, lists)
        result[f"baselines{metrics.suffix(k)}"] = baseline_lists(rows, loaded.arrays, k, lists, shown, rules)
    if gate.shape[1] > 1:
        result["gate"] = gating.use(gate, rows, shown)
    if "enabled" in lists:
        result["by_hard"] = by_hard(scores, rows)
    if others:
        result["other_heads"] = {
            task: {f"lists{metrics.suffix(k)}": model_lists(of_task, rows, k, lists) for k in ks}
            for task, of_task in others.items()
        }
    return scores, others


def _other_heads(program: Program, wanted: bool) -> tuple[str, ...]:
    """The heads that order titles, but for the one that ranks."""
    return tuple(t for t in ("ctr", "ranking") if wanted and t in program.tasks and t != program.score_task)


def per_user(judged: Judged) -> dict[str, np.ndarray]:
    """Columns of each user's mean metrics, by the caller's own keys: what paired tests compare.

    `enabled/ndcg@1` is of K=1, `enabled_k3/ndcg@1` of the next three titles, `enabled_ctr/ndcg@1` and
    `enabled_ctr_k3/ndcg@1` by another head, `catalogue/ndcg@10` over all titles; `queries` and `queries_k3`
    count what a mean is over.
    """
    rows, out = judged.rows, {}
    by_head = {"": judged.scores} | {f"_{task}": scores for task, scores in judged.other_heads.items()}
    for k in sorted({1, *judged.next_k}):
        for head, scores in by_head.items():
            for name in judged.lists:
                rank, whose = _ranks(scores[:, LISTS.index(name)], rows, k)
                for metric, f in metrics.METRICS.items():
                    out[f"{name}{head}{metrics.suffix(k)}/{metric}"] = metrics.per_user(whose, f(rank))[1]
        users, out[f"queries{metrics.suffix(k)}"] = np.unique(_present(rows, k)[1], return_counts=True)
    if judged.ranked is not None:
        for metric, f in metrics.FULL.items():
            out[f"{CATALOGUE}/{metric}"] = metrics.per_user(rows["user"], f(judged.ranked.ranks))[1]
    return {"user": judged.user_keys[users], **out}


def per_query(judged: Judged) -> dict[str, np.ndarray]:
    """Columns of every query (K=1): its user's key, and the target's rank in each list, from 1."""
    ranks = {
        name: metrics.rank(judged.scores[:, LISTS.index(name), 0]).astype(np.uint16) for name in judged.lists
    }
    if judged.ranked is not None:
        ranks[CATALOGUE] = judged.ranked.ranks.astype(np.uint32)
    return {"user": judged.user_keys[judged.rows["user"]], **ranks}


def keep(workdir: str | AnyPath, judged: Judged, each: bool) -> None:
    """Writes the result to `eval-<split>-<which>.json` in a workdir and, where `each`, every user's means and
    every query's ranks beside it, as Parquet, for `paired.read`."""
    name = f"eval-{judged.result['split']}-{judged.result['which']}"
    write_json(as_path(workdir) / f"{name}.json", judged.result)
    if each:
        from jaxrec import paired  # polars, which not everyone who evaluates has a use for

        paired.write(workdir, name, per_user(judged), per_query(judged))
