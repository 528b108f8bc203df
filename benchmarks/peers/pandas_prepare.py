"""Dataset preparation of jaxrec/data in pandas and NumPy, as in common practice.

Frames hold the log. A loop over users and their examples computes histories, pools and lists. `Keyed` makes
the draws of jaxrec, so that the rows can be compared with jaxrec's. `Generator` draws from NumPy's
generator, as usual code does; it is faster here, and it is the one that is timed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxrec.config.schema import LIST_MIXES, Config
from jaxrec.core.hashing import mix, of_keys
from jaxrec.core.ids import DRAWN_LISTS, SPLITS
from jaxrec.data.events.users import split_of
from jaxrec.data.examples.negatives import RANDOM, TAILING, TRENDING, permute

_TRAIN_DRAW, _HARD_DRAW = 0, 1000  # as in jaxrec/data/examples/ranking.py


class Keyed:
    """Draws from jaxrec's counter hashes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def start(self, user: Any, position: int) -> np.ndarray:
        return mix(self.seed, np.array([user]), position)

    def salted(self, key: np.ndarray, *salt: int) -> np.ndarray:
        return mix(key, *salt)

    def pick(self, key: np.ndarray, pool: int, titles: np.ndarray, count: int) -> np.ndarray:
        slot = np.arange(count)
        return titles[permute(slot, 0 * slot, np.array([len(titles)]), mix(key, pool))]

    def shuffled(self, key: np.ndarray, titles: np.ndarray, *salt: int) -> np.ndarray:
        return titles[np.argsort(mix(key, *salt, titles), kind="stable")]


class Generator:
    """Draws from NumPy's generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def start(self, user: Any, position: int) -> None: ...

    def salted(self, key: None, *salt: int) -> None: ...

    def pick(self, key: None, pool: int, titles: np.ndarray, count: int) -> np.ndarray:
        return self.rng.choice(titles, count, replace=False) if count else titles[:0]

    def shuffled(self, key: None, titles: np.ndarray, *salt: int) -> np.ndarray:
        return self.rng.permutation(titles)


def prepare(folder: Path, config: Config, draws: Any) -> dict[str, dict[str, np.ndarray]]:
    """Return split -> field -> rows, as jaxrec's, of `benchmarks.prepare`'s tables."""
    log, titles = _clean(folder, config)
    train = log[log.split == 0].drop_duplicates(["user", "title"])
    plays = train.title.value_counts().reindex(range(len(titles)), fill_value=0).to_numpy()
    order = np.argsort(-plays, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    running = np.cumsum(plays[order])
    trending = int(np.searchsorted(running, running[-1] / 2) + 1)
    log["rank"] = rank[log.title]

    pair = log.groupby(["user", "title"])
    runtime = np.rint(60_000.0 * log.runtime_minutes)
    log["completion"] = (pair.ms.cumsum() / runtime).clip(0, 1)
    log["total"] = (pair.ms.transform("sum") / runtime).clip(0, 1)
    log["sessions"] = pair.cumcount() + 1

    examples_by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    numbers = dict.fromkeys(SPLITS, 0)
    columns = {name: log[name].to_numpy() for name in _COLUMNS}
    for rows in log.groupby("user", sort=True).indices.values():
        user = {name: column[rows] for name, column in columns.items()}
        split = SPLITS[user["split"][0]]
        examples = _user(user, split, len(titles), trending, config, draws)
        examples_by_split[split] += [{"user": numbers[split], **example} for example in examples]
        numbers[split] += 1
    return {
        s: {n: np.stack([r[n] for r in examples_by_split[s]]) for n in examples_by_split[s][0]}
        for s in SPLITS
    }


_COLUMNS = (
    "user", "split", "rank", "time", "completion", "total", "sessions", "device", "country",
)  # fmt: skip


def _clean(folder: Path, config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return events sorted by user hash, time and title; and the titles."""
    titles = pd.read_parquet(folder / "titles.parquet")
    titles["title"] = np.arange(len(titles))
    users = pd.read_parquet(folder / "users.parquet")
    users["country"] = pd.Categorical(users.country).codes + 2
    log = pd.read_parquet(folder / "interactions").rename(columns={"started_at": "time"})
    log = log.merge(titles[["title_id", "title", "runtime_minutes"]], on="title_id")
    first, last = (pd.Timestamp(day).value // 10**6 for day in (config.data.earliest, config.data.latest))
    log = log[(log.time >= first) & (log.time < last) & (log.seconds_viewed >= 0) & (log.runtime_minutes > 0)]
    log["ms"] = np.rint(log.seconds_viewed * 1000).astype(np.int64)
    log["device"] = pd.Categorical(log.device.replace("", None)).codes + 2
    log = log.sort_values(["ms", "device"], ascending=[False, True])
    log = log.drop_duplicates(["user_id", "title", "time"]).merge(users, on="user_id", how="left")
    log["country"] = log.country.fillna(1).astype(np.int64)
    log["user"] = of_keys(log.user_id.to_numpy())
    log["split"] = split_of(log.user.to_numpy(), config)
    return log.sort_values(["user", "time", "title"]).reset_index(drop=True), titles


def _user(
    log: dict[str, np.ndarray], split: str, titles: int, trending: int, config: Config, draws: Any
) -> list[dict[str, Any]]:
    """Return the examples of one user, ordered by time."""
    data, rank, time = config.data, log["rank"], log["time"]
    universe = np.setdiff1d(np.arange(titles), rank)
    pools = universe[universe < trending], universe[universe >= trending]
    positions = [
        i
        for i in range(len(rank))
        if time[i] > time[0] and log["total"][i] >= data.abandon_threshold and log["sessions"][i] == 1
    ]
    examples, latest, consumed = [], dict[int, int](), 0  # latest: the last play of each title, oldest first
    for position, i in enumerate(positions):
        while time[consumed] < time[i]:
            latest.pop(rank[consumed], None)
            latest[rank[consumed]] = consumed
            consumed += 1
        upcoming = positions[position : position + data.num_targets]
        target = rank[upcoming]
        key = draws.start(log["user"][i], position)
        hard = np.array(
            [
                r
                for r, j in latest.items()
                if log["completion"][j] < data.abandon_threshold and r not in target
            ],
            np.int64,
        )
        hard = draws.shuffled(key, hard, _HARD_DRAW)[: max(data.hard, data.negatives)]
        example = {
            "position": position,
            **_history(log, i, list(latest.values())[-data.max_history :], config),
            "target": _padded(target + 2, data.num_targets),
            "target_completion": _padded(log["total"][upcoming].astype(np.float32), data.num_targets),
        }
        fill = _pools if split == "train" else _lists
        columns = fill(key, hard, len(target), pools, universe, config, draws)
        if columns is not None:
            examples.append(example | columns)
    return examples


def _history(log: dict[str, np.ndarray], i: int, past: list[int], config: Config) -> dict[str, np.ndarray]:
    empty, completion = config.data.max_history - len(past), log["completion"][past]
    age = np.log1p((log["time"][i] - log["time"][past]) / 1000.0)
    columns = {
        "title": (log["rank"][past] + 2).astype(np.int32),
        "completion": completion.astype(np.float16),
        "age": age.astype(np.float16),
        "sessions": np.minimum(log["sessions"][past], 255).astype(np.uint8),
        "abandoned": (completion < config.data.abandon_threshold).astype(np.uint8),
    }
    history = {f"history_{name}": np.pad(column, (empty, 0)) for name, column in columns.items()}
    ids = {"user_categories": log["country"][i : i + 1], "context_categories": log["device"][i : i + 1]}
    return history | ids


def _padded(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, (0, width - len(values)))


def _pools(
    key: Any, hard: np.ndarray, present: int, pools: tuple[np.ndarray, np.ndarray], universe: np.ndarray,
    config: Config, draws: Any,
) -> dict[str, np.ndarray] | None:  # fmt: skip
    data = config.data
    widths = (data.hard, data.trending, data.tailing, data.random)
    drawn = _draw(draws.salted(key, _TRAIN_DRAW), hard, pools, universe, widths, draws)
    if drawn is None:
        return None
    columns = {
        f"pool_{n}": p + 2 for n, p in zip(("hard", "trending", "tailing", "random"), drawn, strict=True)
    }
    return columns | {"pool_hard_filled": (np.arange(data.hard) >= len(hard)).astype(np.uint8)}


def _lists(
    key: Any, hard: np.ndarray, present: int, pools: tuple[np.ndarray, np.ndarray], universe: np.ndarray,
    config: Config, draws: Any,
) -> dict[str, np.ndarray] | None:  # fmt: skip
    data, columns = config.data, {}
    for l, name in enumerate(DRAWN_LISTS):
        list_mix = LIST_MIXES[name]
        fractions = (list_mix.hard, list_mix.trending, list_mix.tailing, list_mix.random)
        widths = tuple(round(fraction * data.negatives) for fraction in fractions)
        lists = np.zeros((data.num_targets, data.negatives), np.int64)
        for k in range(present):
            salt = 1 + l * data.num_targets + k
            list_hard = draws.shuffled(draws.salted(key, salt, _HARD_DRAW), hard)
            drawn = _draw(draws.salted(key, salt), list_hard, pools, universe, widths, draws)
            if drawn is None:
                return None
            lists[k] = np.concatenate(drawn) + 2
        columns[f"list_{name}"] = lists
    enabled = min(len(hard), round(LIST_MIXES["enabled"].hard * data.negatives))
    nothing = np.full(1 + data.negatives, np.nan, np.float32)
    columns["num_hard"] = _padded(np.full(present, enabled), data.num_targets)
    unknown = {f"{kind}_{name}": nothing for kind in ("oracle", "truth") for name in DRAWN_LISTS}
    return columns | unknown | {"mood": np.asarray(np.nan, np.float32)}


def _draw(
    key: Any, hard: np.ndarray, pools: tuple[np.ndarray, np.ndarray], universe: np.ndarray,
    widths: tuple[int, ...], draws: Any,
) -> list[np.ndarray] | None:  # fmt: skip
    """Return hard, trending, tailing and random columns, all titles different.

    A short pool is filled from the trending titles, then from random titles.

    Returns:
        The four columns; None where too few titles are left.
    """
    w_hard, w_trend, w_tail, w_random = widths
    trend, tail = pools
    hard = hard[:w_hard]
    n_trend, n_tail = min(w_trend, len(trend)), min(w_tail, len(tail))
    fills = w_tail - n_tail + w_hard - len(hard)
    spare = min(fills, len(trend) - n_trend)
    n_random = w_random + w_trend - n_trend + fills - spare
    pick: Callable[..., np.ndarray] = draws.pick
    from_trend = pick(key, TRENDING, trend, n_trend + spare)
    from_tail = pick(key, TAILING, tail, n_tail)
    rest = np.setdiff1d(universe, np.concatenate([from_trend, from_tail]), assume_unique=True)
    if n_random > len(rest):
        return None
    random = pick(key, RANDOM, rest, n_random)
    bounds = np.cumsum([w_trend - n_trend, fills - spare])
    trend_fill, tail_fill, random = np.split(random, bounds)
    filled = np.concatenate([from_trend[n_trend:], tail_fill])
    return [
        np.concatenate([hard, filled[w_tail - n_tail :]]),
        np.concatenate([from_trend[:n_trend], trend_fill]),
        np.concatenate([from_tail, filled[: w_tail - n_tail]]),
        random,
    ]
