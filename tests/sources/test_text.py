"""Tests of text formats: separators, no header, compression, RecBole headers, encodings, units."""

import gzip

import numpy as np
import polars as pl
import pytest

from jaxrec.config.schema import Columns, Config, Feature, FileFormat, Tables
from jaxrec.config.serialization import digest
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.sources import open_source, text
from jaxrec.sources.histories import Histories

zstandard = pytest.importorskip("zstandard", reason="the library zstandard is not installed")
COLUMNS = Columns(user="u", title="t", time="at", time_unit="s", seconds="", runtime="")
DIGEST = "a7d8a18c76ad78bd1e59b697b79996c725f35bc3a4452af75d951d59f2631eb6"
TITLE = (Feature("title_id", "category", "title", 8),)
FIELDS = [("ann", "10", "1000000000"), ("bøb", "9", "1000000001")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def joined(separator, header="u{0}t{0}at"):
    """Return the text of two plays."""
    rows = [separator.join(fields) for fields in FIELDS]
    return "\n".join(([header.format(separator)] if header else []) + rows) + "\n"


def write(name, content, encoding="utf-8"):
    """Write a file, compressed as its name declares."""
    data = content if isinstance(content, bytes) else content.encode(encoding)
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        data = zstandard.ZstdCompressor().compress(data)
    with open(name, "wb") as file:
        file.write(data)


def read(name, columns=COLUMNS, titles="", features=TITLE, **form):
    """Return the source, its titles and its only chunk."""
    source = open_source(
        Tables(interactions=name, titles=titles, columns=columns, interactions_format=FileFormat(**form)),
        features,
    )
    titles_read = source.titles()
    (log,) = source.interactions()
    return source, titles_read, log


def assert_plays(name, **form):
    """Assert that a file holds the plays of FIELDS."""
    source, titles, log = read(name, **form)
    assert [u.decode() for u in log.user] == ["ann", "bøb"] and titles.key.tolist() == ["10", "9"]
    assert log.time.tolist() == [1_000_000_000_000, 1_000_000_001_000] and log.title.tolist() == [0, 1]
    assert log.row.tolist() == [1, 2] and source.drops.counts == {}


@pytest.mark.parametrize(
    ("name", "content", "encoding", "form"),
    [
        ("a.tsv", joined("\t"), "utf-8", {}),
        ("a.csv", joined("\t"), "utf-8", {"separator": "\t"}),
        ("a.dat", joined("::"), "utf-8", {"separator": "::"}),
        ("a.txt", joined("|"), "utf-8", {"separator": "|"}),
        ("a.txt", joined("§"), "utf-8", {"separator": "§"}),
        ("u.data", joined(" ", ""), "utf-8", {"separator": " ", "header": ("u", "t", "at")}),
        ("r.dat", joined("::", ""), "latin-1",
         {"separator": "::", "header": ("u", "t", "at"), "encoding": "latin-1"}),
        ("a.inter", joined("\t", "u:token{0}t:token{0}at:float"), "utf-8", {}),
        ("a.inter.gz", joined("\t", "u:token{0}t:token{0}at:float"), "utf-8", {}),
        ("a.csv.gz", joined(","), "utf-8", {}),
        ("a.csv.zst", joined(","), "utf-8", {}),
        ("a.csv", joined(","), "latin-1", {"encoding": "latin-1"}),
        ("a.csv", joined(","), "utf-16", {"encoding": "utf-16"}),
        ("a.tsv.zst", joined("\t"), "utf-16", {"encoding": "utf-16"}),
    ],
)  # fmt: skip
def test_a_format_is_read(name, content, encoding, form):
    write(name, content, encoding)
    assert_plays(name, **form)


def test_blocks_do_not_change_what_is_read(monkeypatch):
    """Blocks of 20 bytes cut rows, separators and characters."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 20)
    lines = "".join(f"ü{i}::{i}::{1_000_000_000 + i}\n" for i in range(50))
    form = {"separator": "::", "header": ("u", "t", "at"), "encoding": "utf-16"}
    write("a.dat", lines, "utf-16")
    source = open_source(
        Tables(interactions="a.dat", columns=COLUMNS, interactions_format=FileFormat(**form)), TITLE
    )
    chunks = list(source.interactions())
    assert len(chunks) > 10
    assert np.concatenate([c.row for c in chunks]).tolist() == list(range(1, 51))
    users = [u.decode() for c in chunks for u in c.user]
    assert users == [f"ü{i}" for i in range(50)]


def test_quotes_may_be_ordinary_characters():
    write("a.tsv", 'u\tt\tat\n"ann\t10\t1000000000\nbob"\t9\t1000000001\n')
    _, _, log = read("a.tsv", quote="")
    assert log.user.tolist() == [b'"ann', b'bob"']
    _, _, log = read("a.tsv")  # the quotes make one field of two lines
    assert log.user.tolist() == [b"ann\t10\t1000000000\nbob"]


def test_a_separator_of_two_characters_needs_no_quotes():
    write("titles.dat", 'u::t::at\nann::"Great" Cats (1998)::1000000000\n')
    _, titles, _ = read("titles.dat", separator="::")
    assert titles.key.tolist() == ['"Great" Cats (1998)']


def test_a_folder_prefers_csv_to_other_text(folder):
    (folder / "logs").mkdir()
    write("logs/a.csv", joined(","))
    write("logs/readme.txt", "not a table")
    assert_plays("logs")
    (folder / "other").mkdir()
    write("other/a.tsv.gz", joined("\t"))
    assert_plays("other")


@pytest.mark.parametrize(
    ("name", "content", "encoding", "form", "message"),
    [
        ("a.csv", joined(","), "latin-1", {"encoding": "utf-16"},
         "a.csv, line 1: not utf-16; allowed: text in the encoding of the table's format"),
        ("a.csv", b"u,t,at\nann,10,1\nb\xffb,9,1\n", "", {"encoding": "ascii"},
         "a.csv, line 3: not ascii; allowed: text in the encoding of the table's format"),
        ("a.dat", joined("::", ""), "utf-8", {"separator": "::", "header": ("u", "t")},
         "a.dat, line 1: 3 fields, but header=('u', 't') of the table's format has 2 names; "
         "allowed: one name for each field"),
        ("a.csv", joined("\t"), "utf-8", {},
         "a.csv: no column 'u' (source.columns.user); columns: u\tt\tat"),
        ("a.csv", "", "utf-8", {}, "a.csv is empty: the first line must name the columns"),
        ("a.csv", "", "utf-8", {"header": ("u", "t", "at")}, "a.csv has columns but no rows"),
        ("a.csv", b"\x1f\x8b\x08\x00broken", "", {}, "a.csv: damaged gzip file"),
        ("a.csv", b"\x28\xb5\x2f\xfd broken", "", {}, "a.csv: damaged Zstandard file"),
    ],
)  # fmt: skip
def test_an_error_names_the_file_and_what_is_allowed(name, content, encoding, form, message):
    write(name, content, encoding)
    with pytest.raises(InputError) as e:
        read(name, **form)
    assert str(e.value).startswith(message) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoding": "latin-99"},
         "source.titles_format.encoding='latin-99' must be an encoding of Python, such as utf-8, latin-1 or "
         "utf-16"),
        ({"encoding": "hex"}, "source.titles_format.encoding='hex' must be"),
        ({"quote": "''"}, "source.titles_format.quote=\"''\" must be one ASCII character, or empty for none"),
        ({"separator": "\n"}, "source.titles_format.separator='\\n' must hold no end of a line"),
        ({"separator": '"'}, "source.titles_format.quote='\"' must not occur in separator='\"'"),
        ({"header": ("a", "b", "a")},
         "source.titles_format.header[2]='a' must be unlike the names before it"),
    ],
)  # fmt: skip
def test_a_wrong_format_is_an_error_of_the_config(fields, message):
    tables = Tables(interactions="a.csv", titles="b.csv", titles_format=FileFormat(**fields))
    with pytest.raises(InputError) as e:
        check(Config(source=tables, features=TITLE))
    assert str(e.value).startswith(message)


# ---------------------------------------------------------------- units


def viewed(values, unit, *, runtimes="", runtime_unit="min", log_runtime=""):
    """Return seconds viewed and runtimes of a log, one title per play."""
    column = ",long" if log_runtime else ""
    rows = "".join(f"u{i},t{i},{v},1000000000\n" for i, v in enumerate(values))
    write("log.csv", f"u,t,seen{column},at\n" + rows)
    columns = Columns(
        user="u", title="t", time="at", time_unit="s", seconds="seen", seconds_unit=unit, title_key="t",
        runtime="length" if runtimes else "", runtime_unit=runtime_unit, log_runtime=log_runtime,
    )  # fmt: skip
    if runtimes:
        write("titles.csv", "t,length\n" + "".join(f"t{i},{r}\n" for i, r in enumerate(runtimes)))
    _, titles, log = read("log.csv", columns, "titles.csv" if runtimes else "")
    return log.seconds.tolist(), titles.runtime.tolist()


@pytest.mark.parametrize(("unit", "seconds"), [("s", 1500), ("ms", 1.5), ("min", 90_000)])
def test_units_of_watch_times(unit, seconds):
    assert viewed([1500], unit, runtimes=[10]) == ([seconds], [10])


@pytest.mark.parametrize(("unit", "minutes"), [("min", 90), ("s", 1.5), ("ms", 0.0015), ("h", 5400)])
def test_units_of_runtimes(unit, minutes):
    assert viewed([1], "s", runtimes=[90], runtime_unit=unit)[1] == pytest.approx([minutes], rel=1e-12)


def test_a_fraction_counts_of_the_runtime_of_the_title():
    assert viewed([0.5, 0.25], "fraction", runtimes=[10, 20]) == ([300, 300], [10, 20])
    assert viewed([50, 25], "percent", runtimes=[10, 20]) == ([300, 300], [10, 20])
    assert viewed([0.5], "fraction", runtimes=[""])[0] == [0]  # the row is dropped for its runtime
    assert viewed([0.5], "fraction") == ([3000], [100])  # without runtimes all titles are equally long


def test_a_log_may_hold_the_runtimes():
    values = ["1500,60000", "500,"]
    assert viewed(values, "ms", runtime_unit="ms", log_runtime="long") == ([1.5, 0.5], [1, 0])
    assert viewed(values, "ms", runtimes=["", 120_000], runtime_unit="ms", log_runtime="long")[1] == [1, 2]


def test_histories_have_the_units_of_the_config():
    columns = Columns(user="u", title="t", time="at", time_unit="s", seconds="seen", seconds_unit="fraction")
    source = Tables("log.dat", "titles.csv", columns=columns, interactions_format=FileFormat("::"))
    write("log.dat", "u::t::seen::at\nann::t1::.5::1000000000\n")
    (log,) = Histories(source, TITLE, "log.dat", None, np.array(["t0", "t1"]), np.array([7.0, 20.0]))\
        .interactions()  # fmt: skip
    assert log.seconds.tolist() == [600] and log.title.tolist() == [1]


@pytest.mark.parametrize(
    ("unit", "value", "milliseconds"),
    [
        ("ns", 1_650_812_741_436_000_000, 1_650_812_741_436),
        ("s", "1650812741.436", 1_650_812_741_436),
        ("s", "1.650812741436e9", 1_650_812_741_436),
        ("us", "1650812741436999.0", 1_650_812_741_436),
    ],
)
def test_units_of_times(unit, value, milliseconds):
    write("a.csv", f"u,t,at\nann,10,{value}\n")
    columns = Columns(
        user="u", title="t", time="at", time_unit=unit, time_decimals=isinstance(value, str), seconds="",
        runtime="",
    )  # fmt: skip
    assert read("a.csv", columns)[2].time.tolist() == [milliseconds]
    typed = float(value) if columns.time_decimals else value
    pl.DataFrame({"u": ["ann"], "t": ["10"], "at": [typed]}).write_parquet("a.parquet")
    assert read("a.parquet", columns)[2].time.tolist() == pytest.approx([milliseconds], abs=1)


# ---------------------------------------------------------------- digests


def test_fields_at_their_defaults_leave_the_digest_alone():
    config = Config(source=Tables("log.csv", "titles.csv"), features=TITLE)
    # Of the schema without formats and units.
    assert digest(config) == DIGEST
    for change in (
        {"titles_format": FileFormat("::")},
        {"columns": Columns(seconds_unit="ms")},
        {"columns": Columns(time_decimals=True)},
        {"columns": Columns(log_runtime="long")},
    ):
        assert digest(Config(source=Tables("log.csv", "titles.csv", **change), features=TITLE)) != DIGEST
