"""Source of KuaiRand (Gao et al., CIKM 2022) in the official layout.

The folder holds the Pure, 1K or 27K version, or a subset of one.

A video's runtime is `video_duration` in the video features. `duration_ms` in the logs is the same number
(measured: equal in all 224,761 rows of a sample with a `video_duration`), and 0 for a video without
`video_duration`. For a video without `video_duration`, the runtime is the longest `duration_ms` logged. If
the longest `duration_ms` is 0 too, the runtime is missing and the video's rows are left out.

`time_ms` is UTC. The context feature `hour` is the hour of day in UTC+8, `hourmin // 100`; other context
features are columns of the logs (`tab`).

A completion differs in meaning from that of a film: with a median runtime of 71 seconds, 0.05 of a video is
3.5 seconds.
"""

import glob
from pathlib import Path

from jaxrec.config import schema
from jaxrec.core.errors import InputError
from jaxrec.sources.columns import ColumnRequest, feature_requests
from jaxrec.sources.table import SourceTable
from jaxrec.sources.tables import ThreeTables
from jaxrec.sources.tabular.signals import SignalTable, of_log

MINUTES, SECONDS = 1 / 60_000, 1 / 1000  # one millisecond in minutes and in seconds


def log_requests() -> dict[str, ColumnRequest]:
    """Return the columns of a log by role."""
    return {
        "user": ColumnRequest("user_id", "whole", "KuaiRand", required=True),
        "title": ColumnRequest("video_id", "whole", "KuaiRand", required=True),
        "time": ColumnRequest("time_ms", "time", "KuaiRand", required=True),
        "seconds": ColumnRequest("play_time_ms", "number", "KuaiRand", required=True),
    }


def context_requests(features: tuple[schema.Feature, ...]) -> dict[str, ColumnRequest]:
    """Return the columns of a log that hold context features."""
    context = feature_requests(features, "context")
    if "hour" in context:
        context["hour"] = ColumnRequest("hourmin", "whole", "KuaiRand", required=True, divisor=100)
    return context


class KuaiRandSource(ThreeTables):
    """Source over a folder in the KuaiRand layout (Gao et al., CIKM 2022).

    Times are `time_ms`, seconds viewed `play_time_ms` / 1000, and runtimes `video_duration` in minutes. The
    context feature `hour` is the hour of `hourmin`, 0 to 23.
    """

    def __init__(
        self, source: schema.KuaiRand, features: tuple[schema.Feature, ...],
        signals: tuple[schema.Signal, ...] = (),
    ) -> None:  # fmt: skip
        """Open the tables and check their columns.

        Args:
            source: Folder and pattern of the logs.
            features: Declared features.
            signals: Declared signals, columns of the logs.

        Raises:
            InputError: The folder does not have the KuaiRand layout.
        """
        if not Path(source.directory).expanduser().is_dir():
            raise InputError(
                f"source.directory={source.directory!r} is not a folder (current folder: {Path.cwd()})"
            )
        folder = glob.escape(str(Path(source.directory).expanduser()))
        video = ColumnRequest("video_id", "whole", "KuaiRand", required=True)
        user = ColumnRequest("user_id", "whole", "KuaiRand", required=True)
        log, context = log_requests(), context_requests(features)
        titles = {"title": video, "runtime": ColumnRequest("video_duration", "number", "KuaiRand")}
        durations = {"title": video, "runtime": ColumnRequest("duration_ms", "number", "KuaiRand")}
        logs, key = f"{folder}/{source.logs}", "source.directory"
        kinds, columns = of_log(signals)
        without_seconds = {role: log[role] for role in ("user", "title", "time")}
        events = SourceTable("source.logs", logs, without_seconds | columns, {}) if kinds else None
        videos, users = f"{folder}/video_features_basic_*.csv", f"{folder}/user_features_*.csv"
        super().__init__(
            SourceTable("source.logs", logs, log, context),
            SourceTable(key, videos, titles, feature_requests(features, "title")),
            SourceTable(key, users, {"user": user}, feature_requests(features, "user")),
            MINUTES,
            SECONDS,
            SourceTable("source.logs", logs, durations, {}),
            signals=(SignalTable(events, kinds, own=False),) if events else (),
        )


def open_kuairand(
    source: schema.KuaiRand, features: tuple[schema.Feature, ...], path: str,
    signals: tuple[schema.Signal, ...],
) -> KuaiRandSource:  # fmt: skip
    """Open a KuaiRand source, the reader that its config class names.

    Args:
        source: Folder and pattern of the logs.
        features: Declared features.
        path: Not used.
        signals: Declared signals.

    Raises:
        InputError: The folder, a table or a feature is invalid.
    """
    return KuaiRandSource(source, features, signals)
