"""Two days on own Parquet tables by the commands of docs/incremental.md."""

import json

import numpy as np
import polars as pl
import pytest
from commands import run
from daily_logs import day, make_log, write_tables

from jaxrec.config.loading import load_config
from jaxrec.config.validation import check
from jaxrec.core.errors import InputError
from jaxrec.data.storage.dataset import Dataset

CONFIG = """
from configs import daily
from jaxrec.config import Columns, Expert, Feature, Gate, Model, Task
from datetime import date

daily.FIRST = date(2024, 3, 6)
daily.own_data.get_config = lambda source=daily.own_data.get_config: own(source())


def own(c):
    c.source.interactions, c.source.titles, c.source.users = "log.parquet", "titles.parquet", "users.parquet"
    c.source.columns = Columns()
    c.features = (Feature("title_id", "category", "title", 8), Feature("genre", "category", "title", 4))
    c.task, c.data.num_targets, c.data.max_history = Task("next_item"), 1, 8
    c.data.train_share, c.data.validation_share, c.data.max_invalid_fraction = 0.5, 0.2, 0.9
    c.model = Model(width=8, experts=(Expert(8, 1, 2, 1.0, 0.0, "sasrec"),), dropout=0.0, head="dot",
                    gate=Gate(hidden=(4,)))
    c.train.batch_size, c.evaluate.batch_size, c.evaluate.report = 16, 32, False
    c.evaluate.next_k = (1,)
    return c


def get_config(day):
    c = daily.get_config(day)
    c.data.capacity, c.train.duration = 128, "4 steps"
    return c
"""


def write_day(folder, number, titles):
    """Write the tables as they are at the end of a day, as Parquet."""
    write_tables(folder, make_log(number), titles=titles)
    for name in ("log", "titles", "users"):
        pl.read_csv(folder / f"{name}.csv").write_parquet(folder / f"{name}.parquet")


def command(folder, *words):
    done = run("-m", *words, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.slow  # six commands; tests/training/test_daily_growth.py is the short form
def test_two_days_by_commands(tmp_path):
    (tmp_path / "mine.py").write_text(CONFIG)
    for number, titles in ((5, 45), (6, 60)):
        write_day(tmp_path, number, titles)
        config = ("--config", f"mine.py:{day(number)}")
        command(tmp_path, "jaxrec.prepare", *config)
        command(tmp_path, "jaxrec.train", *config, "--workdir", f"runs/daily/{day(number)}")
    first, second = (Dataset(tmp_path / "data/daily" / day(n)) for n in (5, 6))
    known = len(first.arrays.title_key)
    assert (known, len(second.arrays.title_key)) == (45, 60)
    np.testing.assert_array_equal(second.arrays.title_key[:known], first.arrays.title_key)
    start = json.loads((tmp_path / "runs/daily" / day(6) / "start.json").read_text())
    rows = start["grown"]["title/vectors/title_id/embedding"]
    assert (rows["old_rows"], rows["new_rows"], rows["dropped_rows"]) == (45, 15, 0)
    result = json.loads((tmp_path / "runs/daily" / day(6) / "test.json").read_text())
    assert result["catalogue"]["titles"] == 60
    command(
        tmp_path, "jaxrec.recommend", "--checkpoint", f"runs/daily/{day(6)}", "--histories", "log.parquet",
        "--k", "60", "--out", "lists.parquet",
    )  # fmt: skip
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    assert set(lists["title"]) <= set(second.arrays.title_key.tolist())
    assert set(lists["title"]) - set(first.arrays.title_key.tolist())  # new titles are recommended


def test_the_config_of_a_day_goes_on_from_the_day_before():
    first, second = load_config("configs/daily.py"), load_config("configs/daily.py:2023-12-25")
    for config in (first, second):
        check(config)
    assert (first.data.until, first.data.continues, first.start.workdir) == ("2023-12-24", "", "")
    assert second.data.since == first.data.until
    assert second.data.continues == first.data.directory
    assert second.start.workdir == "runs/daily/2023-12-24" and second.start.optimizer == "kept"
    with pytest.raises((InputError, ValueError)):
        load_config("configs/daily.py:tomorrow")
