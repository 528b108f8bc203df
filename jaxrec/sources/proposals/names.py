"""Roles and units that names of columns state, such as `play_time_ms`."""

import re

# Names of each role without their unit, best first. `normalised` gives the form of a name.
ROLE_NAMES: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "user", "uid", "userid", "customer_id", "customer", "member_id", "viewer_id",
             "viewer", "profile_id", "account_id", "subscriber_id", "session_id", "visitor_id", "visitorid"),
    "title": ("title_id", "item_id", "movie_id", "video_id", "content_id", "asset_id", "show_id", "series_id",
              "program_id", "programme_id", "product_id", "track_id", "song_id", "book_id", "article_id",
              "title", "item", "movie", "video", "content", "asset", "itemid", "movieid", "videoid", "iid",
              "id"),
    "time": ("started_at", "start_time", "start", "timestamp", "time", "event_time", "watched_at",
             "played_at", "viewed_at", "created_at", "datetime", "date_time", "ts", "unix_timestamp",
             "event_timestamp", "date", "day"),
    "seconds": ("viewed", "watch_time", "watched", "play_time", "playtime", "played", "view_time", "watch",
                "watch_duration", "play_duration", "view_duration", "listen_time", "listened", "dwell_time",
                "time_watched", "time_viewed", "watch_ratio", "play_ratio", "completion", "completion_rate",
                "fraction_watched", "watched_fraction", "progress"),
    "runtime": ("runtime", "duration", "video_duration", "movie_duration", "title_duration", "length",
                "video_length", "movie_length", "total_time", "total_duration", "play_length"),
}  # fmt: skip
# Columns of the log that are known before a title is played.
CONTEXT_NAMES = (
    "device", "device_type", "platform", "os", "app", "app_version", "browser", "client", "network", "tab",
    "page", "surface", "channel", "country", "region", "city", "hour", "hour_of_day", "weekday",
    "day_of_week", "language", "is_rand",
)  # fmt: skip
_UNITS = {
    "ns": ("ns", "nanos", "nanoseconds"),
    "us": ("us", "micros", "microseconds"),
    "ms": ("ms", "millis", "milliseconds", "msec"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "min": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hour", "hours"),
    "percent": ("pct", "percent", "percentage"),
    "fraction": ("ratio", "fraction", "share"),
}
_UNIT_OF_WORD = {word: unit for unit, words in _UNITS.items() for word in words}


def normalised(name: str) -> str:
    """Return a name in lower case with underscores: "userId" and "User ID" become "user_id"."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")


def split_unit(name: str) -> tuple[str, str]:
    """Return a normalised name without its unit, and the unit, "" for none: ("play_time", "ms")."""
    words = normalised(name).split("_")
    for at in (-1, 0):
        if len(words) > 1 and words[at] in _UNIT_OF_WORD:
            return "_".join(words[:-1] if at else words[1:]), _UNIT_OF_WORD[words[at]]
    return "_".join(words), ""


def rank_of_role(name: str, role: str) -> int | None:
    """Return the rank of a name among the names of a role, from 0 for the best; None for another role."""
    names = ROLE_NAMES[role]
    whole, (base, unit) = normalised(name), split_unit(name)
    if whole in names:
        return names.index(whole)
    return names.index(base) if unit and base in names else None
