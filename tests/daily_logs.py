"""Logs of ten days with new titles each day, as CSV files, and configs of datasets of their days."""

from pathlib import Path

import numpy as np

from jaxrec.config.schema import Columns, Config, Data, Feature, Signal, Tables, Task

USERS, TITLES, DAYS = 80, 60, 10
FIRST = np.datetime64("2024-03-01")  # day 0
_COUNTRIES = np.array(["AR", "BR", "CL", ""])
_GENRES = np.array(["drama", "comedy", "crime", "space"])


def day(number: int) -> str:
    """Return the ISO date of a day of the log."""
    return str(FIRST + number)


def launch_day(title: np.ndarray) -> np.ndarray:
    """Return the day from which a title is watched: 40 titles are there at first, then four more a day."""
    return np.maximum(title - 40, 0) // 4 + (title >= 40)


def make_log(days: int = DAYS, seed: int = 0) -> list[str]:
    """Return the lines of a log of the first `days` days; later days do not change earlier lines."""
    lines = []
    for number in range(days):
        draw = np.random.default_rng([seed, number])
        plays = 160
        user = draw.integers(0, USERS, plays)
        known = 40 + 4 * number
        title = np.minimum((draw.random(plays) ** 2 * known).astype(int), min(known, TITLES) - 1)
        second = np.sort(draw.choice(86_400, plays, replace=False))
        at = int(FIRST.astype("datetime64[s]").astype(int)) + 86_400 * number + second
        seconds = draw.choice([60, 900, 1800, 2400], plays)
        device = draw.choice(["tv", "phone", "laptop"], plays)
        length = draw.integers(1, 100, plays)
        lines += [
            f"u{u},t{t},{s * 1000},{w},{d},{n}"
            for u, t, s, w, d, n in zip(user, title, at, seconds, device, length, strict=True)
        ]
    return lines


def write_tables(folder: Path, lines: list[str], titles: int = TITLES) -> None:
    """Write the three tables of a log, and a table of thumbs."""
    header = "user_id,title_id,time,seconds_viewed,device,length"
    (folder / "log.csv").write_text("\n".join([header, *lines]) + "\n")
    rows = [f"t{t},40,{_GENRES[t % 4]},{t * 1.5}" for t in range(titles)]
    (folder / "titles.csv").write_text("\n".join(["title_id,runtime_minutes,genre,budget", *rows]) + "\n")
    users = [f"u{u},{_COUNTRIES[u % 4]}" for u in range(USERS)]
    (folder / "users.csv").write_text("\n".join(["user_id,country", *users]) + "\n")
    thumbs = [",".join([*line.split(",")[:3], "1"]) for line in lines[::7]]
    (folder / "thumbs.csv").write_text("\n".join(["user_id,title_id,time,value", *thumbs]) + "\n")


def daily_config(folder: Path, task: str = "ranking", **data) -> Config:
    """Return a config of the log in a folder, with small pools and a split by user."""
    features = [
        Feature("title_id", "category", "title", 8),
        Feature("genre", "category", "title", 4),
        Feature("budget", "number", "title", 4),
        Feature("country", "category", "user", 4),
    ]
    if task == "ranking":
        features += [Feature("device", "category", "context", 4), Feature("length", "number", "context", 4)]
    if task == "next_item" and "only" not in data:
        features.pop()
    settings = {"max_history": 8, "hard": 4, "trending": 6, "tailing": 6, "random": 2, "partitions": 2,
                "validation_share": 0.2, "train_share": 0.5, "negatives": 10} | data  # fmt: skip
    settings |= {"num_targets": 1 if task == "next_item" else 2}
    source = Tables(
        interactions=str(folder / "log.csv"), titles=str(folder / "titles.csv"),
        users=str(folder / "users.csv"), columns=Columns(),
    )  # fmt: skip
    signals = (Signal("thumb", "sign", table=str(folder / "thumbs.csv")),) if task == "ranking" else ()
    return Config(
        source=source, features=tuple(features), task=Task(task), data=Data(**settings), signals=signals
    )
