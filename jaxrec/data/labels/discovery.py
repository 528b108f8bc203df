"""Rule of a title that is new to its user: no genre of it is among the user's last titles."""

import numpy as np

from jaxrec.config.declarations import Label
from jaxrec.config.rules.declared.signals import PLAY as PLAYS
from jaxrec.data.labels.tables import Anchors, LabelTitles
from jaxrec.data.labels.timeline import Timeline
from jaxrec.data.labels.windows import EventWindows

LAST_TITLES = 20  # distinct titles that a user played last


def discovery(
    anchors: Anchors, events: EventWindows, titles: LabelTitles, label: Label
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 1 where no category of the title is one of the user's last titles, otherwise 0.

    The last titles are the `LAST_TITLES` distinct ones that the user played last before the request. The
    categories are those of the feature `label.feature`. The label is final at the request. It is undefined
    for a title without categories, and for a user without an earlier play. Anchors own nothing here.

    Returns:
        y, known, available_at [N], as `rules` describes.
    """
    users = events.user_timeline(PLAYS)
    group = users.groups(anchors.user)
    now = users.first(group, np.minimum(anchors.time, events.observed.end))
    lists = titles.categories[label.feature]
    names, number = np.unique(lists.values, return_inverse=True)
    sizes = np.append(np.diff(lists.offsets), 0)  # the last is of title -1

    has_history = now > users.begin(group)
    size = np.where(has_history, sizes[anchors.title], 0)
    anchor, category = _expand(lists.offsets, size, anchors.title, number)
    played = events.observed.plays.title[events.user_order(PLAYS)]
    play, play_category = _expand(lists.offsets, sizes[played], played, number)
    # Pairs of a user and a category, with their plays in order: sorted as one whole number, below 2**62 up to
    # a hundred million plays of a hundred categories.
    key = users.group[play] * len(names) + play_category
    sorted_key, sorted_play = np.divmod(np.sort(key * len(played) + play), max(len(played), 1))
    index = Timeline(sorted_key, sorted_play)
    wanted = index.groups(group[anchor] * len(names) + category)
    at = index.first(wanted, now[anchor])
    there = np.flatnonzero(at > index.begin(wanted))
    latest = sorted_play[at[there] - 1]  # the last play of a title of the category

    y = has_history & (size > 0)
    known = y.copy()
    y[anchor[there[_fewer_than(LAST_TITLES, users, played, latest, now[anchor[there]])]]] = False
    return y, known, anchors.time


def _expand(
    offsets: np.ndarray, size: np.ndarray, title: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a row for each category of each title: index of the title in `title`, number of the category."""
    row = np.repeat(np.arange(len(title)), size)
    within = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
    return row, number[offsets[title[row]] + within]


def _fewer_than(
    limit: int, users: Timeline, played: np.ndarray, after: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """Return True where fewer than `limit` distinct titles lie between two positions of one user.

    Args:
        limit: Number of titles.
        users: Index of the plays by user and time.
        played: [N] titles in the order of the index.
        after: [Q] position before the first play that counts.
        before: [Q] position behind the last play that counts.
    """
    plays = before - after - 1
    fewer = plays < limit
    open_ = np.flatnonzero(~fewer)
    if not len(open_):
        return fewer
    previous = _previous(users.group, played)
    # Plays without an earlier play of the title by the user are distinct.
    repeated = np.append(0, np.cumsum(previous >= 0))
    open_ = open_[(plays - repeated[before] + repeated[after + 1])[open_] < limit]
    if len(open_):
        # A play is the first of its title behind `after` if the title's previous play is not behind it. All
        # plays up to `after` have this property.
        count = _count_below(previous + 1, before[open_], after[open_] + 2) - (after[open_] + 1)
        fewer[open_] = count < limit
    return fewer


def _previous(group: np.ndarray, title: np.ndarray) -> np.ndarray:
    """Return the position [N] of the same user's previous play of the same title, -1 for none."""
    key = group * (int(title.max()) + 2) + title + 1
    order = np.argsort(key, stable=True)
    out = np.full(len(key), -1)
    same = key[order[1:]] == key[order[:-1]]
    out[order[1:][same]] = order[:-1][same]
    return out


def _count_below(values: np.ndarray, prefix: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Return the number [Q] of values below a bound among the first `prefix` ones.

    A wavelet matrix: values are sorted by one bit after the other, from the highest, and each bit moves a
    prefix by one table. The time is (N + Q) times the number of bits, for any values.

    Args:
        values: [N] int64, not negative.
        prefix: [Q] number of leading values.
        bound: [Q] int64, not negative.
    """
    bits = int(max(values.max(initial=0), bound.max(initial=0))).bit_length()
    begin, at = np.zeros_like(prefix), prefix.copy()
    count = np.zeros(len(prefix), np.int64)
    for bit in range(bits - 1, -1, -1):
        is_one = (values >> bit) & 1 == 1
        zeros = np.append(0, np.cumsum(~is_one))
        wants_one = (bound >> bit) & 1 == 1
        below, before = zeros[at], zeros[begin]
        count += np.where(wants_one, below - before, 0)
        at = np.where(wants_one, zeros[-1] + at - below, below)
        begin = np.where(wants_one, zeros[-1] + begin - before, before)
        values = np.append(values[~is_one], values[is_one])
    return count
