"""Sources of data, one of which is `Config.source`.

`jaxrec.config` exports the names in `__all__`. A new source is a class here and its name in `__all__` and
`AnySource`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

__all__ = ["Columns", "FileFormat", "KuaiRand", "Simulator", "Tables", "Tfds"]


class Source:
    """Declarations of the class of a source, besides its fields."""

    reader: ClassVar[str]  # "module:object", called as object(source, features, data.path, signals)
    required: ClassVar[tuple[str, ...]] = ()  # names of the fields that must not be empty
    has_watch_times: ClassVar[bool] = True  # False: ratings, without the seconds viewed
    signal_columns: ClassVar[tuple[str, ...]] = ()  # columns of the log that signals may read
    generated_signals: ClassVar[Mapping[str, str]] = {}  # name -> `Signal.value` of signals that it generates
    outcome_columns: ClassVar[tuple[str, ...]] = ()  # columns of the log that hold outcomes of a request


@dataclass
class Simulator(Source):
    """The simulated streaming service of `jaxrec/sources/simulator/source.py`.

    A strength of 1 is the default service; 0 removes its premise. `taste`, `interest` (a genre of the week),
    `mood` (a genre of the sitting) and `appeal` change what is chosen; `satisfaction`, `match` and `patience`
    (its spread over users) change what is abandoned. The fields from `surprise` to `trailers` change the
    signals, which are generated where `Config.signals` declares them. The fields from `launches` to
    `mood_moves` let the service change by day and differ by country, those from `search` on give it several
    canvases.
    """

    seed: int = 0  # seed of all draws
    users: int = 20_000  # number of users, without `test_only_users`
    test_only_users: int = 20_000  # number of additional users, all in the test split
    titles: int = 1_000  # number of titles
    weeks: int = 12  # length of the log in weeks
    plays_per_user: float = 12.0  # mean titles played per user; heavy-tailed
    sitting: float = 4.0  # mean plays per sitting; a mood lasts one sitting
    slate: int = 100  # titles that a play is chosen from
    taste: float = 1.0
    interest: float = 1.0
    interest_moves: float = 0.15  # probability per week that the interest moves to another genre
    mood: float = 1.0
    popularity: float = 1.0  # Zipf exponent of exposure; 0: equal exposure of all titles
    appeal: float = 1.0
    satisfaction: float = 1.0
    clickbait: float = 1.0  # strength of the difference between appeal and satisfaction; 0: no difference
    match: float = 1.0  # strength with which a match of title and user keeps the user watching
    patience: float = 1.0
    interruptions: float = 0.1  # fraction of plays that are interrupted, independent of the title
    replay_watched: float = 0.05  # fraction of watched titles that are played again later
    replay_abandoned: float = 0.02  # fraction of abandoned titles that are played again later
    habit: float = 0.0  # fraction of plays that are left running, whatever the title
    surprise: float = 1.0  # strength of the part of enjoyment that only user and title together determine
    thumbs: float = 0.06  # mean thumbs per watched title, for an enjoyment evenly spread over [0, 1]
    leniency: float = 1.0  # standard deviation over users of the log-odds of thumbs up and high ratings
    ratings: float = 0.3  # fraction of plays that are rated
    lists: float = 0.15  # fraction of plays whose user adds another title of the slate to the list
    impressions_logged: float = 1.0  # fraction of plays whose slate is logged as impressions
    test_impressions_logged: float | None = None  # the same of the test-only users; None: as all users
    trailers: float = 1.0  # mean trailers watched before a play
    launches: float = 0.0  # fraction of titles that are launched within the log, evenly over its days
    novelty: float = 0.0  # nats that a title gains at its launch; they fall to 1 / e in 7 days
    trend: float = 0.0  # standard deviation, in nats, of the weekly step of the appeal of a title
    countries: int = 1  # number of countries, 1 to 6
    country_taste: float = 0.0  # standard deviation, in nats, of what a country adds to the taste for a genre
    unlicensed: float = 0.0  # fraction of titles that a country lacks
    mood_moves: float = 0.0  # probability that the mood of a sitting moves before a further play
    regimes: float = 0.0  # strength of the genre that half of the users prefer after a title, and the others
    # another genre: a premise that one expert cannot serve without the user feature "regime"
    search: float = 0.0  # fraction of plays that are searched for, by a prefix of the name or by a genre
    similar: float = 0.0  # fraction of plays from the page of the last title liked, once there is one
    kinship: float = 3.0  # nats that a title gains there per unit of its cosine with the title of the page

    reader: ClassVar[str] = "jaxrec.sources.simulator.source:open_simulator"
    generated_signals: ClassVar[Mapping[str, str]] = {
        "thumb": "sign", "rating": "number", "list_add": "event", "impression": "event", "trailer": "seconds",
    }  # fmt: skip


@dataclass
class Columns:
    """Names of the columns of `Tables`.

    Of several names, "user|user_id", the first that exists is read. Times are whole numbers in `time_unit`
    since 1970, or ISO 8601 text.
    """

    user: str = "user_id"
    title: str = "title_id"
    time: str = "time"
    time_unit: Literal["s", "ms", "us", "ns"] = "ms"  # unit of a time column of whole numbers
    seconds: str = "seconds_viewed"  # watch time, in `seconds_unit`; "": the log has no watch time
    title_key: str = "title_id"  # title in the titles table
    runtime: str = "runtime_minutes"  # runtime in the titles table, in `runtime_unit`; "": unknown
    user_key: str = "user_id"  # user in the users table
    list_separator: str = ","  # separator of list values in CSV
    time_decimals: bool = False  # True: times may have decimals, which are cut off at milliseconds
    seconds_unit: Literal["s", "ms", "min", "fraction", "percent"] = "s"  # "fraction", "percent": of the
    # title's runtime
    runtime_unit: Literal["min", "s", "ms", "h"] = "min"  # unit of `runtime` and `log_runtime`
    value: str = "value"  # value of an event in a signal's own table
    log_runtime: str = ""  # runtime of the title in the log; the longest of a title counts where the titles
    # table has none; "": the log has no runtimes
    null_words: tuple[str, ...] = ("NA", "N/A", "<NA>", "NULL", "null", "None", "nan", "NaN", "\\N")
    # text that means a missing value in keys, times and numbers; in categories these words are values
    outcomes: tuple[str, ...] = ()  # columns of any table, known after the request only, beside signals' and
    # `seconds`: features of requests must not read them


@dataclass
class FileFormat:
    """Format of the text files of one table of `Tables`; Parquet files need none.

    Files compressed by gzip or Zstandard are recognised.
    """

    separator: str = ""  # one or more characters, such as "::"; "": a tab for .tsv, .inter, .user and .item,
    # else a comma
    header: tuple[str, ...] = ()  # names of the columns of files without a header line; (): the first line
    # names them
    encoding: str = "utf-8"  # encoding, by its name in Python, such as "latin-1" or "utf-16"
    quote: str = '"'  # character around a field that holds separators; "": none


@dataclass
class Tables(Source):
    """Source of three tables in text files or Parquet, each a file, a folder or a glob."""

    interactions: str = ""  # the log; "": the log is `data.path`
    titles: str = ""  # titles table; "": the titles of the log, without features
    users: str = ""  # users table; "": no users table
    columns: Columns = field(default_factory=Columns)
    interactions_format: FileFormat = field(default_factory=FileFormat)  # of the files of `interactions`
    titles_format: FileFormat = field(default_factory=FileFormat)  # of the files of `titles`
    users_format: FileFormat = field(default_factory=FileFormat)  # of the files of `users`
    signals_format: FileFormat = field(default_factory=FileFormat)  # of the files of signals' own tables

    reader: ClassVar[str] = "jaxrec.sources.tables:TablesSource"


@dataclass
class KuaiRand(Source):
    """Source in the official KuaiRand layout: a folder, and the glob of its logs."""

    directory: str = ""  # the folder with the tables
    logs: str = "log_standard_*.csv"  # glob of the log files in the folder

    reader: ClassVar[str] = "jaxrec.sources.kuairand:open_kuairand"
    required: ClassVar[tuple[str, ...]] = ("directory", "logs")
    signal_columns: ClassVar[tuple[str, ...]] = (
        "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view",
        "profile_stay_time", "comment_stay_time", "is_profile_enter",
    )  # fmt: skip
    outcome_columns: ClassVar[tuple[str, ...]] = (*signal_columns, "play_time_ms")


@dataclass
class Tfds(Source):
    """Source of ratings: a dataset of TensorFlow Datasets, stored as array_record.

    `user`, `title` and `time` name columns of the dataset.
    """

    name: str = ""  # name of the dataset, such as "movielens/1m-ratings"
    split: str = "train"  # split of the dataset
    data_dir: str = ""  # folder of prepared TFDS datasets; "": the default of TFDS
    user: str = "user_id"
    title: str = "movie_id"
    time: str = "timestamp"  # column of seconds since 1970, UTC

    reader: ClassVar[str] = "jaxrec.sources.tfds:open_tfds"
    required: ClassVar[tuple[str, ...]] = ("name", "split")
    has_watch_times: ClassVar[bool] = False
    outcome_columns: ClassVar[tuple[str, ...]] = ("user_rating",)  # of MovieLens


AnySource = Simulator | Tables | KuaiRand | Tfds
