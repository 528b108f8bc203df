"""Tables of a small service, and edits of them, as text and as Parquet."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

USERS, PLAYS, TITLES = 60, 12, 40
START = 1_700_000_000_000  # ms since 1970
HOUR = 3_600_000

CONFIG = """from jaxrec.config import Config, Data, Evaluate, Expert, Feature, Gate, Model, Sampling, Tables


def get_config():
    return Config(
        name="own",
        source=Tables(interactions="{log}", titles="{titles}", users="{users}"),
        features=(
            Feature("title_id", "category", "title", 4),
            Feature("genres", "categories", "title", 4, most=2),
            Feature("year", "number", "title", 4),
            Feature("segment", "category", "user", 4),
            Feature("device", "category", "context", 4),
        ),
        data=Data(max_history=8, partitions=1, workers=1, hard=4, trending=8, tailing=8, random=4, negatives=10),
        sampling=Sampling(negatives=10),
        model=Model(width=8, experts=(Expert(max_len=8, num_heads=2),), gate=Gate(hidden=(4,))),
        evaluate=Evaluate(batch_size=64),
    )
"""


def log() -> pl.DataFrame:
    """Return the plays: user, title, time in milliseconds, seconds and device."""
    rows = [(u, p) for u in range(USERS) for p in range(PLAYS)]
    return pl.DataFrame(
        {
            "user_id": [f"u{u:02d}" for u, _ in rows],
            "title_id": [f"t{(7 * u + 5 * p * (1 + u % 3)) % TITLES:02d}" for u, p in rows],
            "time": [START + (29 * u + 31 * p) * HOUR + u for u, p in rows],
            "seconds_viewed": [30 if (u + p) % 4 == 0 else 3000 for u, p in rows],
            "device": [("tv", "phone", "web")[(u + p) % 3] for u, p in rows],
        }
    )


def titles() -> pl.DataFrame:
    """Return the titles: runtime in minutes, genres and year."""
    n = range(TITLES)
    return pl.DataFrame(
        {
            "title_id": [f"t{t:02d}" for t in n],
            "runtime_minutes": [60 + 3 * t for t in n],
            "genres": [("drama", "comedy,crime", "crime")[t % 3] for t in n],
            "year": [1980 + t for t in n],
        }
    )


def users() -> pl.DataFrame:
    """Return the users and their segments."""
    n = range(USERS)
    return pl.DataFrame({"user_id": [f"u{u:02d}" for u in n], "segment": [f"s{u % 4}" for u in n]})


STOCK: Mapping[str, Callable[[], pl.DataFrame]] = {"log": log, "titles": titles, "users": users}


def csv(frame: pl.DataFrame, **options: Any) -> bytes:
    """Return a frame as CSV."""
    out = io.BytesIO()
    frame.write_csv(out, **options)
    return out.getvalue()


def parquet(frame: pl.DataFrame, **options: Any) -> bytes:
    """Return a frame as Parquet."""
    out = io.BytesIO()
    frame.write_parquet(out, **options)
    return out.getvalue()


def cell(frame: pl.DataFrame, column: str, value: str | None, row: int = 3) -> pl.DataFrame:
    """Return a frame as text with another value in one row, from 1."""
    values = frame[column].cast(pl.String).to_list()
    values[row - 1] = value
    return frame.with_columns(pl.Series(column, values, pl.String))


def write(folder: Path, **tables: bytes | str | None) -> None:
    """Write the stock tables and their config, with other contents for some.

    Args:
        folder: Where to write.
        **tables: Name of a table with its suffix, `log_csv` or `titles_parquet` for example, and its bytes;
            None for no such table. A table that is not named is the stock's, as CSV.
    """
    names = {"log": "log.csv", "titles": "titles.csv", "users": "users.csv"}
    for key, content in tables.items():
        name, _, suffix = key.partition("_")
        names[name] = f"{name}.{suffix.replace('_', '.')}" if content is not None else ""
        if content is not None:
            data = content.encode() if isinstance(content, str) else content
            (folder / names[name]).write_bytes(data)
    for name, make in STOCK.items():
        if not any(key.partition("_")[0] == name for key in tables):
            (folder / names[name]).write_bytes(csv(make()))
    (folder / "own.py").write_text(CONFIG.format(**names))
