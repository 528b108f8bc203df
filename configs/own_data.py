"""Template for your own logs: copy the file, name your columns, run the commands.

Such a config is written for raw files by

python -m jaxrec.prepare --check --interactions LOG --write-config my_service.py

python -m jaxrec.prepare --config configs/my_service.py    # reads and checks all rows, reports errors
python -m jaxrec.train --config configs/my_service.py --workdir runs/my_service

Three tables, CSV or Parquet, each one file, a folder or a glob:

interactions  one row per watch session: user, title, start time, seconds viewed, and context known when the
              title was requested (device, page). Sessions of one title are added up, in any order.
titles        one row per title: id, runtime in minutes, and features.
users         one row per user: id and features. The table is optional and may lack users.
"""

from jaxrec.config import Columns, Config, Data, Feature, Tables, Train


def get_config() -> Config:
    """Return the config."""
    source = Tables(
        interactions="my_data/interactions/*.parquet",
        titles="my_data/titles.csv",
        users="my_data/users.csv",  # "" without a users table; then declare no feature with where="user"
        columns=Columns(
            user="user_id",  # whole numbers or strings
            title="title_id",
            time="started_at",  # whole numbers, timestamps or ISO 8601 strings; UTC without an offset
            time_unit="ms",  # unit of whole numbers: "s", "ms", "us" or "ns"
            seconds="seconds_viewed",
            title_key="title_id",  # in the titles table
            runtime="runtime_minutes",
            user_key="user_id",  # in the users table
            list_separator="|",  # of lists in CSV, such as Drama|Comedy; Parquet may have list columns
        ),
    )
    # All other columns that are model inputs, with embedding widths. A "category" is one of several values,
    # "categories" a list of values, a "number" is standardised. Columns that are not declared are not read.
    features = (
        Feature("title_id", "category", "title", width=64),  # the title's id, whatever its column's name
        Feature("genres", "categories", "title", width=32, most=5),  # the first five values of a longer list
        Feature("release_year", "number", "title", width=4),
        Feature("country", "category", "user", width=8),
        Feature("device", "category", "context", width=8),  # a column of the interactions table
        Feature("completion", "number", "interaction", width=8),  # these three are computed by jaxrec
        Feature("sessions", "number", "interaction", width=8),
        Feature("age", "number", "interaction", width=8),
    )
    return Config(
        name="own_data",  # used in the name of the run's folder
        source=source,
        features=features,
        data=Data(
            abandon_threshold=0.05,  # completion below which a title counts as abandoned
            max_invalid_fraction=0.05,  # fraction of invalid rows above which preparation stops
            partitions=8,  # minimum; a large log is divided into more partitions
        ),
        # A batch larger than the train split is adapted; 256 is enough for a log of some thousand plays.
        train=Train(duration="20 epochs", batch_size=8192),
    )
