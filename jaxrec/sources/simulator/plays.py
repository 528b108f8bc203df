"""Plays of the simulated service: sittings, choices from slates, replays."""

from typing import NamedTuple

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.core.errors import InputError
from jaxrec.sources.simulator.canvases.queries import HOME, SIMILAR, draw_canvases
from jaxrec.sources.simulator.change import can_lack_titles
from jaxrec.sources.simulator.draws import Draw
from jaxrec.sources.simulator.world import (
    ABANDON_BELOW,
    APPEAL,
    DAY_MS,
    EPOCH_MS,
    GENRES,
    HOUR_MS,
    MINUTE_MS,
    WEEK_MS,
    LatentStates,
    SimulatedCatalogue,
    SimulatedPlays,
    main_genre,
    preference,
    stay_probability,
)

NEVER = np.iinfo(np.int64).max
# Relative number of sittings that begin in each hour, UTC: a small peak at noon, a large one in the evening.
HOURS = np.array([3, 2, 1, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 4, 4, 5, 7, 9, 11, 12, 11, 8, 5], float)
HABIT_FROM = 0.85  # least completion of a play that is left running by habit
SESSION_RATES = {True: 0.3, False: 0.12}  # film -> probability of more than one session; of three, times .3
FIRST_SHARES = (1.0, 0.6, 0.45)  # fraction of a play in its first session, by the number of sessions
_USER_BITS = 44  # composite keys: user row in the high bits, milliseconds since EPOCH_MS in the low 44 bits
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def make_plays(c: Simulator, catalogue: SimulatedCatalogue, latents: LatentStates) -> SimulatedPlays:
    """Generate all plays of the users in `latents`, sorted by user and time.

    Args:
        c: Settings of the simulator.
        catalogue: Titles of the service.
        latents: Latent states of U users.
    """
    start, mood, begin = _sittings(c, latents)
    day = (begin - EPOCH_MS) // DAY_MS
    choices = _choices(c, catalogue, latents, day, mood)
    row, n = np.nonzero(choices.title >= 0)
    title, match, canvas, source = (column[row, n] for column in choices)
    key = latents.key[row]
    watched = _watch(c, catalogue, latents.patience[row], key, n, title, match)
    length = np.zeros(mood.shape, np.int64)
    length[row, n] = np.ceil(watched["seconds"] * 1000).astype(np.int64)
    time = _times(c, latents.key, start, begin, length)[row, n]
    return SimulatedPlays(
        row=row,
        title=title,
        time=time,
        day=day[row, n],
        mood=mood[row, n],
        index=n,
        canvas=canvas,
        source=source,
        **_later_sessions(c, catalogue, key, n, title, time, watched),
    )


# ---------------------------------------------------------------- times


def _sittings(c: Simulator, latents: LatentStates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sitting of each play, [U, N].

    N is the largest number of plays of any of the users; a larger N does not change the result.

    Returns:
        Whether the play opens a sitting, the mood (a genre), and the begin of the sitting in milliseconds.
    """
    key, n = latents.key[:, None], np.arange(latents.plays.max(initial=1))
    start = sitting_starts(c, latents)
    moves = start | (hashing.uniform(c.seed, Draw.MOOD_MOVES, key, n) < c.mood_moves)
    moved = np.maximum.accumulate(np.where(moves, n, 0), axis=1)  # the play since which the mood lasts
    mood = hashing.randint(len(GENRES), c.seed, Draw.MOOD, key, moved)
    hour = np.searchsorted(np.cumsum(HOURS) / HOURS.sum(), hashing.uniform(c.seed, Draw.HOUR, key, n))
    days, joined = 7 * c.weeks, latents.joined[:, None]
    day = joined + hashing.randint(days, c.seed, Draw.DAY, key, n) * (days - joined) // days
    begin = day * DAY_MS + hour * HOUR_MS
    begin += hashing.randint(HOUR_MS, c.seed, Draw.MINUTE, key, n)
    played = start & (n < latents.plays[:, None])
    begin = np.sort(np.where(played, begin + EPOCH_MS, NEVER), axis=1)
    sitting = np.cumsum(start, axis=1) - 1
    begin = np.take_along_axis(begin, sitting, axis=1)
    return start, mood, np.where(n < latents.plays[:, None], begin, EPOCH_MS)


def sitting_starts(c: Simulator, latents: LatentStates) -> np.ndarray:
    """Return whether plays open a sitting, [U, N] bool; N as in `_sittings`."""
    n = np.arange(latents.plays.max(initial=1))
    return (hashing.uniform(c.seed, Draw.SITTING, latents.key[:, None], n) < 1.0 / c.sitting) | (n == 0)


def _times(
    c: Simulator, key: np.ndarray, start: np.ndarray, begin: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Return the time of each play, [U, N] milliseconds.

    Within a sitting, a play begins 1 to 10 minutes after the end of the previous play. A sitting begins at
    its drawn time, or half an hour after the previous sitting, whichever is later.
    """
    n = np.arange(start.shape[1])
    gap = MINUTE_MS + hashing.randint(9 * MINUTE_MS, c.seed, Draw.GAP, key[:, None], n)
    step = length + gap + 30 * MINUTE_MS * np.roll(start, -1, axis=1)  # a long break before a sitting
    elapsed = np.cumsum(step, axis=1) - step
    return elapsed + np.maximum.accumulate(np.where(start, begin - elapsed, np.iinfo(np.int64).min), axis=1)


# ---------------------------------------------------------------- titles


class _Choices(NamedTuple):
    """Choices of the plays of U users, N plays each."""

    title: np.ndarray  # [U, N] int64 row of the title, -1 for none
    match: np.ndarray  # [U, N] float32 dot product of preference and title
    canvas: np.ndarray  # [U, N] int8 row of CANVASES
    source: np.ndarray  # [U, N] int64 title on whose page the choice is made, -1 for none


def _choices(
    c: Simulator, catalogue: SimulatedCatalogue, latents: LatentStates, day: np.ndarray, mood: np.ndarray
) -> _Choices:
    """Return the choice of each play.

    The slots of a slate are filled from the exposure with replacement. Titles played before, and titles that
    are unavailable on the day in the country, have weight 0. One slot is chosen by softmax of
    preference . taste of the title + appeal + change of the utility by the day + kinship on a title's page.
    """
    order = np.argsort(-latents.plays, kind="stable")  # the users who still play are a prefix of this order
    num_active = np.searchsorted(-latents.plays[order], -np.arange(mood.shape[1]), side="left")
    played = np.zeros((len(order), len(catalogue.exposure)), bool)
    out = _Choices(
        np.full(mood.shape, -1, np.int64), np.zeros(mood.shape, np.float32),
        np.full(mood.shape, HOME, np.int8), np.full(mood.shape, -1, np.int64),
    )  # fmt: skip
    liked = np.full(len(order), -1)  # last title of each of `order` that was watched and not abandoned
    before = np.full(len(order), -1)  # main genre of the last title of each of `order`
    genre = main_genre(catalogue, np.arange(len(catalogue.exposure)))
    of_appeal = attraction(c, catalogue)
    basis = np.ascontiguousarray(catalogue.taste.T)
    for n, active in enumerate(num_active):
        if not active:
            break
        users = order[:active]
        index = np.arange(active)
        slate = slate_titles(c, catalogue.shelf, latents.key[users], n)
        today = day[users, n]
        match = preference(c, latents, users, today // 7, mood[users, n], before[:active]) @ basis
        flat = slate + (index * match.shape[1])[:, None]
        utility = match.ravel()[flat] + of_appeal[slate] + catalogue.change.utility(today, slate)
        if catalogue.canvases is not None:
            canvas = draw_canvases(c, latents.key[users], n, liked[:active])
            out.canvas[users, n] = canvas
            out.source[users, n] = source = np.where(canvas == SIMILAR, liked[:active], -1)
            utility += np.float32(c.kinship) * catalogue.canvases.kinship(source, slate)
        weight = np.exp(utility - utility.max(axis=1, keepdims=True))
        weight[played.ravel()[flat]] = 0.0
        if can_lack_titles(c):
            weight[~catalogue.change.is_offered(today, latents.country[users], slate)] = 0.0
        ends = np.cumsum(weight, axis=1, dtype=np.float64)
        point = hashing.uniform(c.seed, Draw.CHOICE, latents.key[users], n) * ends[:, -1]
        slot = np.minimum((ends <= point[:, None]).sum(axis=1), c.slate - 1)
        chosen = slate[index, slot].astype(np.int64)
        possible = ends[:, -1] > 0
        played[index[possible], chosen[possible]] = True
        out.title[users[possible], n] = chosen[possible]
        out.match[users, n] = match[index, chosen]
        before[index[possible]] = genre[chosen[possible]]
        if c.similar:
            of_play = latents.key[users], np.full(active, n), chosen, out.match[users, n]
            completion = _watch(c, catalogue, latents.patience[users], *of_play)["completion"]
            liked[:active] = np.where(possible & (completion >= ABANDON_BELOW), chosen, liked[:active])
    return out


def attraction(c: Simulator, catalogue: SimulatedCatalogue) -> np.ndarray:
    """Return the nats [V] float32 of the appeal of titles."""
    return np.float32(c.appeal * APPEAL) * catalogue.appeal


def slate_titles(c: Simulator, shelf: np.ndarray, key: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Return the slate of play `n` of users, [users, slate] int32 titles.

    A hash of 64 bits fills three slots of 20 bits. `n` is one number, or one for each user.
    """
    base = hashing.mix(c.seed, Draw.SLATE, key, n)[:, None]
    with np.errstate(over="ignore"):
        words = hashing.finalise(base + np.arange(1, -(-c.slate // 3) + 1, dtype=np.uint64) * _GOLDEN)
    bits = np.uint64(len(shelf) - 1)
    slots = [(words >> np.uint64(shift)) & bits for shift in (0, 20, 40)]
    return shelf[np.concatenate(slots, axis=1)[:, : c.slate].astype(np.int64)]


# ---------------------------------------------------------------- completion


def _watch(
    c: Simulator,
    catalogue: SimulatedCatalogue,
    patience: np.ndarray,
    key: np.ndarray,
    n: np.ndarray,
    title: np.ndarray,
    match: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the completion of each play and its division into sessions.

    Args:
        c: Config.
        catalogue: Titles.
        patience: [P] patience of the user.
        key: [P] key of the user.
        n: [P] index of the play among the user's plays.
        title: [P] row of the title.
        match: [P] match of user and title.

    Returns:
        [P] arrays: `stay`, probability of staying; `completion` of the whole play; `sessions`, number of
        sessions; `all`, seconds of the whole play; `seconds`, seconds of the first session.
    """
    stay = stay_probability(c, catalogue.satisfaction[title], patience, match)
    stays = hashing.uniform(c.seed, Draw.STAY, key, n) < stay
    fraction = hashing.uniform(c.seed, Draw.SHARE, key, n)
    cut = np.where(
        hashing.uniform(c.seed, Draw.CUT, key, n) < c.interruptions,
        hashing.uniform(c.seed, Draw.CUT_AT, key, n) ** 2,
        1.0,
    )
    # A user who stays watches at least a fifth, and more the likelier staying was; a user who leaves, at most
    # 2.4% of the title.
    completion = np.where(stays, 0.2 + 0.8 * fraction ** (0.6 - 0.4 * stay), 0.002 + 0.022 * fraction)
    completion = np.minimum(completion, cut)
    if c.habit:  # nobody is there to leave or to be interrupted
        running = hashing.uniform(c.seed, Draw.HABIT, key, n) < c.habit
        completion = np.where(running, HABIT_FROM + (1.0 - HABIT_FROM) * fraction, completion)
    split = hashing.uniform(c.seed, Draw.SESSIONS, key, n)
    often = np.where(catalogue.film[title], SESSION_RATES[True], SESSION_RATES[False])
    sessions = 1 + (split < often) + (split < 0.3 * often)
    sessions = np.where(completion < 0.2, 1, sessions)
    first = np.array(FIRST_SHARES)[sessions - 1]  # fraction of the play in its first session
    seconds = completion * 60.0 * catalogue.runtime[title]
    return {
        "stay": stay,
        "completion": completion,
        "sessions": sessions,
        "all": seconds,
        "seconds": first * seconds,
    }


def _later_sessions(
    c: Simulator,
    catalogue: SimulatedCatalogue,
    key: np.ndarray,
    n: np.ndarray,
    title: np.ndarray,
    time: np.ndarray,
    watched: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Return the sessions after the first one, and the replay, of each play.

    Returns:
        The fields of SimulatedPlays from `seconds` to `seen_from`.
    """
    completion, sessions = watched["completion"], watched["sessions"]
    wait = DAY_MS // 4 - DAY_MS * np.log(
        hashing.uniform(c.seed, Draw.SESSION_GAP, key[:, None], n[:, None], [0, 1])
    )
    ended = time + np.ceil(watched["seconds"] * 1000).astype(np.int64)
    later_time = ended[:, None] + np.cumsum(wait.astype(np.int64), axis=1)
    rest = (watched["all"] - watched["seconds"]) / np.maximum(sessions - 1, 1)
    later = np.where(sessions[:, None] > np.array([1, 2]), rest[:, None], 0.0)

    low = completion < ABANDON_BELOW
    again = hashing.uniform(c.seed, Draw.REPLAY, key, n) < np.where(low, c.replay_abandoned, c.replay_watched)
    success = 1.0 - c.interruptions * np.sqrt(ABANDON_BELOW)  # as in `abandon_probability`
    stays = hashing.uniform(c.seed, Draw.REPLAY_STAY, key, n) < c.habit + (1.0 - c.habit) * (
        watched["stay"] * success
    )
    fraction = hashing.uniform(c.seed, Draw.REPLAY_SHARE, key, n)
    # The completion of a failed replay is limited, so that the sum of both plays stays below the threshold.
    more = np.where(low & ~stays, 0.95 * (ABANDON_BELOW - completion) * fraction, 0.1 + 0.9 * fraction)
    span = np.maximum(EPOCH_MS + c.weeks * WEEK_MS - time, DAY_MS)
    replay_time = (
        later_time[:, 1] + 1 + (hashing.uniform(c.seed, Draw.REPLAY_AT, key, n) * span).astype(np.int64)
    )
    seen_again = np.where(again & stays, replay_time, NEVER)
    return {
        "seconds": watched["seconds"],
        "later": later,
        "later_time": later_time,
        "replay": np.where(again, more * 60.0 * catalogue.runtime[title], 0.0),
        "replay_time": replay_time,
        "seen_from": np.where(low, seen_again, time),
    }


# ---------------------------------------------------------------- the play of a request


def play_index(latents: LatentStates, plays: SimulatedPlays, row: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return the [N] indices of the last first play at or before each time.

    Raises:
        InputError: A user has no play at or before the time.
    """
    at = np.searchsorted(composite(plays.row, plays.time), composite(row, time), side="right") - 1
    missing = (at < 0) | (plays.row[at] != row)
    if missing.any():
        n = np.nonzero(missing)[0][0]
        raise InputError(f"user {latents.key[row[n]]}, time {time[n]}: no play at or before this time")
    return at


def composite(row: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return whole numbers [N] in the order of (row, time)."""
    return (row << _USER_BITS) + np.clip(time - EPOCH_MS, 0, (1 << _USER_BITS) - 1)
