"""Labels by a plain loop over anchors and events, in Python's numbers."""

import math

MS_PER_HOUR, NEVER = 3_600_000, 2**63 - 1


def visible_events(anchors, i, table, end):
    """Yield (user, title, time, kind, value) of the events before the end of anchor i."""
    for row in zip(*(column.tolist() for column in table), strict=True):
        if row[2] < end[i]:
            yield row


def milliseconds(value):
    return round(value * 1000) if value >= 0 else None  # None for NaN and negative ones


def completion(total, minutes):
    return min(total / round(60_000 * minutes), 1.0)


def one_label(i, anchors, plays, events, titles, label, end, signals, threshold=0.05, last_titles=20):
    """Return (y, defined, available_at) of anchor i."""
    user, title, time = (int(column[i]) for column in anchors)
    until = min(time + max(round(label.hours * MS_PER_HOUR), 1), NEVER)
    all_plays = list(visible_events(anchors, i, plays, end))
    all_events = list(visible_events(anchors, i, events, end))
    if label.signal == "play":
        signal = all_plays
    else:
        signal = [row for row in all_events if signals[row[3]] == label.signal]
    minutes = float(titles.runtime[title]) if title >= 0 else 0.0
    has_runtime = minutes > 0 and round(60_000 * minutes) > 0

    later = [
        int(anchors.time[k])
        for k in range(len(anchors.time))
        if (anchors.user[k], anchors.title[k]) == (user, title) and anchors.time[k] > time
    ]
    pair = [row for row in signal if title >= 0 and row[:2] == (user, title)]
    whole = [row for row in pair if time <= row[2] < until]
    owned = [row for row in whole if not later or row[2] < min(later)]
    before = [row for row in all_plays if row[0] == user and row[2] < time]

    def share(rows):
        parts = [milliseconds(row[4]) for row in rows]
        if not has_runtime or None in parts:
            return None
        return completion(sum(parts), minutes)

    if label.rule == "happened":
        return bool(owned), title >= 0, until
    if label.rule == "count":
        return len(owned), title >= 0, until
    if label.rule == "seconds":
        parts = [milliseconds(row[4]) for row in owned]
        known = title >= 0 and None not in parts
        return (sum(parts) / 1000 if known else 0), known, until
    if label.rule in ("last", "positive"):
        latest = max((row[2] for row in owned), default=None)
        values = [row[4] for row in owned if row[2] == latest and not math.isnan(row[4])]
        value = max(values) if values else 0
        return (value if label.rule == "last" else float(value > 0)), bool(values), until
    if label.rule in ("completion", "at_least", "quick"):
        value = share(whole if label.rule == "quick" else owned)
        if value is None:
            return 0, False, until
        return (value if label.rule == "completion" else value >= label.at), True, until
    if label.rule == "continues":
        shares = [share([row]) for row in before if row[1] == title]
        if not has_runtime or None in shares:
            return 0, False, time
        return bool(shares) and max(shares) < 0.9, True, time
    if label.rule == "returned":
        half = time + max(round(label.hours * MS_PER_HOUR), 1) // 2
        return any(row[0] == user and half <= row[2] < until for row in signal), True, until
    if label.rule == "switched_off":
        first = min((row[2] for row in owned), default=None)
        value = share([row for row in owned if row[2] == first]) if owned else None
        if value is None or value >= threshold:
            return 0, False, until
        return (
            not any(row[0] == user and first < row[2] < until for row in all_plays + all_events),
            True,
            until,
        )
    assert label.rule == "discovery"
    lists = titles.categories[label.feature]

    def categories(row):
        return set(lists.values[lists.offsets[row] : lists.offsets[row + 1]].tolist()) if row >= 0 else set()

    recent: list[int] = []
    for row in sorted(before, key=lambda row: (row[2], row[1]), reverse=True):
        if row[1] not in recent and len(recent) < last_titles:
            recent.append(row[1])
    known = bool(categories(title)) and bool(before)
    return known and not any(categories(title) & categories(row) for row in recent), known, time
