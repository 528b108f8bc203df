"""Model of the simulated service: catalogue, latent states of users, choices.

Every draw is a counter hash of (seed, purpose, user, play, slot). A user is therefore the same alone or in
any batch, and adding users does not change the earlier ones. Utilities are dot products of numbers on a
binary grid (`draws.on_grid`), exact in float32 in any order of summation by BLAS, so that a user makes the
same choices in any batch.

Strengths are in nats. With every knob at 1, a title of a user's first genre gains about `TASTE` over a title
without liked genres. A title of the week's genre gains `INTEREST`, a title of the sitting's genre `MOOD`. A
sitting is a series of plays in immediate succession.
"""

from dataclasses import dataclass

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.core.tables import Lists
from jaxrec.sources.simulator.canvases.titles import CanvasTitles, has_canvases, make_titles
from jaxrec.sources.simulator.change import (
    Change,
    countries_of,
    joining_days,
    make_change,
    taste_of_countries,
)
from jaxrec.sources.simulator.draws import Draw, normal, on_grid

_NAMES = """
drama comedy action thriller romance crime documentary family animation adventure fantasy science-fiction
horror mystery history music sport western
"""
GENRES = np.array(_NAMES.split())  # most common first
DEVICES = np.array(["tv", "phone", "tablet", "web"])
FORMS = np.array(["episode", "film"])
REGIMES = np.array(["ahead", "back"])  # after a title, one prefers the next genre, or the one before
ABANDON_BELOW = 0.05  # completion below which a title is abandoned: the paper's threshold
EPOCH_MS = 1_730_419_200_000  # 2024-11-01 00:00 UTC
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
WEEK_MS = 7 * DAY_MS

TASTE, INTEREST, MOOD, REGIME = 5.0, 2.2, 2.2, 2.2  # nats added to a genre at a knob of 1
TASTE_OF_RANK = (1.0, 0.8, 0.6)  # relative taste for a user's first genres; 0 for the other genres
APPEAL, SATISFACTION = 0.6, 3.0  # nats per standard deviation of a title's appeal and satisfaction
MATCH, MATCH_AT = 0.35, 3.0  # log-odds of staying gain MATCH nats per nat of match above MATCH_AT
STAY, PATIENCE = 1.2, 0.6  # log-odds of staying: mean, and standard deviation over users
SEGMENT_RIGHT, THIRD = 0.75, 0.43 * PATIENCE  # probability of a right segment; bound of thirds of patience
IDIOSYNCRASY = 0.08  # standard deviation of a title's taste vector around its genres
BAIT_SHARE, BAIT, QUIRK = 0.25, 1.5, 0.4  # promise: share of clickbait titles, their addition, deviation
ACTIVITY_SPREAD, ACTIVITY_MOST = 0.75, 20  # deviation of log plays; most plays of a user, in means
OTHERS = 20  # titles of an impression beside the chosen one
_EXPOSURE_BITS = 20


@dataclass(frozen=True)
class SimulatedCatalogue:
    """Titles by row, not ordered by popularity.

    Attributes:
        taste: [V, 18] float32, on the grid.
        genres: Names of each title's genres.
        runtime: [V] float64 whole minutes.
        film: [V] bool.
        appeal: [V] float32, raises the probability of starting; mean 0.
        satisfaction: [V] float32, raises the probability of staying; mean 0.
        exposure: [V] float64, probability of the title in a slot of a slate; sums to 1.
        shelf: [2**20] int32 inverse distribution function of exposure: title of each equal step.
        change: Launches, trends and licences.
        canvases: Names and kinship; None where all plays are from one canvas.
    """

    taste: np.ndarray
    genres: Lists
    runtime: np.ndarray
    film: np.ndarray
    appeal: np.ndarray
    satisfaction: np.ndarray
    exposure: np.ndarray
    shelf: np.ndarray
    change: Change
    canvases: CanvasTitles | None


@dataclass(frozen=True)
class LatentStates:
    """Latent states of users.

    Attributes:
        key: [U] int64.
        taste: [U, 18] float32 nats per genre where `config.taste` is 1, on the grid.
        genres: [U, 3] int64 liked genres, most liked first.
        interest: [U, weeks] int64 genre of each week.
        patience: [U] float32, in log-odds of staying, mean 0.
        plays: [U] int64 number of titles played.
        regime: [U] int64 row of REGIMES.
        country: [U] int64 row of `change.COUNTRIES`.
        joined: [U] int64 first day, since the start, on which the user plays.
    """

    key: np.ndarray
    taste: np.ndarray
    genres: np.ndarray
    interest: np.ndarray
    patience: np.ndarray
    plays: np.ndarray
    regime: np.ndarray
    country: np.ndarray
    joined: np.ndarray


@dataclass(frozen=True)
class SimulatedPlays:
    """First plays of titles, by row of the user, then by time.

    Attributes:
        row: [P] int64 row of the user in LatentStates.
        title: [P] int64 row of SimulatedCatalogue.
        time: [P] int64 milliseconds since 1970, UTC, strictly increasing within a user.
        day: [P] int64 day, since the start, on which the sitting begins.
        mood: [P] int64 genre of the mood.
        index: [P] int64 number of the play among the user's, whose draws it has.
        seconds: [P] float64 seconds of the play's first session.
        later: [P, 2] float64 seconds of the play's later sessions, 0 for none.
        later_time: [P, 2] int64 milliseconds.
        replay: [P] float64 seconds of the replay, 0 for none.
        replay_time: [P] int64 milliseconds.
        seen_from: [P] int64 milliseconds from which the title is not abandoned; largest int64 if never.
        canvas: [P] int8 row of `canvases.queries.CANVASES`.
        source: [P] int64 title on whose page the play began; -1 on other canvases.
    """

    row: np.ndarray
    title: np.ndarray
    time: np.ndarray
    day: np.ndarray
    mood: np.ndarray
    index: np.ndarray
    seconds: np.ndarray
    later: np.ndarray
    later_time: np.ndarray
    replay: np.ndarray
    replay_time: np.ndarray
    seen_from: np.ndarray
    canvas: np.ndarray
    source: np.ndarray

    @property
    def week(self) -> np.ndarray:
        """Return the week [P] in which the sitting begins."""
        return self.day // 7


# ---------------------------------------------------------------- the catalogue


def make_catalogue(c: Simulator) -> SimulatedCatalogue:
    """Generate the catalogue of a config; V = config.titles."""
    row = np.arange(c.titles)
    u = hashing.uniform
    count = 1 + np.searchsorted([0.35, 0.8], u(c.seed, Draw.GENRE_COUNT, row))  # 35% one, 45% two, 20% three
    # Exponential race: a title takes genres in order of arrival; common genres arrive sooner.
    rate = 1.0 / (np.arange(len(GENRES)) + 6.0)
    arrival = -np.log(u(c.seed, Draw.GENRES, row[:, None], np.arange(len(GENRES)))) / rate
    first = np.argsort(arrival, axis=1, kind="stable")[:, :3]
    kept = np.arange(3) < count[:, None]
    weight = np.where(kept, [1.0, 0.8, 0.7], 0.0)
    weight /= np.linalg.norm(weight, axis=1, keepdims=True)
    taste = IDIOSYNCRASY * normal(c.seed, Draw.QUIRK, row[:, None], np.arange(len(GENRES)))
    np.add.at(taste, (row[:, None], first), weight)

    # Appeal and satisfaction share a quality; the clickbait knob separates them by the title's promise.
    quality = normal(c.seed, Draw.QUALITY, row)
    promise = QUIRK * normal(c.seed, Draw.BAIT, row) + BAIT * (u(c.seed, Draw.BAITED, row) < BAIT_SHARE)
    promise -= BAIT * BAIT_SHARE
    film = u(c.seed, Draw.FORM, row) < 0.4
    span = u(c.seed, Draw.RUNTIME, row)
    genres = Lists(GENRES[first[kept]], np.concatenate([[0], np.cumsum(count)]).astype(np.int64))
    return SimulatedCatalogue(
        taste=on_grid(taste),
        genres=genres,
        runtime=np.where(film, 80.0 + np.floor(span * 71), 20.0 + np.floor(span * 41)),
        film=film,
        appeal=(quality + c.clickbait * promise).astype(np.float32),
        satisfaction=(quality - c.clickbait * promise).astype(np.float32),
        **_exposure(c, row),
        change=make_change(c),
        canvases=make_titles(c, taste, genres, GENRES) if has_canvases(c) else None,
    )


def _exposure(c: Simulator, row: np.ndarray) -> dict[str, np.ndarray]:
    """Return Zipf exposure over a random order of the titles, in multiples of 2**-20."""
    steps = 1 << _EXPOSURE_BITS
    order = np.argsort(hashing.mix(c.seed, Draw.RANK, row), kind="stable")
    zipf = np.cumsum((1.0 + row) ** -c.popularity)
    # Each title gets at least one step.
    ends = row + 1 + np.round(zipf / zipf[-1] * (steps - len(row))).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    exposure = np.empty(len(row))
    exposure[order] = counts / steps
    return {"exposure": exposure, "shelf": np.repeat(order, counts).astype(np.int32)}


# ---------------------------------------------------------------- the users


def make_latents(c: Simulator, key: np.ndarray) -> LatentStates:
    """Return the latent states of users by key [U] int64."""
    u, col = hashing.uniform, key[:, None]
    genre = np.arange(len(GENRES))
    arrival = -np.log(u(c.seed, Draw.TASTE, col, genre)) * (genre + 12.0)
    genres = np.argsort(arrival, axis=1, kind="stable")[:, :3]
    week = np.arange(c.weeks)
    moves = u(c.seed, Draw.INTEREST_MOVES, col, week) < c.interest_moves
    last_move = np.maximum.accumulate(np.where(moves, week, 0), axis=1)
    median = c.plays_per_user * np.exp(-(ACTIVITY_SPREAD**2) / 2)
    joined = joining_days(c, key)
    median = median * (1 - joined / (7 * c.weeks))  # users who joined late have played for a shorter time
    plays = np.round(median * np.exp(ACTIVITY_SPREAD * normal(c.seed, Draw.ACTIVITY, key)))
    most = min(ACTIVITY_MOST * c.plays_per_user, c.titles // 2)
    return LatentStates(
        key=key,
        taste=taste_of_genres(genres),
        genres=genres,
        interest=hashing.randint(len(GENRES), c.seed, Draw.INTEREST, col, last_move),
        patience=(c.patience * PATIENCE * normal(c.seed, Draw.PATIENCE, key)).astype(np.float32),
        plays=np.clip(plays, 2, most).astype(np.int64),
        regime=hashing.randint(len(REGIMES), c.seed, Draw.REGIME, key),
        country=countries_of(c, key),
        joined=joined,
    )


def taste_of_genres(genres: np.ndarray) -> np.ndarray:
    """Return the taste [N, 18] float32 of triples of liked genres [N, 3], most liked first."""
    taste = np.zeros((len(genres), len(GENRES)))
    np.put_along_axis(taste, genres, TASTE * np.array(TASTE_OF_RANK)[None], axis=1)
    return on_grid(taste)


def segments(c: Simulator, latents: LatentStates) -> dict[str, np.ndarray]:
    """Return noisy user features of the latent states.

    Returns:
        Name -> int64 [U]. `segment` is the first genre (0 to 17). `segment2` is 18 * third of patience
        (0 to 2) + the second genre. Each of these three values is right with probability 3/4, and random
        otherwise.
    """
    key, n = latents.key, len(GENRES)
    right = hashing.uniform(c.seed, Draw.SEGMENT, key[:, None], np.arange(3)) < SEGMENT_RIGHT
    noise = hashing.randint(n, c.seed, Draw.SEGMENT_NOISE, key[:, None], np.arange(3))
    third = np.searchsorted([-THIRD, THIRD], latents.patience)
    patience = np.where(right[:, 2], third, noise[:, 2] % 3)
    first, second = (np.where(right[:, k], latents.genres[:, k], noise[:, k]) for k in (0, 1))
    return {"segment": first, "segment2": n * patience + second}


def preference(
    c: Simulator, latents: LatentStates, row: np.ndarray, week: np.ndarray, mood: np.ndarray,
    before: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the preference vectors of users at the time of a play.

    A preference is the sum of the user's taste, the country's taste, the week's interest, the mood, and the
    regime's transition: after a title of genre g a user of the regime "ahead" prefers the genre g + 1, and
    one of "back" the genre g - 1, of the 18 genres in a circle.

    Args:
        c: Config.
        latents: Latent states.
        row: [P] rows of `latents`.
        week: [P] week of the play.
        mood: [P] genre of the mood.
        before: [P] main genre of the title that the user played before, -1 for none; None: no transition.

    Returns:
        [P, 18] float32, nats per genre, on the grid.
    """
    vector = on_grid(c.taste * latents.taste[row])
    if c.country_taste:
        vector += taste_of_countries(c, len(GENRES))[latents.country[row]]
    at = np.arange(len(row))
    vector[at, latents.interest[row, week]] += on_grid(np.asarray(c.interest * INTEREST))
    vector[at, mood] += on_grid(np.asarray(c.mood * MOOD))
    if c.regimes and before is not None:
        after = np.nonzero(before >= 0)[0]
        preferred = (before[after] + np.array([1, -1])[latents.regime[row[after]]]) % len(GENRES)
        vector[after, preferred] += on_grid(np.asarray(c.regimes * REGIME))
    return vector


def main_genre(catalogue: SimulatedCatalogue, title: np.ndarray) -> np.ndarray:
    """Return the main genre [...] of titles, the largest of their taste; -1 for the title -1."""
    return np.where(title >= 0, catalogue.taste.argmax(axis=1)[title], -1)


def stay_probability(
    c: Simulator, satisfaction: np.ndarray, patience: np.ndarray, match: np.ndarray
) -> np.ndarray:
    """Return the probability of staying with a title, without interruptions.

    Args:
        c: Config.
        satisfaction: [...] satisfaction of the title, in log-odds of staying.
        patience: [...] patience of the user, in log-odds of staying.
        match: [...] dot product of the preference with the taste vector of the title.

    Returns:
        Probabilities [...] in (0, 1); the arguments are broadcast together.
    """
    odds = STAY + patience + np.float32(c.satisfaction * SATISFACTION) * satisfaction
    odds = odds + np.float32(c.match * MATCH) * (match - np.float32(MATCH_AT))
    return 1.0 / (1.0 + np.exp(-odds))


def abandon_probability(c: Simulator, stay: np.ndarray) -> np.ndarray:
    """Return the probability that a play ends abandoned, from that of staying.

    A play is abandoned if the user leaves, or if it is interrupted below the threshold. An interruption cuts
    the play at the square of a uniform fraction. A play left running by habit is not abandoned.

    Args:
        c: Config.
        stay: [...] result of `stay_probability`.

    Returns:
        [...] in [0, 1].
    """
    return (1.0 - c.habit) * (1.0 - stay * np.float32(1.0 - c.interruptions * np.sqrt(ABANDON_BELOW)))


def final_abandon_probability(c: Simulator, abandoned: np.ndarray) -> np.ndarray:
    """Return the probability that a title is abandoned at the end of the whole log.

    A fraction `replay_abandoned` of abandoned titles is replayed. A replay succeeds with the probability with
    which the first play succeeds.

    Args:
        c: Config.
        abandoned: [...] probability that the first play is abandoned.

    Returns:
        [...] in [0, 1].
    """
    return abandoned * (1.0 - np.float32(c.replay_abandoned) * (1.0 - abandoned))
