"""The figures of tests/hand_service.py by plain loops over its plays."""

import math
from collections import Counter, defaultdict
from functools import cache
from typing import NamedTuple

import hand_service as service
from hand_service import ABANDONED, DAY, HISTORY, PLAYS, TARGETS, TITLES, USERS, Play, plays


class Query(NamedTuple):
    """A target of a user, with what precedes it.

    `titles` are the target and the user's next targets, `history` the latest titles as (title, minutes at
    the query, time of the latest play), oldest first, `hard` the titles abandoned before the query.
    """

    user: str
    position: int
    time: int
    titles: list[str]
    history: list[tuple[str, int, int]]
    hard: set[str]
    seen: set[str]

    @property
    def read(self) -> list[str]:
        """Titles of the history that the model reads."""
        return [title for title, minutes, _ in self.history if minutes >= ABANDONED]


@cache
def of_user(user: str) -> list[Play]:
    return [play for play in plays() if play.user == user]


@cache
def queries(split: str) -> list[Query]:
    """Return the queries of a split, by user and time."""
    out = []
    for user in USERS:
        if PLAYS[user][0] != split:
            continue
        log, targets = of_user(user), []
        for i, play in enumerate(log):
            whole = sum(p.minutes for p in log if p.title == play.title)
            is_first = play.title not in [p.title for p in log[:i]]
            if i and is_first and whole >= ABANDONED:
                targets.append(play)
        for position, target in enumerate(targets):
            before = [p for p in log if p.time < target.time]
            minutes, latest = Counter(), {}
            for p in before:
                minutes[p.title] += p.minutes
                latest[p.title] = p.time
            in_order = sorted(latest, key=latest.get)
            titles = [p.title for p in targets[position : position + TARGETS]]
            history = [(t, minutes[t], latest[t]) for t in in_order[-HISTORY:]]
            hard = {t for t in minutes if minutes[t] < ABANDONED} - set(titles)
            out.append(Query(user, position, target.time, titles, history, hard, set(minutes)))
    return out


@cache
def training_pairs() -> dict[tuple[str, str], int]:
    """Return (user, title) -> time of the first play, of the training users."""
    out = {}
    for play in plays():
        if PLAYS[play.user][0] == "train":
            out.setdefault((play.user, play.title), play.time)
    return out


@cache
def by_popularity() -> list[str]:
    """Return all titles, the most played first; equal ones in the order of the catalogue."""
    count = Counter(title for _, title in training_pairs())
    return sorted(TITLES, key=lambda title: (-count[title], TITLES.index(title)))


@cache
def trending() -> set[str]:
    """Return the first titles that make up half of all plays."""
    count = Counter(title for _, title in training_pairs())
    out, total = set(), 0
    for title in by_popularity():
        if total >= sum(count.values()) / 2:
            break
        out.add(title)
        total += count[title]
    return out


# ---------------------------------------------------------------- scores of the rows of the table


def popularity(query: Query, title: str, hard: set[str]) -> float:
    return -by_popularity().index(title)


def abandoned_last(query: Query, title: str, hard: set[str]) -> float:
    return popularity(query, title, hard) - 1000 * (title in hard or _is_abandoned(query, title))


def _is_abandoned(query: Query, title: str) -> bool:
    return title in [t for t, minutes, _ in query.history if minutes < ABANDONED]


def in_history_first(query: Query, title: str, hard: set[str]) -> float:
    return popularity(query, title, hard) + 1000 * (title in query.seen)


def in_history_last(query: Query, title: str, hard: set[str]) -> float:
    return popularity(query, title, hard) - 1000 * (title in query.seen)


def item_to_item():
    """Return the rule of the cosines over the training queries alone."""
    both, read, chosen = Counter(), Counter(), Counter()
    for query in queries("train"):
        chosen[query.titles[0]] += 1
        for title in query.read:
            read[title] += 1
            both[title, query.titles[0]] += 1

    def score(query: Query, title: str, hard: set[str]) -> float:
        cosines = [
            both[h, title] / math.sqrt(read[h] * chosen[title])
            for h in query.read
            if read[h] and chosen[title]
        ]
        return round(sum(cosines), 6) - 1e-8 * by_popularity().index(title)

    return score


def density(query: Query, title: str, name: str) -> float:
    """Return q: how often the list `name` is expected to hold a title as a negative."""
    hard, in_trending, in_tailing, random = {"enabled": (3, 3, 2, 2), "disabled": (0, 5, 3, 2)}[name]
    met = {p.title for p in of_user(query.user)} - {query.titles[0]}
    left = [t for t in TITLES if t not in met]
    trending_left = [t for t in left if t in trending()]
    real = min(hard, len(query.hard))
    out = real * service.abandoned_density(USERS.index(query.user), TITLES.index(title))
    if title in trending():
        out += (in_trending + hard - real) / max(len(trending_left), 1)
    else:
        out += in_tailing / max(len(left) - len(trending_left), 1)
    return out + random / len(left)


def true_probability(query: Query, title: str) -> float:
    return service.probability(USERS.index(query.user), TITLES.index(title))


# ---------------------------------------------------------------- metrics


def rank(scores: list[float]) -> int:
    """Return the rank of the first score; an equal score is ahead."""
    return 1 + sum(not other < scores[0] for other in scores[1:])


def metrics(ranks: list[int]) -> dict[str, float]:
    """Return the means of the four metrics of a list."""
    out = defaultdict(float)
    for r in ranks:
        out["ndcg@1"] += (r == 1) / len(ranks)
        if r <= 5:
            out["ndcg@5"] += 1 / math.log2(r + 1) / len(ranks)
            out["recall@5"] += 1 / len(ranks)
            out["mrr@5"] += 1 / r / len(ranks)
    return {name: out[name] for name in ("ndcg@1", "ndcg@5", "recall@5", "mrr@5")}


def catalogue_metrics(ranks: list[int]) -> dict[str, float]:
    """Return hit rate, NDCG and MRR of rankings of all titles."""
    out = {}
    for k in (1, 5, 10, 20, 100):
        within = [r for r in ranks if r <= k]
        out[f"hr@{k}"] = len(within) / len(ranks)
        out[f"ndcg@{k}"] = sum(1 / math.log2(r + 1) for r in within) / len(ranks)
        out[f"mrr@{k}"] = sum(1 / r for r in within) / len(ranks)
    return out


def popularity_of_7_days(query: Query) -> list[str]:
    """Return all titles by the training plays of the 7 days before the day of a query."""
    day = query.time // DAY
    count = Counter(t for (_, t), time in training_pairs().items() if day - 7 <= time // DAY < day)
    return sorted(TITLES, key=lambda title: (-count[title], by_popularity().index(title)))


def entropy(weights: list[float]) -> float:
    return -sum(w * math.log(w) for w in weights if w)
