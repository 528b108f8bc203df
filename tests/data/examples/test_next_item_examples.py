"""Next-item examples: a log of three users worked by hand, and properties."""

import copy
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxrec.config.loading import load_config
from jaxrec.config.schema import Data
from jaxrec.config.validation import check
from jaxrec.core.ids import SPLITS
from jaxrec.core.row_format import Layout
from jaxrec.data.events.event_log import Log, TitleStats
from jaxrec.data.examples import next_item
from jaxrec.data.loading.batches import EvalBatches, TrainBatches, stream
from jaxrec.data.runners.local import prepare
from jaxrec.data.storage.dataset import Dataset, as_words
from jaxrec.sources import open_source

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = Path(os.environ.get("JAXREC_KUAIRAND", ROOT.parent / "shared/data/kuairand_pure_sample"))
DAY = 86_400_000
# User, day since 1970, rank of one of nine titles of 100 minutes, minutes seen; sorted by user, day, title.
#   User 0 plays titles 1 and 2 at one time; title 1 has 1 minute then and 61 finally; title 3 ends abandoned;
#     title 0 is played again at the end.
#   User 1 plays two titles; user 2 abandons the first of four.
EVENTS = [
    (0, 1, 0, 50), (0, 2, 1, 1), (0, 2, 2, 80), (0, 4, 1, 60), (0, 5, 3, 2), (0, 6, 4, 90), (0, 7, 0, 10),
    (1, 1, 5, 100), (1, 3, 6, 70),
    (2, 2, 7, 3), (2, 4, 2, 100), (2, 5, 0, 100), (2, 8, 6, 100),
]  # fmt: skip
DAYS = {"split": "time", "validation_from": "1970-01-05", "test_from": "1970-01-07"}  # days 4 and 6
ONE_BEFORE_TWO, TWO_BEFORE_ONE = 1, 0  # seeds, by the order of user 0's tie


def build_examples(
    events=EVENTS, user_split=(0, 1, 2), seed=ONE_BEFORE_TWO, watch_time=True, history=4, **data
):
    user, day, rank, minutes = (np.array(x, np.int64) for x in zip(*events, strict=True))
    users, none = user.max() + 1, np.empty((0, 0))
    log = Log(
        np.arange(70, 70 + users, dtype=np.uint64), np.array(user_split, np.int8), user, rank, day * DAY,
        minutes * 60_000 if watch_time else np.full(len(user), -1), none, none, none, none,
    )  # fmt: skip
    titles = rank.max() + 1
    catalogue = TitleStats(
        np.full(titles, 100.0), np.arange(2, titles + 2), 3, np.arange(titles, dtype=np.uint64)
    )
    layout = Layout(titles + 2, history, 1, (0, 0, 0, 0), 0, (), "next_item")
    return next_item.build(log, catalogue, layout, Data(seed=seed, max_history=history, **data))


def row_values(rows, name):
    """Return each row's values without padding, which must come first."""
    values = []
    for row, title in zip(rows[name], rows["title" if "title" in rows.dtype.names else "history_title"],
                          strict=True):  # fmt: skip
        kept = row[title > 0]
        assert not row[: len(row) - len(kept)].any()
        values.append(kept.tolist())
    return values


def queries_of(made, split):
    """Return (user, position, target, history) of each query. Ids are ranks + 2."""
    rows = made.rows[split]
    return list(
        zip(rows["user"].tolist(), rows["position"].tolist(), rows["target"][:, 0].tolist(),
            row_values(rows, "history_title"), strict=True)
    )  # fmt: skip


def test_a_sequence_is_the_first_plays_of_titles_not_abandoned_by_time():
    rows = build_examples().rows["train"]
    assert rows["user"].tolist() == [0]
    assert row_values(rows, "title") == [[2, 3, 4, 6]]
    assert row_values(rows, "time") == [[86_400, 2 * 86_400, 2 * 86_400, 6 * 86_400]]
    np.testing.assert_allclose(row_values(rows, "completion"), [[0.6, 0.61, 0.8, 0.9]], atol=1e-3)
    assert rows["title"].shape == (1, 10)


def test_equal_times_are_ordered_by_seed_and_user():
    assert row_values(build_examples(seed=TWO_BEFORE_ONE).rows["train"], "title") == [[2, 4, 3, 6]]
    # 40 users play titles 0 to 9 at one time: all orders differ, and each title comes first for some user.
    events = [(u, 1, rank, 50) for u in range(40) for rank in range(10)]
    orders = row_values(build_examples(events, user_split=[0] * 40).rows["train"], "title")
    assert len({tuple(o) for o in orders}) == 40
    assert {sorted(o) == list(range(2, 12)) for o in orders} == {True}
    assert len({o[0] for o in orders}) == 10


def test_any_target_takes_every_play_of_a_title_not_abandoned():
    rows = build_examples(targets="any").rows["train"]
    assert row_values(rows, "title") == [[2, 3, 4, 3, 6, 2]]
    np.testing.assert_allclose(row_values(rows, "completion"), [[0.6, 0.61, 0.8, 0.61, 0.9, 0.6]], atol=1e-3)


def test_without_watch_time_every_play_is_a_complete_target():
    rows = build_examples(watch_time=False).rows["train"]
    assert row_values(rows, "title") == [[2, 3, 4, 5, 6]]
    assert row_values(rows, "completion") == [[1.0] * 5]


def test_split_by_user():
    made = build_examples()
    assert queries_of(made, "validation") == [(0, 0, 8, [7])]
    assert queries_of(made, "test") == [(0, 0, 2, [4]), (0, 1, 8, [4, 2])]
    assert [made.users[s].tolist() for s in SPLITS] == [[70], [71], [72]]
    rows = made.rows["test"]
    assert rows["target_time"].tolist() == [5 * 86_400, 8 * 86_400]
    assert rows["target_completion"].tolist() == [[1.0], [1.0]]
    assert row_values(rows, "history_time") == [[4 * 86_400], [4 * 86_400, 5 * 86_400]]
    assert made.counts["test targets with no title before them"] == 1
    assert made.completions == 3  # all targets of user 0 but the first
    assert made.completion_sum / 2**32 == pytest.approx(0.61 + 0.8 + 0.9, rel=1e-6)


def test_split_by_last():
    """Two titles are for training; of more, the last is tested.

    Of four titles or more, the last but one is for validation.
    """
    made = build_examples(split="last", validation_share=1.0)
    assert row_values(made.rows["train"], "title") == [[2, 3], [7, 8], [4, 2]]
    assert queries_of(made, "validation") == [(0, 0, 4, [2, 3])]
    assert queries_of(made, "test") == [(0, 0, 6, [2, 3, 4]), (1, 0, 8, [4, 2])]
    assert [made.users[s].tolist() for s in SPLITS] == [[70, 71, 72], [70], [70, 72]]
    assert made.completions == 3


def test_split_by_last_validates_a_fraction_of_users():
    events = [(u, day, day, 50) for u in range(400) for day in range(5)]
    made = build_examples(events, user_split=[2] * 400, split="last", validation_share=0.25)
    assert len(made.rows["test"]) == 400 and 80 < len(made.rows["validation"]) < 120
    length = {u: len(titles) for u, titles in enumerate(row_values(made.rows["train"], "title"))}
    validated = np.isin(made.users["train"], made.users["validation"])
    assert length == {u: 3 if validated_ else 4 for u, validated_ in enumerate(validated)}


def test_split_by_time():
    made = build_examples(user_split=(2, 2, 2), **DAYS)
    assert row_values(made.rows["train"], "title") == [[2, 3, 4], [7, 8]]
    assert queries_of(made, "validation") == [(0, 0, 2, [4])]
    assert queries_of(made, "test") == [(0, 0, 6, [2, 3, 4]), (1, 0, 8, [4, 2])]
    assert [made.users[s].tolist() for s in SPLITS] == [[70, 71], [72], [70, 72]]
    assert made.counts["validation targets with no title before them"] == 1


def test_a_query_has_the_latest_titles_and_a_row_two_more_than_twice_as_many():
    events = [(0, day, day, 50) for day in range(20)]
    made = build_examples(events, user_split=[0], split="last", validation_share=1.0)
    assert queries_of(made, "test") == [(0, 0, 21, [17, 18, 19, 20])]
    assert queries_of(made, "validation") == [(0, 0, 20, [16, 17, 18, 19])]
    assert row_values(made.rows["train"], "title") == [list(range(10, 20))]  # of 2 to 19


# ---------------------------------------------------------------- prepared


SPLIT = {
    "users": {"split": "users"},
    "last": {"split": "last", "validation_share": 0.5},
    "time": {"split": "time", "validation_from": "", "test_from": ""},
}


@pytest.fixture(scope="module")
def config(tiny_config):
    config = copy.deepcopy(tiny_config)
    config.task.name, config.data.num_targets, config.evaluate.next_k = "next_item", 1, (1,)
    config.features = tuple(f for f in config.features if f.where == "title")
    times = np.concatenate([c.time for c in open_source(config.source, config.features).interactions()])
    days = np.quantile(times, [0.7, 0.85]).astype("datetime64[ms]").astype("datetime64[D]")
    SPLIT["time"] |= {"validation_from": str(days[0]), "test_from": str(days[1])}
    return config


class Shuffled:
    """A source whose rows come in another order, in chunks of other sizes."""

    def __init__(self, source):
        self._source = source
        self.drops, self.has_completion = source.drops, source.has_completion
        self.titles, self.users = source.titles, source.users
        self.truth, self.files = source.truth, source.files

    def interactions(self):
        chunks = list(self._source.interactions())
        names = ("user", "title", "time", "seconds")
        whole = {n: np.concatenate([getattr(c, n) for c in chunks]) for n in names}
        order = np.random.default_rng(1).permutation(len(whole["user"]))
        for part in np.array_split(order, 5):
            chunk = copy.copy(chunks[0])
            chunk.context = {}
            for name, column in whole.items():
                setattr(chunk, name, column[part])
            yield chunk


def prepared(config, directory, source=None, **data):
    config = copy.deepcopy(config)
    for name, value in data.items():
        setattr(config.data, name, value)
    prepare(source or open_source(config.source, config.features), config, str(directory))
    return Dataset(directory)


@pytest.fixture(scope="module", params=SPLIT)
def dataset(request, config, tmp_path_factory):
    return prepared(config, tmp_path_factory.mktemp(request.param) / "d", **SPLIT[request.param])


def test_the_dataset_does_not_depend_on_row_order_or_partitions(config, tmp_path):
    source = open_source(config.source, config.features)
    one = prepared(config, tmp_path / "a", partitions=1, **SPLIT["last"])
    two = prepared(config, tmp_path / "b", Shuffled(source), partitions=7, **SPLIT["last"])
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != prepared(config, tmp_path / "c", **SPLIT["time"]).fingerprint


def test_no_held_out_target_is_in_a_training_row(dataset, config):
    pairs = {}
    for split in SPLITS[1:]:
        rows = dataset.rows(split).all()
        keys = dataset.user_keys(split)
        assert len(keys) == dataset.manifest["splits"][split]["users"]
        assert len(rows) == dataset.manifest["splits"][split]["examples"] > 0
        assert set(rows["user"].tolist()) <= set(range(len(keys)))
        pairs[split] = {(keys[u], t) for u, t in zip(rows["user"], rows["target"][:, 0], strict=True)}
        assert len(pairs[split]) == len(rows)
    assert not pairs["validation"] & pairs["test"]
    by_key = training_pairs(dataset, config)
    assert by_key and not by_key & (pairs["validation"] | pairs["test"])


def training_pairs(dataset, config):
    """Return the (key, title id) pairs of the training rows.

    Training users have no stored keys: the times of first plays identify them.
    """
    users_at = {}
    for chunk in open_source(config.source, config.features).interactions():
        for user, title, time in zip(chunk.user, chunk.title, chunk.time // 1000, strict=True):
            users_at.setdefault((int(title), int(time)), set()).add(user.item())
    key = dataset.arrays.title_key
    titles = open_source(config.source, config.features).titles().key
    row_of = {k: i for i, k in enumerate(titles.tolist())}
    pairs = set()
    for row in dataset.rows("train").all():
        plays = [(t, s) for t, s in zip(row["title"].tolist(), row["time"].tolist(), strict=True) if t]
        users = set.intersection(*(users_at[row_of[key[t - 2].item()], s] for t, s in plays))
        assert len(users) == 1
        pairs |= {(next(iter(users)), t) for t, _ in plays}
    return pairs


def test_training_rows_of_a_split_by_time_precede_it(config, tmp_path):
    dataset = prepared(config, tmp_path / "d", **SPLIT["time"])
    train, validation, test = (dataset.rows(s).all() for s in SPLITS)
    cuts = [np.datetime64(SPLIT["time"][n], "s").astype(int) for n in ("validation_from", "test_from")]
    assert train["time"].max() < cuts[0] <= validation["target_time"].min()
    assert validation["target_time"].max() < cuts[1] <= test["target_time"].min()
    assert validation["history_time"].max() > cuts[0]  # histories include held-out days


def test_popularity_counts_the_training_events(dataset, config):
    """A plain loop over the log; a user and title count once."""
    kind, cut = dataset.directory.parent.name.rstrip("0123456789"), np.inf
    until = {}  # seconds since 1970, for users whose plays do not all count
    for name in SPLITS[1:]:
        rows, keys = dataset.rows(name).all(), dataset.user_keys(name).tolist()
        until |= {key: 0 for key in keys if kind == "users"}
        for user, time in zip(rows["user"].tolist(), rows["target_time"].tolist(), strict=True):
            until[keys[user]] = min(time, until.get(keys[user], time))
    if kind == "time":
        until, cut = {}, np.datetime64(SPLIT["time"]["validation_from"], "s").astype(int)
    source = open_source(config.source, config.features)
    titles, plays = source.titles().key, set()
    for chunk in source.interactions():
        seconds = chunk.time // 1000
        for user, title, time in zip(chunk.user.tolist(), titles[chunk.title], seconds, strict=True):
            if time < until.get(user, cut):
                plays.add((user, title.item()))
    counted = Counter(title for _, title in plays)
    key = dataset.arrays.title_key.tolist()
    assert dataset.arrays.title_plays[2:].tolist() == [counted[k] for k in key]
    assert dataset.manifest["plays"] == len(plays) > 1000


def test_batches_of_sequences_contain_the_rows_of_the_dataset(dataset):
    rows = dataset.rows("train")
    all_rows = rows.all()
    batches = TrainBatches(rows, 16, seed=3, steps=2 * (len(all_rows) // 16))
    trained = np.concatenate([batch.words for batch in stream(batches)][: batches.steps_per_epoch])
    seen = trained.reshape(-1).view(dataset.layout.row_dtype())
    assert len(seen) == len(all_rows) // 16 * 16 and batches[0].packing is None
    stored = {row.tobytes() for row in all_rows}
    assert len({row.tobytes() for row in seen}) == len(seen)
    assert {row.tobytes() for row in seen} <= stored
    test = dataset.rows("test")
    test_batches = list(stream(EvalBatches(test, 16)))
    words = np.concatenate([batch.words[batch.valid] for batch in test_batches])
    np.testing.assert_array_equal(words, as_words(test.all()))
    assert len(test_batches) == -(-test.rows // 16) and test_batches[-1].valid.sum() == test.rows - 16 * (
        len(test_batches) - 1
    )


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"the KuaiRand sample is not at {SAMPLE}")
def test_the_kuairand_sample_is_prepared_as_sequences(tmp_path):
    config = load_config(str(ROOT / "configs/sequences.py") + ":kuairand")
    config.source.directory, config.data.validation_share = str(SAMPLE), 0.5
    check(config)
    dataset = prepared(config, tmp_path / "kuairand")
    splits = dataset.manifest["splits"]
    assert dataset.manifest["rows"]["read"] == 228_329 and dataset.manifest["titles"] == 7_583
    assert 10_000 < splits["test"]["examples"] < splits["train"]["examples"] < 25_156
    train, test = (dataset.rows(s).all() for s in ("train", "test"))
    # A user with a test target has two training titles, and no test target was abandoned.
    assert ((test["history_title"] > 0).sum(axis=1) >= 2).all()
    assert ((train["title"] > 0).sum(axis=1) >= 2).all()
    assert (test["target_completion"] >= config.data.abandon_threshold).all()
    assert (train["completion"][train["title"] > 0] >= 0.0499).all()  # in half precision
    last = test["history_time"][:, -1]
    assert (last <= test["target_time"]).all() and (np.diff(test["history_time"].astype(int)) >= 0).all()
    assert not (test["history_title"] == test["target"]).any()
    assert 0.3 < dataset.manifest["completion_threshold"] < 0.7
