"""A template for your own logs: copy it, say what your columns are called, run it.

python -m jaxrec.prepare --config configs/my_service.py    # reads and checks everything, says what is wrong
python -m jaxrec.train --config configs/my_service.py --workdir runs/my_service

Three tables, CSV or Parquet, each one file, a folder or a glob:

interactions  a row a watch session: user, title, when it began, seconds viewed, and what was known when
              the title was asked for (device, page). Sessions of one title add up; order does not matter.
titles        a row a title: its id, its runtime in minutes, and what it is like.
users         a row a user: their id and segments. May be left out, and so may any user of it.
"""

from jaxrec.config import Columns, Config, Data, Feature, Tables, Train


def get_config() -> Config:
    source = Tables(
        interactions="my_data/interactions/*.parquet",
        titles="my_data/titles.csv",
        users="my_data/users.csv",  # "" if there is none; then declare no feature of where="user"
        columns=Columns(
            user="user_id",  # whole numbers or strings
            title="title_id",
            time="started_at",  # whole numbers, timestamps or ISO 8601 strings; UTC unless they say otherwise
            time_unit="ms",  # of whole numbers: "s", "ms" or "us"
            seconds="seconds_viewed",
            title_key="title_id",  # in titles
            runtime="runtime_minutes",
            user_key="user_id",  # in users
            list_separator="|",  # of lists in CSV: Drama|Comedy; Parquet may hold lists as they are
        ),
    )
    # Every other column that the model may see, and the width of its embedding. A "category" is one of
    # several values, "categories" a list of them, a "number" is standardised. What is not named is not read.
    features = (
        Feature("title_id", "category", "title", width=64),  # the title itself, whatever its column is called
        Feature("genres", "categories", "title", width=32, most=5),  # the first five of a longer list
        Feature("release_year", "number", "title", width=4),
        Feature("country", "category", "user", width=8),
        Feature("device", "category", "context", width=8),  # a column of interactions
        Feature("completion", "number", "interaction", width=8),  # these three jaxrec works out
        Feature("sessions", "number", "interaction", width=8),
        Feature("age", "number", "interaction", width=8),
    )
    return Config(
        name="own_data",  # names the run's folder
        source=source,
        features=features,
        data=Data(
            abandon_below=0.05,  # seen less of than this, a title counts as abandoned
            max_dropped=0.05,  # share of unusable rows past which nothing is prepared
            partitions=8,  # at least; a large log is cut into more by itself
        ),
        train=Train(length="20 epochs", batch_size=8192),
    )
