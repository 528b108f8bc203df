"""KuaiRand (Gao et al., CIKM 2022) in its official layout: Pure, 1K or 27K, or a part of one.

A video's runtime is `video_duration` of its features. In the logs `duration_ms` is the same number, and
0 for a video whose features lack one (seen: equal in all 224,761 rows of a sample that have it); where
the features lack it, the longest `duration_ms` logged is taken, and where that is 0 too the runtime is
missing, and the video's rows are left out. `time_ms` is UTC. The context feature `hour` is the hour of
day in UTC+8, `hourmin // 100`; other context features are columns of the logs (`tab`).

Completion reads otherwise than for films: with a median of 71 seconds, 0.05 of a video is 3.5 seconds.
"""

import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxrec.config import schema
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Titles
from jaxrec.sources.columns import ColumnRequest, of_features
from jaxrec.sources.table import SourceTable
from jaxrec.sources.tables import ThreeTables

_MINUTES, _SECONDS = 1 / 60_000, 1 / 1000  # of a millisecond
_OUTCOMES = (
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms",
    "profile_stay_time", "comment_stay_time", "is_profile_enter",
)  # fmt: skip


class KuaiRandSource(ThreeTables):
    """A schema.Source. Raises InputError for a folder that is not laid out so, or an outcome as context."""

    def __init__(self, source: schema.KuaiRand, features: tuple[schema.Feature, ...]) -> None:
        if not Path(source.directory).expanduser().is_dir():
            raise InputError(f"source.directory={source.directory!r} is no folder (looked from {Path.cwd()})")
        for name in of_features(features, "context"):
            if name in _OUTCOMES:
                raise InputError(
                    f"feature {name!r}, where='context': an outcome of the play, which no request knows; "
                    "allowed: hour, tab and the like"
                )
        folder = glob.escape(str(Path(source.directory).expanduser()))
        video = ColumnRequest("video_id", "whole", "KuaiRand", required=True)
        user = ColumnRequest("user_id", "whole", "KuaiRand", required=True)
        log = {
            "user": user,
            "title": video,
            "time": ColumnRequest("time_ms", "time", "KuaiRand", required=True),
            "seconds": ColumnRequest("play_time_ms", "number", "KuaiRand", required=True),
        }
        context = of_features(features, "context")
        if "hour" in context:
            context["hour"] = ColumnRequest("hourmin", "whole", "KuaiRand", required=True, per=100)
        titles = {"title": video, "runtime": ColumnRequest("video_duration", "number", "KuaiRand")}
        logs, key = f"{folder}/{source.logs}", "source.directory"
        videos, people = f"{folder}/video_features_basic_*.csv", f"{folder}/user_features_*.csv"
        super().__init__(
            SourceTable("source.logs", logs, log, context),
            SourceTable(key, videos, titles, of_features(features, "title")),
            SourceTable(key, people, {"user": user}, of_features(features, "user")),
            _MINUTES,
            _SECONDS,
        )
        durations = {"title": video, "runtime": ColumnRequest("duration_ms", "number", "KuaiRand")}
        self._durations = SourceTable("source.logs", logs, durations, {})
        self._filled = False

    def titles(self) -> Titles:
        """The catalogue, with the runtimes that only the logs know."""
        titles = self.catalogue.titles
        if not self._filled:
            titles.runtime = self._fill(titles.runtime)
            self._filled = True
        return titles

    def _fill(self, runtime: np.ndarray) -> np.ndarray:
        """Runtimes in minutes, the missing ones out of the logs, which are read only if there are any."""
        missing = ~(runtime > 0)
        if not missing.any():
            return runtime
        logged = np.zeros(len(runtime))
        for title, milliseconds in self._logged():
            here = title >= 0
            np.maximum.at(logged, title[here], milliseconds[here])
        return np.where(missing, logged * _MINUTES, runtime)

    def _logged(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for parsed in self._durations.read():
            frame = parsed.frame.filter(~parsed.bad)
            yield self.catalogue.rows(frame["title"]), frame["runtime"].fill_null(0.0).to_numpy()
