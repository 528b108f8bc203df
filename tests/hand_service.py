"""A service small enough to work by hand, and a model whose scores are a table.

Twelve users, 24 titles of 100 minutes, fixed plays. `Parameters` are the scores of every user and title, so
that preparation, training loop, checkpoints and evaluation run as they are, and every figure follows from the
rows and the table alone.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrec.config.schema import (
    Config,
    Data,
    Evaluate,
    Expert,
    Feature,
    Gate,
    Model,
    Objective,
    Sampling,
    Train,
)
from jaxrec.core.ids import FIRST_TITLE
from jaxrec.core.tables import Drops, Interactions, Titles, Users
from jaxrec.tasks import ranking_inputs
from jaxrec.tasks.outputs import TitleScores
from jaxrec.tasks.ranking import RankingTask

SPACING, DAY = 5000, 86_400  # seconds
START = 19_000 * DAY  # the first day of the log, in seconds
NEGATIVES, HISTORY, TARGETS = 10, 4, 3
ABANDONED = 5  # minutes of 100, below which a title is abandoned

# User: split, first day, plays 5,000 seconds apart. "a50" is 50 minutes of title a.
PLAYS = {
    "ann": ("train", 0, "a50 b2 c80 d60 b70 e90 f3 g40"),
    "bea": ("train", 1, "a90 c40 c20 e1 d75 h55 a30"),
    "cem": ("train", 2, "b60 a80 d2 e66 i45 j99"),
    "dot": ("train", 3, "c12 a88 b4 f91 k35"),
    "eli": ("train", 5, "d44 b61 a3 c77 l52 m2"),
    "fay": ("train", 12, "n80 a70 c1 o66 b33"),
    "gil": ("validation", 2, "a60 d1 b75 e82 c50 h1 i64"),
    "hal": ("validation", 8, "c45 k2 a71 f2 d93 b38"),
    "ida": ("test", 1, "a55 q3 b62 c2 d47 c70 e81 r1 f66"),
    "jan": ("test", 6, "s2 c58 a1 e90 b49 a64 t2 k77"),
    "kim": ("test", 9, "e2 f1 a86 c1 b1 d68 g53"),
    "lou": ("test", 15, "h34 a97 u1 v79 w83 c4 d59 h30 a20"),
}
USERS = list(PLAYS)
TITLES = list("qwertuiopasdfghjklxcvbnm")  # letters by row of the catalogue, in no order
SPLITS = ("train", "validation", "test")


class Play(NamedTuple):
    """A play of the raw log; `time` is in seconds since 1970."""

    user: str
    title: str
    time: int
    minutes: int


def plays() -> list[Play]:
    """Return all plays, by user and time."""
    out = []
    for user, (_, day, text) in PLAYS.items():
        for i, play in enumerate(text.split()):
            out.append(Play(user, play[0], START + day * DAY + i * SPACING, int(play[1:])))
    return out


def probability(user: int, row: int) -> float:
    """Return the true density of a title (row of the catalogue) as the next play of a user."""
    return 1.0 + (3 * user + 7 * row) % 10


def abandoned_density(user: int, row: int) -> float:
    """Return the probability that a title drawn from those a user abandoned is this one."""
    return (user + row) % 4 / 40


def mood(user: int) -> float:
    """Return the influence of a user's mood."""
    return user / 20


class HandTruth:
    """Ground truth by the functions above."""

    def densities(self, user, time, title):
        pairs = [[(USERS.index(u), int(row)) for row in rows] for u, rows in zip(user, title, strict=True)]
        return tuple(
            np.array([[f(*pair) for pair in row] for row in pairs]) for f in (probability, abandoned_density)
        )

    def mood(self, user, time):
        return np.array([mood(USERS.index(u)) for u in user])


class HandSource:
    """Source of the plays, in one chunk and in no order."""

    has_completion = True

    def __init__(self) -> None:
        self.drops = Drops()

    def titles(self):
        length = np.array([10.0 * i for i in range(len(TITLES))])
        return Titles(np.array(TITLES), np.full(len(TITLES), 100.0), {"length": length})

    def users(self):
        split = np.array([SPLITS.index(PLAYS[user][0]) for user in USERS], np.int8)
        yield Users(np.array(USERS), {"who": np.array(USERS)}, split)

    def interactions(self, part=None):
        log = sorted(plays(), key=lambda play: (play.minutes, play.title))
        yield Interactions(
            np.array([play.user for play in log]),
            np.array([TITLES.index(play.title) for play in log]),
            np.array([play.time * 1000 for play in log]),
            np.array([60.0 * play.minutes for play in log]),
        )

    def parts(self):
        return (0,)

    def truth(self):
        return HandTruth()

    def files(self):
        return []


def config() -> Config:
    """Return a config of the service with two experts and two heads that rank."""
    experts = (Expert(2, 1, 1, 1.0, 0.0), Expert(4, 1, 1, 1.0, 0.0))
    return Config(
        name="by-hand",
        features=(
            Feature("title_id", "category", "title", 4),
            Feature("length", "number", "title", 4),
            Feature("who", "category", "user", 4),
        ),
        data=Data(
            max_history=HISTORY, num_targets=TARGETS, hard=4, trending=4, tailing=4, random=2,
            negatives=NEGATIVES, partitions=1,
        ),
        sampling=Sampling(negatives=10),
        model=Model(width=4, experts=experts, gate=Gate(hidden=(4,)), head_hidden=(4,)),
        objective=Objective(regression=0.0),
        train=Train(duration="2 epochs", batch_size=8, log_seconds=1e9),
        evaluate=Evaluate(batch_size=8, report_users=2),
    )  # fmt: skip


# ---------------------------------------------------------------- the model that is a table


class Parameters(NamedTuple):
    """Scores [users, titles] and weights of the two experts [users, 2], in the order of USERS and TITLES."""

    scores: np.ndarray
    gate: np.ndarray


def parameters(seed: int) -> Parameters:
    """Return parameters with ties; each seed gives other scores."""
    scores = np.random.default_rng(seed).integers(0, 13, (len(USERS), len(TITLES))) / 8
    first = np.array([0.1 + 0.06 * u for u in range(len(USERS))])
    return Parameters(scores, np.stack([first, 1 - first], 1))


def as_params(parameters: Parameters, title_key: np.ndarray) -> dict[str, np.ndarray]:
    """Return the pytree of a state: scores by id of the feature `who` and id of the title."""
    scores = np.full((FIRST_TITLE + len(USERS), FIRST_TITLE + len(TITLES)), -9.0, np.float32)
    row_of_id = [TITLES.index(key) for key in title_key]
    scores[FIRST_TITLE:, FIRST_TITLE:] = parameters.scores[:, row_of_id]  # USERS are sorted, as ids are
    gate = np.full((FIRST_TITLE + len(USERS), 2), 0.5, np.float32)
    gate[FIRST_TITLE:] = parameters.gate
    return {"scores": scores, "gate": gate}


def _by_head(scores, heads):
    return {head: scores if head == "ranking" else -scores for head in heads}


def _init_params(self, key, table):
    users, titles = FIRST_TITLE + len(USERS), self.layout.num_titles
    return {"scores": jnp.zeros((users, titles)), "gate": jnp.full((users, 2), 0.5)}


def _score_candidates(self, params, projections, history, candidates, table, heads):
    user = history.user_categories[:, 0]
    scores = params["scores"][user[:, None, None, None], candidates]
    return _by_head(scores, heads), params["gate"][user]


def _score_all_titles(self, params, host, table, heads):
    queries = ranking_inputs.queries(host.words, self.view, host.packing)
    scores = params["scores"][queries.history.user_categories[:, 0]]
    return TitleScores(_by_head(scores, heads), queries.rows["target"][:, 0], queries.rows["history_title"])


def _batch_loss(self, params, batch, table, tau, key, catalogue=None, moving=None, usage=None):
    """Return the sum of the scores of the negatives as the loss."""
    scores = params["scores"][batch.history.user_categories[:, :1], batch.negative].sum(1)
    total, count = jnp.where(batch.valid, scores, 0.0).sum(), batch.valid.sum()
    return total, {"loss": (total, count)}


def use_table(monkeypatch: Any) -> None:
    """Replace the model of ranking tasks by the table of its parameters."""
    for name, function in {
        "init_params": _init_params, "_score_candidates": _score_candidates,
        "score_all_titles": _score_all_titles, "batch_loss": _batch_loss,
        "cached_projections": lambda self, params, table, queries: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(RankingTask, name, function)
