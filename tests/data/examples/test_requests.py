"""Request rows: equal to the evaluation rows of a prepared dataset, bit for bit."""

import copy

import numpy as np
import pytest

from jaxrec.core.ids import SPLITS
from jaxrec.core.tables import Users
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset
from jaxrec.serving.requests import RequestBuilder, RequestCounts
from jaxrec.sources import open_source
from jaxrec.sources.histories import TIME

FIELDS = ("history_", "user_", "context_", "target_time")


@pytest.fixture(scope="module", params=["ranking", "next_item"])
def prepared(request, tiny_config, tiny_directory, tmp_path_factory):
    """The tiny config and its dataset, for one of the two tasks."""
    config = copy.deepcopy(tiny_config)
    if request.param == "ranking":
        return config, Dataset(tiny_directory)
    config.task.name = "next_item"
    folder = tmp_path_factory.mktemp("sequences") / "data"
    prepare(open_source(config.source, config.features), config, str(folder))
    return config, Dataset(folder)


def raw_plays(config, arrays):
    """Return the chunks of the log with rows of the checkpoint's titles, and its columns joined."""
    source = open_source(config.source, config.features)
    row_of_key = {key: row for row, key in enumerate(arrays.title_key.tolist())}
    rows = np.array([row_of_key[key] for key in source.titles().key.tolist()])
    chunks = list(source.interactions())
    for chunk in chunks:
        chunk.title = rows[chunk.title]
    log = {name: np.concatenate([getattr(c, name) for c in chunks]) for name in ("user", "title", "time")}
    log |= {name: np.concatenate([c.context[name] for c in chunks]) for name in ("device", "hour")}
    (users,) = source.users()
    return chunks, users, log


def test_rows_from_raw_plays_are_the_rows_of_the_dataset(prepared):
    """The last query of each held-out user: the same plays, for a request at the time of the target."""
    config, dataset = prepared
    chunks, users, log = raw_plays(config, dataset.arrays)
    builder = RequestBuilder(config, dataset.layout, dataset.arrays, dataset.manifest["categories"])
    for split in SPLITS[1:]:
        rows, keys = dataset.rows(split).all(), dataset.user_keys(split)
        expected = rows[np.append(rows["user"][1:] != rows["user"][:-1], True)]
        features = {name: column.copy() for name, column in users.features.items()}
        features[TIME] = np.full(len(users.key), 1)
        features["device"], features["hour"] = (
            np.full(len(users.key), "", "<U9"),
            np.zeros(len(users.key), int),
        )
        changed_later = set()
        for row in expected:
            key, title = keys[row["user"]], row["target"][0] - 2
            own = np.flatnonzero(log["user"] == key)
            play = own[np.argmin(np.where(log["title"][own] == title, log["time"][own], 2**62))]
            at = np.flatnonzero(users.key == key)[0]
            features[TIME][at] = log["time"][play]
            features["device"][at], features["hour"][at] = log["device"][play], log["hour"][play]
            past = log["time"][own] < log["time"][play]
            if np.isin(log["title"][own][~past], log["title"][own][past]).any():
                changed_later.add(key)
        made = builder.build([*chunks, Users(users.key, features)], None, RequestCounts())
        served = dict(zip(made.key.tolist(), made.rows, strict=True))
        compared = 0
        for row in expected:
            key = keys[row["user"]]
            # In sequences, a session after the query decides too if an earlier title counts as abandoned.
            if dataset.layout.rows == "next_item" and key in changed_later:
                continue
            compared += 1
            for name in (n for n in row.dtype.names if n.startswith(FIELDS)):
                assert served[key][name].tobytes() == row[name].tobytes(), (split, key, name)
        assert compared > 15
