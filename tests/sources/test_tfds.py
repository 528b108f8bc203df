"""Tests of the TensorFlow Datasets source on twelve ratings, without TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets

from jaxrec.config.schema import Data, Feature, Tfds
from jaxrec.core.errors import InputError
from jaxrec.core.tables import Drops
from jaxrec.data.events.cleaning import clean
from jaxrec.sources import open_source, tfds

# tensorflow-datasets calls a function deprecated by protobuf.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*label\(\) is deprecated:DeprecationWarning")

FEATURES = (
    Feature("title_id", "category", "title", 8),
    Feature("movie_genres", "categories", "title", 8, 3),
    Feature("year", "number", "title", 8),
    Feature("gender", "category", "user", 8),
    Feature("device", "category", "context", 8),
)


class JaxrecRatings(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Twelve ratings: rating i is of user i % 4 and movie i % 3."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        f = tensorflow_datasets.features
        columns = {
            "user_id": np.str_, "movie_id": np.str_, "timestamp": np.int64, "user_rating": np.float32,
            "movie_genres": f.Sequence(np.int64), "year": np.float32, "gender": np.bool_, "device": np.str_,
        }  # fmt: skip
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=f.FeaturesDict(columns))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(12)}

    def _generate_examples(self, n):
        for i in range(n):
            m, u = i % 3, i % 4
            yield i, {
                "user_id": f"u{u}", "movie_id": f"m{m}", "timestamp": 1_600_000_000 + i, "user_rating": 3.0,
                "movie_genres": [m, 7][: 2 * m], "year": 1990.0 + m, "gender": u < 2,
                "device": "ü" if i < 6 else "",
            }  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    tensorflow_datasets.builder(
        "jaxrec_ratings", data_dir=folder, file_format="array_record"
    ).download_and_prepare()
    return folder


def source(data_dir, features=FEATURES, **fields):
    """Open the ratings."""
    return open_source(Tfds(**{"name": "jaxrec_ratings", "data_dir": data_dir} | fields), features)


@pytest.mark.parametrize(("batch", "chunk"), [(10_000, 500_000), (5, 4)])
def test_ratings_are_read_in_order_for_any_chunk_size(data_dir, monkeypatch, batch, chunk):
    monkeypatch.setattr(tfds, "BATCH", batch)
    monkeypatch.setattr(tfds, "CHUNK", chunk)
    s = source(data_dir)
    assert not s.has_completion and s.truth() is None
    titles = s.titles()
    assert titles.key.tolist() == ["m0", "m1", "m2"]
    np.testing.assert_array_equal(titles.runtime, [np.nan] * 3)
    assert titles.features["movie_genres"].values.tolist() == [1, 7, 2, 7]
    assert titles.features["movie_genres"].offsets.tolist() == [0, 0, 2, 4]
    assert titles.features["year"].tolist() == [1990, 1991, 1992]
    (users,) = s.users()
    assert users.key.tolist() == [b"u0", b"u1", b"u2", b"u3"]
    assert users.features["gender"].tolist() == [1, 1, 0, 0]
    chunks = list(s.interactions())
    assert [len(c.user) for c in chunks] == ([12] if chunk > 12 else [4, 4, 4])
    order = np.argsort(np.concatenate([c.time for c in chunks]))
    assert np.concatenate([c.time for c in chunks])[order].tolist() == [
        (1_600_000_000 + i) * 1000 for i in range(12)
    ]
    assert np.concatenate([c.title for c in chunks])[order].tolist() == [i % 3 for i in range(12)]
    assert np.concatenate([c.user for c in chunks])[order].tolist() == [
        f"u{i % 4}".encode() for i in range(12)
    ]
    assert np.concatenate([c.context["device"] for c in chunks])[order].tolist() == ["ü"] * 6 + [""] * 6
    assert np.isnan(np.concatenate([c.seconds for c in chunks])).all()
    assert np.concatenate([c.row for c in chunks]).tolist() == list(range(1, 13))
    drops = Drops()
    assert clean(chunks[0], titles, Data(), drops, s.has_completion).viewed.tolist() == [-1] * len(
        chunks[0].user
    )
    assert not drops.counts and not s.drops.counts


def test_no_users_are_yielded_without_user_features(data_dir):
    assert list(source(data_dir, FEATURES[:1]).users()) == []


def test_large_seconds_are_clipped_out_of_range():
    times = tfds._milliseconds(np.array([-(2**62), 1_600_000_000, 2**62]))
    assert times.tolist() == [-(2**52) * 1000, 1_600_000_000_000, 2**52 * 1000]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "jaxrec_rating"}, "source tfds:jaxrec_rating/train: Dataset jaxrec_rating not found."),
        ({"split": "tset"}, "source tfds:jaxrec_ratings/tset: Unknown split 'tset'. "
         "Should be one of ['train']."),
        (
            {"title": "movie"},
            "source tfds:jaxrec_ratings/train: no column 'movie' (source.title); columns: user_id, movie_id, "
            "timestamp, user_rating, movie_genres, year, gender, device",
        ),
        (
            {"user": "user_rating"},
            "source tfds:jaxrec_ratings/train, column 'user_rating' (source.user): float32 values of shape "
            "(); allowed: whole numbers or strings",
        ),
        (
            {"time": "device"},
            "source tfds:jaxrec_ratings/train, column 'device' (source.time): object values of shape (); "
            "allowed: numbers, in seconds",
        ),
        (
            {"features": (Feature("movie_genres", "category", "title", 8),)},
            "source tfds:jaxrec_ratings/train, column 'movie_genres' (feature 'movie_genres', "
            "where='title'): int64 values of shape (None,); allowed: single values",
        ),
        (
            {"features": (Feature("device", "categories", "context", 8, 3),)},
            "feature 'device', where='context': kind='categories'; allowed: category, number",
        ),
    ],
)  # fmt: skip
def test_errors_for_invalid_sources_and_features(data_dir, fields, message):
    with pytest.raises(InputError) as e:
        source(data_dir, **fields)
    assert str(e.value) == message


def test_error_for_another_file_format(data_dir, tmp_path):
    version = tmp_path / "jaxrec_ratings" / "1.0.0"
    version.mkdir(parents=True)
    for file in (Path(data_dir) / "jaxrec_ratings" / "1.0.0").iterdir():
        (version / file.name).write_bytes(file.read_bytes())
    info = json.loads((version / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (version / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError) as e:
        source(str(tmp_path))
    assert str(e.value) == "source tfds:jaxrec_ratings/train: wrong file format; allowed: array_record"


def test_reading_does_not_import_tensorflow(data_dir):
    code = (
        "import sys; from jaxrec import config; from jaxrec.sources import open_source;"
        f"s = open_source(config.Tfds(name='jaxrec_ratings', data_dir={data_dir!r}), ());"
        "n = sum(len(c.user) for c in s.interactions());"
        "print(n, [m for m in ('tensorflow', 'polars', 'jax') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "12 []\n"
