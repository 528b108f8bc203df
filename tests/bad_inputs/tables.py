"""Door "tables": logs, titles and users as users of other programs write them."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import zstandard

from tests.bad_inputs.case import SAME, Case, Stock
from tests.bad_inputs.service import START, cell, csv, log, parquet, titles, users, write

Content = bytes | str | None | Callable[[], bytes | str]


def tables(**contents: Content) -> Callable[[Path, Stock], None]:
    """Return a function that writes the stock tables with other contents for some."""

    def make(folder: Path, stock: Stock) -> None:
        write(folder, **{name: c() if callable(c) else c for name, c in contents.items()})

    return make


def edited(table: str, column: str, value: str | None, row: int = 3) -> Callable[[Path, Stock], None]:
    """Return a function that writes one other value in a table of text."""
    make = {"log": log, "titles": titles, "users": users}[table]
    return tables(**{f"{table}_csv": lambda: csv(cell(make(), column, value, row))})


def column(table: str, *expressions: pl.Expr, suffix: str = "csv") -> Callable[[Path, Stock], None]:
    """Return a function that writes a table with other columns."""
    make = {"log": log, "titles": titles, "users": users}[table]
    form = csv if suffix == "csv" else parquet
    return tables(**{f"{table}_{suffix}": lambda: form(make().with_columns(*expressions))})


def prepare(*more: str) -> tuple[str, ...]:
    return ("prepare", "--config", "own.py", "--out", "out", *more)


def check(log: str = "log.csv", *more: str) -> tuple[str, ...]:
    return ("prepare", "--check", "--interactions", log, *more)


def source(key: str, value: str) -> str:
    return f"--config.source.{key}={value}"


def replaced(old: str, new: str, encoding: str = "utf-8") -> Callable[[], bytes]:
    """Return the log's text with another in it."""
    return lambda: csv(log()).decode().replace(old, new).encode(encoding)


def parts(*files: tuple[str, Callable[[], bytes]]) -> Callable[[Path, Stock], None]:
    """Return a function that writes the log as a folder of files."""

    def make(folder: Path, stock: Stock) -> None:
        write(folder)
        for name, content in files:
            path = folder / "log" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content())

    return make


def half(first: bool, form: Callable[..., bytes] = csv, **edits: Any) -> Callable[[], bytes]:
    def content() -> bytes:
        frame = log()
        middle = frame.height // 2
        return form((frame[:middle] if first else frame[middle:]).with_columns(**edits))

    return content


def beside(make: Callable[[Path, Stock], None], more: Callable[[Path], Any]) -> Callable[[Path, Stock], None]:
    """Return `make`, followed by another change of the folder."""

    def both(folder: Path, stock: Stock) -> None:
        make(folder, stock)
        more(folder)

    return both


STOCK = tables()
FOLDER = source("interactions", "log")
DROPPED = "rows dropped: row that cannot be parsed {}"
ONE = DROPPED.format(1)
TIME = pl.col("time")
ISO = pl.from_epoch(TIME, "ms")

# ---------------------------------------------------------------- other spellings of the same tables

SPELLINGS = [
    Case("the stock itself", STOCK, prepare(), SAME, 0),
    Case("byte order mark", tables(log_csv=lambda: b"\xef\xbb\xbf" + csv(log())), prepare(), SAME, 0),
    Case("byte order mark of titles", tables(titles_csv=lambda: b"\xef\xbb\xbf" + csv(titles())), prepare(), SAME, 0),
    Case("byte order mark of a quoted header", tables(log_csv=lambda: b"\xef\xbb\xbf" + csv(log(), quote_style="always")), prepare(), SAME, 0),
    Case("CRLF", tables(log_csv=replaced("\n", "\r\n")), prepare(), SAME, 0),
    Case("CRLF in titles and users", tables(titles_csv=lambda: csv(titles(), line_terminator="\r\n"), users_csv=lambda: csv(users(), line_terminator="\r\n")), prepare(), SAME, 0),
    Case("no newline at the end", tables(log_csv=lambda: csv(log()).rstrip()), prepare(), SAME, 0),
    Case("blank lines", tables(log_csv=replaced("\n", "\n\n")), prepare(), SAME, 0),
    Case("blank lines at the end", tables(log_csv=lambda: csv(log()) + b"\n\n\n"), prepare(), SAME, 0),
    Case("all fields in quotes", tables(log_csv=lambda: csv(log(), quote_style="always")), prepare(), SAME, 0),
    Case("UTF-16, as Excel's Unicode text", tables(log_csv=lambda: csv(log()).decode().encode("utf-16")), prepare(source("interactions_format.encoding", "utf-16")), SAME, 0),
    Case("utf-8-sig", tables(log_csv=lambda: csv(log()).decode().encode("utf-8-sig")), prepare(source("interactions_format.encoding", "utf-8-sig")), SAME, 0),
    Case("latin-1 declared", tables(log_csv=replaced("phone", "téléphone", "latin-1")), prepare(source("interactions_format.encoding", "latin-1")), "rows read 720", 0),
    Case("semicolons", tables(log_csv=lambda: csv(log(), separator=";")), prepare(source("interactions_format.separator", ";")), SAME, 0),
    Case("tabs in .tsv", tables(log_tsv=lambda: csv(log(), separator="\t")), prepare(), SAME, 0),
    Case("pipes", tables(log_txt=lambda: csv(log(), separator="|")), prepare(source("interactions_format.separator", "|")), SAME, 0),
    Case("two colons, as MovieLens", tables(log_dat=lambda: csv(log()).replace(b",", b"::")), prepare(source("interactions_format.separator", "::")), SAME, 0),
    Case("RecBole", tables(log_inter=lambda: csv(log(), separator="\t").replace(b"user_id\ttitle_id\ttime\tseconds_viewed\tdevice", b"user_id:token\ttitle_id:token\ttime:float\tseconds_viewed:float\tdevice:token")), prepare(), SAME, 0),
    Case("no header line", tables(log_csv=lambda: csv(log(), include_header=False)), prepare(source("interactions_format.header", "('user_id','title_id','time','seconds_viewed','device')")), SAME, 0),
    Case("gzip", tables(log_csv_gz=lambda: gzip.compress(csv(log()))), prepare(), SAME, 0),
    Case("gzip of two members", tables(log_csv_gz=lambda: gzip.compress(csv(log())[:5000]) + gzip.compress(csv(log())[5000:])), prepare(), SAME, 0),
    Case("gzip without the suffix", tables(log_csv=lambda: gzip.compress(csv(log()))), prepare(), SAME, 0),
    Case("Zstandard", tables(log_csv_zst=lambda: zstandard.compress(csv(log()))), prepare(), SAME, 0),
    Case("suffix in upper case", tables(log_CSV=lambda: csv(log())), prepare(), SAME, 0),
    Case("a name with spaces and accents", beside(STOCK, lambda f: (f / "log.csv").rename(f / "mes données été.csv")), prepare(source("interactions", "mes données été.csv")), SAME, 0),
    Case("a folder with brackets in its name", beside(parts(("a.csv", lambda: csv(log()))), lambda f: (f / "log").rename(f / "log [2024]")), prepare(source("interactions", "log [2024]")), SAME, 0),
    Case("folders in folders", parts(("a/b/c/d/e/f/1.csv", half(True)), ("a/b/c/d/e/f/g/2.csv", half(False))), prepare(FOLDER), SAME, 0),
    Case("hive folders, as Spark", parts(("day=2024-01-01/part-00000.snappy.parquet", half(True, parquet)), ("day=2024-01-02/part-00001.snappy.parquet", half(False, parquet)), ("_SUCCESS", lambda: b""), ("._SUCCESS.crc", lambda: b"crc")), prepare(FOLDER), SAME, 0),
    Case("a part without rows, as Spark", parts(("1.parquet", half(True, parquet)), ("2.parquet", half(False, parquet)), ("3.parquet", lambda: parquet(log()[:0]))), prepare(FOLDER), SAME, 0),
    Case("a part of zero bytes", parts(("1.csv", half(True)), ("2.csv", half(False)), ("3.csv", lambda: b"")), prepare(FOLDER), SAME, 0),
    Case("a part of a header alone", parts(("1.csv", half(True)), ("2.csv", half(False)), ("3.csv", lambda: csv(log()[:0]))), prepare(FOLDER), SAME, 0),
    Case("parts with columns in another order", parts(("1.csv", half(True)), ("2.csv", lambda: csv(log()[360:].select(reversed(log().columns))))), prepare(FOLDER), SAME, 0),
    Case("parts with a further column", parts(("1.parquet", half(True, parquet)), ("2.parquet", half(False, parquet, country=pl.lit("NA")))), prepare(FOLDER), SAME, 0),
    Case("a part with a column of nulls", parts(("1.parquet", half(True, parquet)), ("2.parquet", lambda: parquet(log()[360:])), ("3.parquet", lambda: parquet(log()[:1].with_columns(device=None)))), prepare(FOLDER), "duplicates 1", 0),
    Case("parts whose times have other integers", parts(("1.parquet", half(True, parquet)), ("2.parquet", half(False, parquet, time=TIME.cast(pl.UInt64)))), prepare(FOLDER), SAME, 0),
    Case("broken links beside the data", beside(parts(("a.csv", lambda: csv(log()))), lambda f: (f / "log" / "gone.csv").symlink_to(f / "nowhere.csv")), prepare(FOLDER), "gone.csv (a link to a file that does not exist)", 0),
    Case("rows in another order", tables(log_csv=lambda: csv(log()[::-1])), prepare(), SAME, 0),
    Case("every row twice", tables(log_csv=lambda: csv(pl.concat([log(), log()]))), prepare(), "duplicates 720", 0),
    Case("an index column without a name, as pandas", tables(log_csv=lambda: b"\n".join(([b""] + [b"%d" % i for i in range(720)])[i] + b"," + line for i, line in enumerate(csv(log()).split(b"\n")[:-1])) + b"\n"), prepare(), SAME, 0),
    Case("blanks around fields", tables(log_csv=replaced(",", " , ")), prepare(), SAME, 0),
    Case("blanks in the header", tables(log_csv=replaced("user_id,title_id,time", " user_id , title_id , time ")), prepare(), SAME, 0),
    Case("plus signs of numbers", column("log", (pl.lit("+") + TIME.cast(pl.String)).alias("time")), prepare(), SAME, 0),
    Case("seconds with decimals", column("log", pl.col("seconds_viewed").cast(pl.Float64)), prepare(), SAME, 0),
    Case("a comment in a quoted field with newlines", tables(log_csv=lambda: csv(log().with_columns(note=pl.lit('a "quoted"\nline,\r\nand more')))), prepare(), SAME, 0),
]  # fmt: skip

# ---------------------------------------------------------------- times

TIMES = [
    Case("ISO 8601 with Z", column("log", ISO.dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").alias("time")), prepare(), SAME, 0),
    Case("ISO 8601 with an offset", column("log", (ISO + pl.duration(hours=2)).dt.strftime("%Y-%m-%d %H:%M:%S%.3f+02:00").alias("time")), prepare(), SAME, 0),
    Case("mixed zones", column("log", pl.when(pl.int_range(pl.len()) % 2 == 0).then(ISO.dt.strftime("%Y-%m-%d %H:%M:%S%.3f UTC")).otherwise((ISO - pl.duration(hours=5)).dt.strftime("%Y-%m-%dT%H:%M:%S%.3f-0500")).alias("time")), prepare(), SAME, 0),
    Case("timestamps of Parquet", column("log", ISO.alias("time"), suffix="parquet"), prepare(), SAME, 0),
    Case("timestamps in nanoseconds with a zone, as pandas", column("log", ISO.cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo").alias("time"), suffix="parquet"), prepare(), SAME, 0),
    Case("microseconds declared", column("log", (TIME * 1000).alias("time")), prepare(source("columns.time_unit", "us")), SAME, 0),
    Case("nanoseconds declared", column("log", (TIME * 1_000_000).alias("time")), prepare(source("columns.time_unit", "ns")), SAME, 0),
    Case("seconds as floats of whole numbers", column("log", (TIME // 1000).cast(pl.Float64).alias("time"), suffix="parquet"), prepare(source("columns.time_unit", "s")), "rows read 720", 0),
    Case("decimal type of Parquet, as Snowflake", column("log", TIME.cast(pl.Decimal(20, 0)).alias("time"), suffix="parquet"), prepare(), SAME, 0),
    Case("one time that is a word", edited("log", "time", "yesterday"), prepare(), ONE, 0),
    Case("one time that is empty", edited("log", "time", ""), prepare(), ONE, 0),
    Case("one negative time", edited("log", "time", "-5"), prepare(), "rows dropped: time", 0),
    Case("one time before 1970", edited("log", "time", "1969-07-20T20:17:00Z"), prepare(), "rows dropped: time", 0),
    Case("one time of the year 9999", edited("log", "time", "9999-12-31"), prepare(), "rows dropped: time", 0),
    Case("one time above int64", edited("log", "time", "99999999999999999999"), prepare(), ONE, 0),
    Case("one time in scientific notation", edited("log", "time", "1.7E+12"), prepare(), ONE, 0),
    Case("one leap second and one 24:00", tables(log_csv=lambda: csv(cell(cell(log(), "time", "2023-12-31T23:59:60Z"), "time", "2023-12-31T24:00:00Z", 5))), prepare(), ONE, 0),
    Case("one 30 February", edited("log", "time", "2024-02-30"), prepare(), ONE, 0),
    Case("seconds read as milliseconds", column("log", (TIME // 1000).alias("time")), prepare(), "time_unit"),
    Case("milliseconds read as seconds", STOCK, prepare(source("columns.time_unit", "s")), "time_unit"),
    Case("microseconds read as milliseconds", column("log", (TIME * 1000).alias("time")), prepare(), "time_unit"),
    Case("nanoseconds read as milliseconds", column("log", (TIME * 1_000_000).alias("time")), prepare(), "time_unit"),
    Case("milliseconds read as nanoseconds", STOCK, prepare(source("columns.time_unit", "ns")), "source.columns.time_unit"),
    Case("booleans for times", column("log", (TIME % 2 == 0).alias("time"), suffix="parquet"), prepare(), "column 'time' (source.columns.time): Boolean values; allowed: whole numbers, timestamps"),
    Case("words true and false for times", column("log", (TIME % 2 == 0).alias("time")), prepare(), "allowed: whole numbers, timestamps"),
    Case("days of Excel", column("log", (25569 + TIME / 86_400_000).alias("time")), prepare(), "allowed: whole numbers, timestamps"),
    Case("whole days of Excel", column("log", (25569 + TIME // 86_400_000).alias("time")), prepare(), "data.earliest="),
    Case("scientific notation of all times, as Excel", column("log", pl.lit("1.7E+12").alias("time")), prepare(), "allowed: whole numbers, timestamps"),
    Case("American dates", column("log", ISO.dt.strftime("%m/%d/%Y %H:%M").alias("time")), prepare(), "allowed: whole numbers, timestamps"),
    Case("German dates", column("log", ISO.dt.strftime("%d.%m.%Y %H:%M:%S").alias("time")), prepare(), "allowed: whole numbers, timestamps"),
    Case("times of day alone", column("log", ISO.dt.strftime("%H:%M:%S").alias("time")), prepare(), "allowed: whole numbers, timestamps"),
    Case("times of day in Parquet", column("log", ISO.dt.time().alias("time"), suffix="parquet"), prepare(), "time"),
    Case("durations in Parquet", column("log", pl.duration(milliseconds=TIME).alias("time"), suffix="parquet"), prepare(), "column 'time' (source.columns.time): Duration"),
    Case("thousands separators", column("log", pl.lit("1,700,000,000,000").alias("time")), prepare(), "allowed: whole numbers, timestamps"),
    Case("decimals without time_decimals", column("log", (TIME / 1000 + 0.5).alias("time")), prepare(source("columns.time_unit", "s")), "time_decimals"),
    Case("infinite times", column("log", pl.lit(float("inf")).alias("time"), suffix="parquet"), prepare(), "time"),
    Case("NaN for all times", column("log", pl.lit(float("nan")).alias("time"), suffix="parquet"), prepare(), "time"),
    Case("one NaN time", column("log", pl.when(pl.int_range(pl.len()) == 5).then(float("nan")).otherwise(TIME).alias("time"), suffix="parquet"), prepare(), ONE, 0),
    Case("half of the times empty", column("log", pl.when(pl.int_range(pl.len()) % 2 == 0).then(TIME).alias("time")), prepare(), "data.max_invalid_fraction"),
    Case("lists of times", column("log", pl.concat_list(TIME).alias("time"), suffix="parquet"), prepare(), "column 'time' (source.columns.time): List(Int64) values; allowed"),
    Case("all times equal", column("log", pl.lit(START).alias("time")), prepare(), "no user has two titles"),
    Case("times in the future of the config", STOCK, prepare("--config.data.latest=2020-01-01"), "data.latest"),
    Case("times before the config's first day", STOCK, prepare("--config.data.earliest=2030-01-01"), "data.earliest"),
]  # fmt: skip

# ---------------------------------------------------------------- keys

KEY, TITLE_KEY = pl.col("user_id"), pl.col("title_id")
NUMBER = KEY.str.slice(1).cast(pl.Int64)
KEYS = [
    Case("whole numbers for users in log and table", tables(log_parquet=lambda: parquet(log().with_columns(user_id=NUMBER)), users_parquet=lambda: parquet(users().with_columns(user_id=NUMBER))), prepare(), "rows read 720", 0),
    Case("users with decimals, as pandas with gaps", tables(log_parquet=lambda: parquet(log().with_columns(user_id=NUMBER.cast(pl.Float64))), users_parquet=lambda: parquet(users().with_columns(user_id=NUMBER))), prepare(), "rows read 720", 0),
    Case("one user without a value", edited("log", "user_id", None), prepare(), ONE, 0),
    Case("one title without a value", edited("log", "title_id", ""), prepare(), ONE, 0),
    Case("one user NULL", edited("log", "user_id", "NULL"), prepare(), "'NULL' in 1 rows is a missing value", 0),
    Case("one title NA", edited("log", "title_id", "NA"), prepare(), "'NA' in 1 rows is a missing value", 0),
    Case("one title that the table lacks", edited("log", "title_id", "t99"), prepare(), "rows dropped: title not in the catalogue 1", 0),
    Case("no title of the table in the log", column("titles", (pl.lit("x") + TITLE_KEY).alias("title_id")), prepare(), "title"),
    Case("titles without leading zeros", column("titles", TITLE_KEY.str.slice(1).cast(pl.Int64).alias("title_id")), prepare(), "title"),
    Case("titles of another case", column("titles", TITLE_KEY.str.to_uppercase().alias("title_id")), prepare(), "title"),
    Case("titles with a trailing .0, as pandas", tables(log_csv=lambda: csv(log().with_columns(title_id=TITLE_KEY.str.slice(1).cast(pl.Int64))), titles_csv=lambda: csv(titles().with_columns(title_id=TITLE_KEY.str.slice(1).cast(pl.Float64)))), prepare(), "title"),
    Case("titles in scientific notation, as Excel", column("titles", pl.lit("1.2E+10").alias("title_id")), prepare(), "is already in titles.csv, row 1"),
    Case("a title twice", tables(titles_csv=lambda: csv(pl.concat([titles(), titles()[4:5]]))), prepare(), "titles.csv, row 41, column 'title_id': 't04' is already in titles.csv, row 5"),
    Case("a user twice", tables(users_csv=lambda: csv(pl.concat([users(), users()[4:5]]))), prepare(), "users.csv"),
    Case("a users table that matches nobody", column("users", (pl.lit("x") + KEY).alias("user_id")), prepare(), "users table", 0),
    Case("a title without a key", edited("titles", "title_id", ""), prepare(), "titles.csv, row 3, column 'title_id': empty"),
    Case("a user without a key", edited("users", "user_id", ""), prepare(), "users.csv, row 3, column 'user_id': empty"),
    Case("a title called None", edited("titles", "title_id", "None"), prepare(), "titles.csv, row 3, column 'title_id': 'None', which means missing"),
    Case("keys with NUL", tables(log_csv=lambda: csv(cell(log(), "user_id", "u\0"))), prepare(), ONE, 0),
    Case("a key of 300 bytes", edited("log", "user_id", "u" * 300), prepare(), ONE, 0),
    Case("a key of a megabyte", edited("log", "user_id", "u" * 1_000_000), prepare(), ONE, 0),
    Case("NFC and NFD are two titles", tables(titles_csv=lambda: csv(cell(cell(titles(), "title_id", "caf\u00e9"), "title_id", "cafe\u0301", 4))), prepare(), "titles 40", 0),
    Case("a zero-width space in a key", edited("titles", "title_id", "t02\u200b"), prepare(), "rows dropped: title not in the catalogue 18", 0),
    Case("a non-breaking space after a key", edited("log", "title_id", "t00\u00a0", 1), prepare(), SAME, 0),
    Case("boolean users", column("log", (NUMBER % 2 == 0).alias("user_id"), suffix="parquet"), prepare(), "column 'user_id' (source.columns.user): Boolean values; allowed: whole numbers or strings"),
    Case("binary users, as Spark", column("log", KEY.cast(pl.Binary).alias("user_id"), suffix="parquet"), prepare(), "column 'user_id' (source.columns.user): Binary values; allowed: whole numbers or strings"),
    Case("categorical users", column("log", KEY.cast(pl.Categorical).alias("user_id"), suffix="parquet"), prepare(), SAME, 0),
    Case("enums of titles", column("log", TITLE_KEY.cast(pl.Enum([f"t{t:02d}" for t in range(40)])).alias("title_id"), suffix="parquet"), prepare(), SAME, 0),
    Case("structs of users", column("log", pl.struct("user_id").alias("user_id"), suffix="parquet"), prepare(), "column 'user_id' (source.columns.user): Struct"),
    Case("dates for users", column("log", ISO.dt.date().alias("user_id"), suffix="parquet"), prepare(), "column 'user_id' (source.columns.user): Date values"),
    Case("decimal users, as BigQuery NUMERIC", tables(log_parquet=lambda: parquet(log().with_columns(user_id=NUMBER.cast(pl.Decimal(38, 0)))), users_parquet=lambda: parquet(users().with_columns(user_id=NUMBER))), prepare(), "column 'user_id' (source.columns.user): Decimal"),
    Case("users with fractions", column("log", (NUMBER + 0.5).alias("user_id"), suffix="parquet"), prepare(), "user_id"),
    Case("users beyond int64 in text", column("log", (pl.lit("99999999999999999") + KEY.str.slice(1)).alias("user_id")), prepare(), "rows read 720", 0),
    Case("unsigned users", tables(log_parquet=lambda: parquet(log().with_columns(user_id=NUMBER.cast(pl.UInt64) + 2**63)), users=None), prepare("--config.features[3].where=context", "--config.features[3].name=device2"), "device2"),
    Case("text in the log, whole numbers in the users table", tables(users_parquet=lambda: parquet(users().with_columns(user_id=NUMBER))), prepare(), "users table", 0),
    Case("whole numbers in the log, text in the users table", column("log", NUMBER.alias("user_id"), suffix="parquet"), prepare(), "users.csv, row 1, column 'user_id': 'u00'"),
    Case("parts whose users differ in type", parts(("1.parquet", half(True, parquet)), ("2.parquet", half(False, parquet, user_id=NUMBER))), prepare(FOLDER), "log/2.parquet, column 'user_id' (source.columns.user): whole numbers, but strings in log/1.parquet"),
    Case("one user for all plays", column("log", pl.lit("u01").alias("user_id")), prepare(), "too few titles are left that the user never played"),
    Case("one title for all plays", column("log", pl.lit("t01").alias("title_id")), prepare(), "no user has two titles"),
    Case("users and titles exchanged", STOCK, prepare(source("columns.user", "title_id"), source("columns.title", "user_id")), "title"),
]  # fmt: skip

# ---------------------------------------------------------------- watch times, runtimes and features

SECONDS_COLUMN = pl.col("seconds_viewed")
VALUES = [
    Case("one watch time that is a word", edited("log", "seconds_viewed", "long"), prepare(), ONE, 0),
    Case("one negative watch time", edited("log", "seconds_viewed", "-60"), prepare(), "rows dropped: ", 0),
    Case("one infinite watch time", edited("log", "seconds_viewed", "inf"), prepare(), "rows dropped: ", 0),
    Case("one watch time of 1e300", edited("log", "seconds_viewed", "1e300"), prepare(), "rows dropped: ", 0),
    Case("one NaN watch time", edited("log", "seconds_viewed", "nan"), prepare(), "rows dropped: ", 0),
    Case("decimal commas", column("log", (SECONDS_COLUMN.cast(pl.String) + ",5").alias("seconds_viewed")), prepare(), "column 'seconds_viewed'"),
    Case("thousands separators of watch times", column("log", pl.lit("3,000").alias("seconds_viewed")), prepare(), "column 'seconds_viewed'"),
    Case("watch times with a unit", column("log", (SECONDS_COLUMN.cast(pl.String) + " s").alias("seconds_viewed")), prepare(), "column 'seconds_viewed'"),
    Case("watch times as hours:minutes:seconds", column("log", pl.lit("00:50:00").alias("seconds_viewed")), prepare(), "column 'seconds_viewed'"),
    Case("boolean watch times", column("log", (SECONDS_COLUMN > 60).alias("seconds_viewed"), suffix="parquet"), prepare(), "column 'seconds_viewed' (source.columns.seconds): Boolean values; allowed: numbers"),
    Case("text watch times in Parquet", column("log", SECONDS_COLUMN.cast(pl.String), suffix="parquet"), prepare(), "column 'seconds_viewed' (source.columns.seconds): String values; allowed: numbers"),
    Case("decimal watch times in Parquet", column("log", SECONDS_COLUMN.cast(pl.Decimal(10, 3)), suffix="parquet"), prepare(), SAME, 0),
    Case("durations in Parquet for watch times", column("log", pl.duration(seconds=SECONDS_COLUMN).alias("seconds_viewed"), suffix="parquet"), prepare(), "column 'seconds_viewed' (source.columns.seconds): Duration"),
    Case("all watch times negative", column("log", -SECONDS_COLUMN), prepare(), "max_invalid_fraction"),
    Case("all watch times 0", column("log", SECONDS_COLUMN * 0), prepare(), "abandon_threshold"),
    Case("all watch times empty", column("log", pl.lit(None, pl.String).alias("seconds_viewed")), prepare(), "seconds_viewed"),
    Case("watch times in milliseconds", column("log", SECONDS_COLUMN * 1000), prepare(), "seconds_unit", 0),
    Case("watch times in hours", column("log", SECONDS_COLUMN / 3600), prepare(), "abandon_threshold"),
    Case("runtimes in seconds", column("titles", pl.col("runtime_minutes") * 60), prepare(), "runtime_unit"),
    Case("runtimes in milliseconds", column("titles", pl.col("runtime_minutes") * 60_000), prepare(), "runtime_minutes"),
    Case("a negative runtime", edited("titles", "runtime_minutes", "-90"), prepare(), "titles.csv, row 3, column 'runtime_minutes': -90; allowed"),
    Case("an infinite runtime", edited("titles", "runtime_minutes", "inf"), prepare(), "titles.csv, row 3, column 'runtime_minutes'"),
    Case("a runtime in words", edited("titles", "runtime_minutes", "1h 30"), prepare(), "titles.csv, row 3, column 'runtime_minutes': '1h 30'; allowed: numbers"),
    Case("no runtimes at all", column("titles", pl.lit(None, pl.String).alias("runtime_minutes")), prepare(), "runtime"),
    Case("all runtimes 0", column("titles", pl.col("runtime_minutes") * 0), prepare(), "runtime"),
    Case("a column of runtimes that is missing", tables(titles_csv=lambda: csv(titles().drop("runtime_minutes"))), prepare(), "titles.csv: no column 'runtime_minutes' (source.columns.runtime)"),
    Case("a year that is a word", edited("titles", "year", "unknown"), prepare(), "titles.csv, row 3, column 'year': 'unknown'; allowed: numbers"),
    Case("a year that is NA", edited("titles", "year", "NA"), prepare(), "rows read 720", 0),
    Case("an infinite year", edited("titles", "year", "inf"), prepare(), "titles.csv, row 3, column 'year': 'inf'; allowed: numbers within 3.4e+38"),
    Case("a year with a decimal comma", edited("titles", "year", "1980,5"), prepare(), "titles.csv, row 3, column 'year'"),
    Case("no year at all", column("titles", pl.lit(None, pl.String).alias("year")), prepare(), "feature year", 0),
    Case("all years equal", column("titles", pl.lit(1999).alias("year")), prepare(), "rows read 720", 0),
    Case("boolean feature of numbers", column("titles", (pl.col("year") > 1999).alias("year"), suffix="parquet"), prepare(), "column 'year' (feature 'year', where='title'): Boolean values; allowed: numbers"),
    Case("lists in Parquet", column("titles", pl.col("genres").str.split(","), suffix="parquet"), prepare(), SAME, 0),
    Case("lists of lists", column("titles", pl.concat_list(pl.col("genres").str.split(",").implode()).alias("genres"), suffix="parquet"), prepare(), "column 'genres' (feature 'genres', where='title'): List(List"),
    Case("lists written by Python", column("titles", (pl.lit("['") + pl.col("genres") + "']").alias("genres")), prepare(), "are lists written as text"),
    Case("lists written as JSON", column("titles", (pl.lit('["') + pl.col("genres") + '"]').alias("genres")), prepare(), "are lists written as text"),
    Case("sets written by PostgreSQL", column("titles", (pl.lit("{") + pl.col("genres") + "}").alias("genres")), prepare(), "are lists written as text"),
    Case("structs for genres", column("titles", pl.struct("genres").alias("genres"), suffix="parquet"), prepare(), "column 'genres' (feature 'genres', where='title'): Struct"),
    Case("lists of structs, as BigQuery", column("titles", pl.concat_list(pl.struct(pl.col("genres").alias("element"))).alias("genres"), suffix="parquet"), prepare(), "column 'genres' (feature 'genres', where='title'): List(Struct"),
    Case("lists with a null", column("titles", pl.concat_list(pl.col("genres"), pl.lit(None, pl.String)).alias("genres"), suffix="parquet"), prepare(), "rows read 720", 0),
    Case("a category of 300 bytes", edited("users", "segment", "s" * 300), prepare(), "users.csv, row 3, column 'segment'"),
    Case("a category NA is a value", edited("users", "segment", "NA"), prepare(), "'NA' in 1 rows is a category like others", 0),
    Case("lists for the category of a user", column("users", pl.concat_list("segment").alias("segment"), suffix="parquet"), prepare(), "column 'segment' (feature 'segment', where='user'): List(String) values; allowed: single values"),
    Case("boolean category", column("users", (pl.col("segment") == "s1").alias("segment"), suffix="parquet"), prepare(), "rows read 720", 0),
    Case("no value of a category", column("users", pl.lit(None, pl.String).alias("segment")), prepare(), "rows read 720", 0),
    Case("devices of two types in two parts", parts(("1.parquet", half(True, parquet)), ("2.parquet", half(False, parquet, device=pl.lit(1)))), prepare(FOLDER), "log/2.parquet, column 'device'"),
]  # fmt: skip

# ---------------------------------------------------------------- files that are no table, and columns

FILES = [
    Case("an empty file", tables(log_csv=b""), prepare(), "log.csv is empty: the first line must name the columns"),
    Case("blanks alone", tables(log_csv=b"\n\n   \n"), prepare(), "log.csv is empty: the first line must name the columns"),
    Case("a byte order mark alone", tables(log_csv=b"\xef\xbb\xbf"), prepare(), "log.csv is empty: the first line must name the columns"),
    Case("a header alone", tables(log_csv=lambda: csv(log()[:0])), prepare(), "log.csv has columns but no rows"),
    Case("Parquet without rows", tables(log_parquet=lambda: parquet(log()[:0])), prepare(), "log.parquet has columns but no rows"),
    Case("Parquet without columns", tables(log_parquet=lambda: parquet(pl.DataFrame())), prepare(), "log.parquet"),
    Case("all parts without rows", parts(("1.csv", lambda: b""), ("2.csv", lambda: csv(log()[:0]))), prepare(FOLDER), "log/1.csv is empty"),
    Case("titles of a header alone", tables(titles_csv=lambda: csv(titles()[:0])), prepare(), "titles.csv has columns but no rows"),
    Case("one title", tables(titles_csv=lambda: csv(titles()[:1])), prepare(), "title"),
    Case("a file that does not exist", STOCK, prepare(source("interactions", "lgo.csv")), "source.interactions='lgo.csv' matches no file"),
    Case("a glob without a match", STOCK, prepare(source("interactions", "log/*.parquet")), "matches no file"),
    Case("an empty folder", beside(STOCK, lambda f: (f / "log").mkdir()), prepare(FOLDER), "source.interactions='log' matches no file"),
    Case("a folder of hidden files", parts((".a.csv", lambda: csv(log()))), prepare(FOLDER), "source.interactions='log' matches no file"),
    Case("a broken link", beside(STOCK, lambda f: (f / "l.csv").symlink_to("gone.csv")), prepare(source("interactions", "l.csv")), "'l.csv' is a link to a file that does not exist"),
    Case("a link to itself", beside(STOCK, lambda f: (f / "l.csv").symlink_to("l.csv")), prepare(source("interactions", "l.csv")), "l.csv"),
    Case("a folder called .csv", beside(STOCK, lambda f: (f / "x.csv").mkdir()), prepare(source("interactions", "x.csv")), "source.interactions='x.csv' matches no file"),
    Case("an Excel file", tables(log_xlsx=b"PK\x03\x04" + bytes(200)), prepare(), "log.xlsx is not a file .csv"),
    Case("an Excel file called .csv", tables(log_csv=b"PK\x03\x04" + bytes(200)), prepare(), "log.csv"),
    Case("Parquet called .csv", tables(log_csv=lambda: parquet(log())), prepare(), "log.csv"),
    Case("CSV called .parquet", tables(log_parquet=lambda: csv(log())), prepare(), "log.parquet is not a Parquet file"),
    Case("an empty file called .parquet", tables(log_parquet=b""), prepare(), "log.parquet is not a Parquet file"),
    Case("Parquet cut off", tables(log_parquet=lambda: parquet(log())[:-100]), prepare(), "log.parquet is not a Parquet file"),
    Case("Parquet with a damaged page", tables(log_parquet=lambda: (lambda b: b[:200] + bytes(2000) + b[2200:])(parquet(log(), compression="uncompressed"))), prepare(), "log.parquet"),
    Case("gzip cut off", tables(log_csv_gz=lambda: gzip.compress(csv(log()))[:-20]), prepare(), "log.csv.gz: damaged gzip file"),
    Case("gzip with a flipped byte", tables(log_csv_gz=lambda: (lambda b: b[:900] + bytes([b[900] ^ 255]) + b[901:])(gzip.compress(csv(log())))), prepare(), "log.csv.gz: damaged gzip file"),
    Case("Zstandard cut off", tables(log_csv_zst=lambda: zstandard.compress(csv(log()))[:-20]), prepare(), "log.csv.zst"),
    Case("a zip file", tables(log_csv_zip=b"PK\x03\x04" + bytes(200)), prepare(), "log.csv.zip is not a file .csv"),
    Case("a bzip2 file called .csv", tables(log_csv=b"BZh91AY&SY" + bytes(range(256))), prepare(), "log.csv"),
    Case("JSON lines called .csv", tables(log_csv=lambda: log().write_ndjson().encode()), prepare(), "log.csv"),
    Case("JSON lines", tables(log_jsonl=lambda: log().write_ndjson()), prepare(), "log.jsonl is not a file .csv"),
    Case("a web page called .csv", tables(log_csv="<!DOCTYPE html>\n<html><body>404, not found</body></html>\n"), prepare(), "log.csv: no column 'user_id'"),
    Case("text and Parquet in a folder", parts(("1.csv", half(True)), ("2.parquet", half(False, parquet))), prepare(FOLDER), "mixes text and Parquet: log/1.csv, log/2.parquet"),
    Case("a pointer of Git LFS", tables(log_csv="version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"), prepare(), "log.csv: no column 'user_id'"),
    Case("semicolons not declared", tables(log_csv=lambda: csv(log(), separator=";")), prepare(), "log.csv: no column 'user_id' (source.columns.user); columns: user_id;title_id"),
    Case("tabs in .csv", tables(log_csv=lambda: csv(log(), separator="\t")), prepare(), "log.csv: no column 'user_id'"),
    Case("commas in .tsv", tables(log_tsv=lambda: csv(log())), prepare(), "log.tsv: no column 'user_id'"),
    Case("the separator of Excel in the first line", tables(log_csv=lambda: b"sep=,\n" + csv(log())), prepare(), "log.csv: no column 'user_id'"),
    Case("a title line above the header", tables(log_csv=lambda: b"Report of plays\n" + csv(log())), prepare(), "log.csv: no column 'user_id'"),
    Case("no header", tables(log_csv=lambda: csv(log(), include_header=False)), prepare(), "log.csv: no column 'user_id'"),
    Case("a header that names a column twice", tables(log_csv=replaced("seconds_viewed", "time")), prepare(), "log.csv: the header names column 'time' twice"),
    Case("a header of another case", tables(log_csv=replaced("user_id", "USER_ID")), prepare(), "log.csv: no column 'user_id'"),
    Case("a part without a column", parts(("1.csv", half(True)), ("2.csv", lambda: csv(log()[360:].drop("device")))), prepare(FOLDER), "log/2.csv: no column 'device'"),
    Case("a further field in one row", tables(log_csv=lambda: csv(log()).replace(b",tv\n", b",tv,more\n", 1)), prepare(), ONE, 0),
    Case("further fields in all rows", tables(log_csv=lambda: csv(log(), quote_style="never").replace(b"\n", b",x,y\n").replace(b"device,x,y", b"device", 1)), prepare(), "log.csv, row 1"),
    Case("one field less in one row", tables(log_csv=lambda: csv(log()).replace(b",3000,phone\n", b",phone\n", 1)), prepare(), ONE, 0),
    Case("an open quote in one row", tables(log_csv=lambda: csv(log()).replace(b",tv\n", b',"tv\n', 1)), prepare(), ONE, 0),
    Case("an open quote in the last row", tables(log_csv=lambda: csv(log()).rstrip() + b'\nu01,t01,1700000000000,60,"tv'), prepare(), ONE, 0),
    Case("bytes that are not UTF-8", tables(log_csv=replaced("phone", "téléphone", "latin-1")), prepare(), "UTF-8", slow=True),
    Case("one row that is not UTF-8", tables(log_csv=lambda: csv(log()).replace(b",tv\n", b",t\xe9v\n", 1)), prepare(), ONE, 0),
    Case("an encoding that does not exist", STOCK, prepare(source("interactions_format.encoding", "utf-88")), "encoding"),
    Case("the wrong encoding", STOCK, prepare(source("interactions_format.encoding", "utf-16")), "log.csv, line 1: not utf-16"),
    Case("UTF-16 not declared", tables(log_csv=lambda: csv(log()).decode().encode("utf-16")), prepare(), "log.csv"),
    Case("a header of another number of names", STOCK, prepare(source("interactions_format.header", "('user_id','title_id')")), "log.csv, line 1: 5 fields, but header="),
    Case("Parquet with a column twice in case", tables(log_parquet=lambda: parquet(log().with_columns(User_ID=KEY))), prepare(), SAME, 0),
    Case("a log without a users column of the config", STOCK, prepare(source("columns.user", "uid")), "log.csv: no column 'uid' (source.columns.user); columns: user_id, title_id"),
    Case("a feature that no table has", STOCK, prepare("--config.features[4].name=country"), "log.csv: no column 'country' (feature 'country', where='context')"),
    Case("a feature of titles without a table", tables(titles=None), prepare(), "source.titles='' must name the titles table"),
    Case("a feature of users without a table", tables(users=None), prepare(), "source.users is empty; allowed: a users table"),
    Case("a table with one user of two plays", tables(log_csv=lambda: csv(log()[:2])), prepare(), "no validation example is left"),
    Case("few titles for the pools", STOCK, prepare("--config.data.negatives=1000"), "titles", slow=True),
    Case("CR alone at the end of lines, as old Macs", tables(log_csv=replaced("\n", "\r")), prepare(), "log.csv"),
    Case("a row of 40 MB", tables(log_csv=lambda: csv(log()) + b"u01,t01,1700000000000,60," + b"x" * 40_000_000 + b"\n"), prepare(), ONE, 0, slow=True),
    Case("a file of 17 MB of quotes", tables(log_csv=lambda: csv(log()) + b'"' * 17_000_001), prepare(), ONE, 0, slow=True),
    Case("a gzip file that expands a thousand times", tables(log_csv_gz=lambda: gzip.compress(csv(log()) + b"\n" * 60_000_000)), prepare(), SAME, 0, slow=True),
]  # fmt: skip

# ---------------------------------------------------------------- prepare --check on raw files

ALL = ("--titles", "titles.csv", "--users", "users.csv")
CHECKS = [
    Case("check of the stock", STOCK, check("log.csv", *ALL), "user_id", 0),
    Case("check of semicolons", tables(log_csv=lambda: csv(log(), separator=";")), check("log.csv", *ALL), "separator", 0),
    Case("check of UTF-16", tables(log_csv=lambda: csv(log()).decode().encode("utf-16")), check("log.csv", *ALL), "utf-16", 0),
    Case("check of latin-1", tables(log_csv=replaced("phone", "téléphone", "latin-1")), check("log.csv", *ALL), "user_id", 0),
    Case("check of a file without a header", tables(log_csv=lambda: csv(log(), include_header=False)), check("log.csv"), "header", 0),
    Case("check of gzip", tables(log_csv_gz=lambda: gzip.compress(csv(log()))), check("log.csv.gz", *ALL), "user_id", 0),
    Case("check of Parquet", tables(log_parquet=lambda: parquet(log())), check("log.parquet", *ALL), "user_id", 0),
    Case("check of timestamps", column("log", ISO.alias("time"), suffix="parquet"), check("log.parquet", *ALL), "user_id", 0),
    Case("check of other names", tables(log_csv=replaced("user_id,title_id,time,seconds_viewed", "visitorId,itemId,event_ts,watch_s")), check("log.csv"), "visitorId", 0),
    Case("check of an empty file", tables(log_csv=b""), check(), "log.csv is empty"),
    Case("check of a header alone", tables(log_csv=lambda: csv(log()[:0])), check(), "log.csv has columns but no rows"),
    Case("check of a missing file", STOCK, check("lgo.csv"), "--interactions='lgo.csv' matches no file"),
    Case("check of missing titles", STOCK, check("log.csv", "--titles", "film.csv"), "--titles='film.csv' matches no file"),
    Case("check of one column", tables(log_csv=lambda: csv(log().select("user_id"))), check(), "log.csv"),
    Case("check of a file without times", tables(log_csv=lambda: csv(log().drop("time"))), check(), "time"),
    Case("check of text", tables(log_txt="once upon a time\nthere was a file\nof text\n"), check("log.txt"), "log.txt"),
    Case("check of binary data", tables(log_csv=bytes(range(256)) * 40), check(), "log.csv"),
    Case("check of NULs", tables(log_csv=bytes(4096)), check(), "log.csv"),
    Case("check of Parquet called .csv", tables(log_csv=lambda: parquet(log())), check(), "log.csv"),
    Case("check of an Excel file", tables(log_xlsx=b"PK\x03\x04" + bytes(200)), check("log.xlsx"), "log.xlsx is not a file .csv"),
    Case("check of structs", column("log", pl.struct("user_id").alias("user_id"), suffix="parquet"), check("log.parquet"), "user_id: Struct", 0),
    Case("check of titles that match nothing", column("titles", (pl.lit("x") + TITLE_KEY).alias("title_id")), check("log.csv", "--titles", "titles.csv"), "titles.csv"),
    Case("check of a header twice", tables(log_csv=replaced("seconds_viewed", "time")), check(), "log.csv: the header names column 'time' twice"),
    Case("check of gzip cut off", tables(log_csv_gz=lambda: gzip.compress(csv(log()))[:-20]), check("log.csv.gz"), "log.csv.gz: damaged gzip file"),
    Case("check of three rows", tables(log_csv=lambda: csv(log()[:3])), check(), "2 examples in all splits", 0),
]  # fmt: skip

CASES = [*SPELLINGS, *TIMES, *KEYS, *VALUES, *FILES, *CHECKS]
