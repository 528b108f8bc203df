"""What users of the simulated service play: sittings, choices among slates, watching, replays."""

import numpy as np

from jaxrec.config.schema import Simulator
from jaxrec.core import hashing
from jaxrec.sources.simulator.world import (
    ABANDON_BELOW,
    APPEAL,
    DAY_MS,
    EPOCH_MS,
    GENRES,
    HOUR_MS,
    MINUTE_MS,
    WEEK_MS,
    Draw,
    LatentStates,
    SimulatedCatalogue,
    SimulatedPlays,
    staying,
    wishes,
)

NEVER = np.iinfo(np.int64).max
# share of sittings that begin in each hour, UTC: a small peak at noon, a large one in the evening
HOURS = np.array([3, 2, 1, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 4, 4, 5, 7, 9, 11, 12, 11, 8, 5], float)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def make_plays(c: Simulator, catalogue: SimulatedCatalogue, latents: LatentStates) -> SimulatedPlays:
    """All plays of the users in `latents`."""
    start, mood, begin = _sittings(c, latents)
    week = np.minimum((begin - EPOCH_MS) // WEEK_MS, c.weeks - 1)
    title, match = _choices(c, catalogue, latents, week, mood)
    row, n = np.nonzero(title >= 0)
    key, title, match = latents.key[row], title[row, n], match[row, n]
    watched = _watching(c, catalogue, latents.patience[row], key, n, title, match)
    length = np.zeros(mood.shape, np.int64)
    length[row, n] = np.ceil(watched["seconds"] * 1000).astype(np.int64)
    time = _times(c, latents.key, start, begin, length)[row, n]
    return SimulatedPlays(
        row=row,
        title=title,
        time=time,
        week=week[row, n],
        mood=mood[row, n],
        **_rows_after(c, catalogue, key, n, title, time, watched),
    )


# ---------------------------------------------------------------- when


def _sittings(c: Simulator, latents: LatentStates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each user and play [U, N]: whether it opens a sitting, the sitting's mood (a genre), and its
    begin in milliseconds. N is the most plays of any of the users; more of them changes nothing."""
    key, n = latents.key[:, None], np.arange(latents.plays.max(initial=1))
    start = (hashing.uniform(c.seed, Draw.SITTING, key, n) < 1.0 / c.sitting) | (n == 0)
    opened = np.maximum.accumulate(np.where(start, n, 0), axis=1)  # the play that opened the sitting
    mood = hashing.below(len(GENRES), c.seed, Draw.MOOD, key, opened)
    hour = np.searchsorted(np.cumsum(HOURS) / HOURS.sum(), hashing.uniform(c.seed, Draw.HOUR, key, n))
    begin = hashing.below(7 * c.weeks, c.seed, Draw.DAY, key, n) * DAY_MS + hour * HOUR_MS
    begin += hashing.below(HOUR_MS, c.seed, Draw.MINUTE, key, n)
    real = start & (n < latents.plays[:, None])
    begin = np.sort(np.where(real, begin + EPOCH_MS, NEVER), axis=1)
    sitting = np.cumsum(start, axis=1) - 1
    begin = np.take_along_axis(begin, sitting, axis=1)
    return start, mood, np.where(n < latents.plays[:, None], begin, EPOCH_MS)


def _times(
    c: Simulator, key: np.ndarray, start: np.ndarray, begin: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """[U, N] milliseconds: each play follows the one before it in its sitting after 1 to 10 minutes, and a
    sitting begins when it should or half an hour after the last one, whichever is later."""
    n = np.arange(start.shape[1])
    gap = MINUTE_MS + hashing.below(9 * MINUTE_MS, c.seed, Draw.GAP, key[:, None], n)
    step = length + gap + 30 * MINUTE_MS * np.roll(start, -1, axis=1)  # a long break before a sitting
    done = np.cumsum(step, axis=1) - step
    return done + np.maximum.accumulate(np.where(start, begin - done, np.iinfo(np.int64).min), axis=1)


# ---------------------------------------------------------------- what


def _choices(
    c: Simulator, catalogue: SimulatedCatalogue, latents: LatentStates, week: np.ndarray, mood: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The title of each play [U, N] int64, -1 for none, and its match [U, N] float32.

    A slate's places are filled from the exposure with replacement; titles played before have no
    weight; one place is chosen by softmax of wish . title + appeal.
    """
    order = np.argsort(-latents.plays, kind="stable")  # so that those who still play are a prefix
    going = np.searchsorted(-latents.plays[order], -np.arange(mood.shape[1]), side="left")
    played = np.zeros((len(order), len(catalogue.exposure)), bool)
    titles = np.full(mood.shape, -1, np.int64)
    matches = np.zeros(mood.shape, np.float32)
    attraction = np.float32(c.appeal * APPEAL) * catalogue.appeal
    basis = np.ascontiguousarray(catalogue.taste.T)
    for n, active in enumerate(going):
        if not active:
            break
        who = order[:active]
        here = np.arange(active)
        slate = _slate(c, catalogue.shelf, latents.key[who], n)
        match = wishes(c, latents, who, week[who, n], mood[who, n]) @ basis
        flat = slate + (here * match.shape[1])[:, None]
        utility = match.ravel()[flat] + attraction[slate]
        weight = np.exp(utility - utility.max(axis=1, keepdims=True))
        weight[played.ravel()[flat]] = 0.0
        ends = np.cumsum(weight, axis=1, dtype=np.float64)
        point = hashing.uniform(c.seed, Draw.CHOICE, latents.key[who], n) * ends[:, -1]
        place = np.minimum((ends <= point[:, None]).sum(axis=1), c.slate - 1)
        chosen = slate[here, place].astype(np.int64)
        some = ends[:, -1] > 0
        played[here[some], chosen[some]] = True
        titles[who[some], n] = chosen[some]
        matches[who, n] = match[here, chosen]
    return titles, matches


def _slate(c: Simulator, shelf: np.ndarray, key: np.ndarray, n: int) -> np.ndarray:
    """[users, slate] int32 titles; a hash of 64 bits fills three places of 20 bits."""
    base = hashing.mix(c.seed, Draw.SLATE, key, n)[:, None]
    with np.errstate(over="ignore"):
        words = hashing.finalise(base + np.arange(1, -(-c.slate // 3) + 1, dtype=np.uint64) * _GOLDEN)
    bits = np.uint64(len(shelf) - 1)
    places = [(words >> np.uint64(shift)) & bits for shift in (0, 20, 40)]
    return shelf[np.concatenate(places, axis=1)[:, : c.slate].astype(np.int64)]


# ---------------------------------------------------------------- how much of it


def _watching(
    c: Simulator,
    catalogue: SimulatedCatalogue,
    patience: np.ndarray,
    key: np.ndarray,
    n: np.ndarray,
    title: np.ndarray,
    match: np.ndarray,
) -> dict[str, np.ndarray]:
    """Of each play [P]: probability of staying, completion of the whole play, its split over sessions."""
    stay = staying(c, catalogue.satisfaction[title], patience, match)
    stays = hashing.uniform(c.seed, Draw.STAY, key, n) < stay
    share = hashing.uniform(c.seed, Draw.SHARE, key, n)
    cut = np.where(
        hashing.uniform(c.seed, Draw.CUT, key, n) < c.interruptions,
        hashing.uniform(c.seed, Draw.CUT_AT, key, n) ** 2,
        1.0,
    )
    # one who stays sees most of it, and ever more where all is well; one who leaves, a few minutes
    completion = np.where(stays, 0.2 + 0.8 * share ** (0.6 - 0.4 * stay), 0.002 + 0.022 * share)
    completion = np.minimum(completion, cut)
    split = hashing.uniform(c.seed, Draw.SESSIONS, key, n)
    often = np.where(catalogue.film[title], 0.3, 0.12)
    sessions = 1 + (split < often) + (split < 0.3 * often)
    sessions = np.where(completion < 0.2, 1, sessions)
    first = np.array([1.0, 0.6, 0.45])[sessions - 1]  # share of the play in its first session
    seconds = completion * 60.0 * catalogue.runtime[title]
    return {
        "stay": stay,
        "completion": completion,
        "sessions": sessions,
        "all": seconds,
        "seconds": first * seconds,
    }


def _rows_after(
    c: Simulator,
    catalogue: SimulatedCatalogue,
    key: np.ndarray,
    n: np.ndarray,
    title: np.ndarray,
    time: np.ndarray,
    watched: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Seconds of the first session, and seconds and times of later sessions and the replay."""
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
    success = 1.0 - c.interruptions * np.sqrt(ABANDON_BELOW)  # as in `abandoning`
    stays = hashing.uniform(c.seed, Draw.REPLAY_STAY, key, n) < watched["stay"] * success
    share = hashing.uniform(c.seed, Draw.REPLAY_SHARE, key, n)
    # a second chance that fails must not lift the two together over the threshold
    more = np.where(low & ~stays, 0.95 * (ABANDON_BELOW - completion) * share, 0.1 + 0.9 * share)
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
