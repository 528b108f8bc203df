"""The steps of preparation spread over machines, without an engine: whatever order things come in, whatever
is done twice, each on its own copy of what it is given, they end in the dataset that one machine makes."""

import copy
import filecmp
import pickle
import random

import numpy as np
import pytest

from jaxrec.config.schema import Feature
from jaxrec.core.errors import InputError
from jaxrec.core.ids import MISSING
from jaxrec.core.tables import Drops
from jaxrec.data.events import partitions
from jaxrec.data.events.vocabulary import FeatureColumns, FittedColumn
from jaxrec.data.runners import local, messages, stages
from jaxrec.data.runners.manifest import SplitSizes, manifest
from jaxrec.data.storage import dataset as dataset_module
from jaxrec.data.storage import writer as writer_module
from jaxrec.sources import open_source
from jaxrec.sources.simulator import source as source_module


class Engine:
    """What an engine may do to steps: their values travel, in another order, and a step may run twice."""

    def __init__(self, seed, loses="", doubles=""):
        self.random, self.loses, self.doubles = random.Random(seed), loses, doubles

    def run(self, step, elements, *rest):
        """The values of each output."""
        out = {}
        for element in self.shuffled(elements):
            for attempt in range(self.random.choice((1, 2))):
                made = [
                    pickle.loads(pickle.dumps(v)) for v in step(self.sent(element), *map(self.sent, rest))
                ]
                if not attempt:
                    for name, value in made:
                        out.setdefault(name, []).append(value)
        if self.loses in out:
            out[self.loses].pop()
        if self.doubles in out:
            out[self.doubles] += out[self.doubles][:1]
        return out

    def sent(self, value):
        return pickle.loads(pickle.dumps(value))

    def shuffled(self, values):
        values = list(values)
        return self.random.sample(values, len(values))

    def total(self, values, kind):
        """Some added to some totals, and these to one another."""
        totals = [kind() for _ in range(3)]
        for value in self.shuffled(values):
            self.random.choice(totals).add(self.sent(value))
        out = kind()
        for total in self.shuffled(totals):
            out.add(total)
        return out

    def grouped(self, pairs):
        groups = {}
        for key, value in self.shuffled(pairs):
            groups.setdefault(key, []).append(value)
        return groups


def spread_out(source, config, directory, engine=None):
    """The pipeline of `data/beam.py`, in the hands of an `Engine`."""
    e = engine or Engine(0)
    opened = e.run(stages.open_titles, [source], config)
    [titles], [features] = opened["titles"], opened["features"]
    read = e.run(stages.read, enumerate(source.parts()), titles, config)
    tally = e.total(read["tallies"], messages.Tally)
    [settled] = e.run(stages.settle, [tally], len(source.parts()), config)["settled"]
    users = e.run(stages.share_users, [None], titles, settled, config)
    shares = e.grouped(e.run(stages.route, read["chunks"], settled)["shares"])
    of_users = e.grouped(users["users"])
    together = [(p, {"shares": shares.get(p, []), "users": of_users.get(p, [])}) for p in shares | of_users]
    done = e.run(stages.sort, together, titles, settled, config)
    plays = e.total(done["plays"], messages.PlayCounts)
    ranking = e.run(stages.rank, [plays], titles, features, settled, users["columns"][0], config)
    [ranked], [catalogue] = ranking["ranked"], ranking["catalogue"]
    built = e.run(stages.build, done["sorted"], titles, settled, ranked, config)
    [places] = e.run(stages.places, [e.total(built["sizes"], messages.ByPartition)], settled)["places"]
    shards = e.grouped(e.run(stages.place, built["rows"], places)["placed"])
    with writer_module.DatasetWriter(directory) as writer:
        written = e.run(stages.write, shards.items(), str(writer.partial))
        sums = e.total(written["sums"], messages.RowSums)
        keys = e.total(built["keys"], messages.ByPartition)
        rest = (titles, settled, ranked, catalogue, places, keys)
        [(arrays, users, found)] = e.run(stages.finish, [sums], *rest)["found"]
        writer.finish(arrays, users, manifest(config, found))
    return len(shares), len(shards)


@pytest.mark.parametrize("seed", [0, 1])
def test_neither_order_nor_a_second_try_changes_a_byte(
    tiny_config, tiny_directory, tmp_path, monkeypatch, seed
):
    monkeypatch.setattr(source_module, "BLOCK", 50)
    monkeypatch.setattr(stages, "PIECE", 100)
    config = copy.deepcopy(tiny_config)
    config.data.partitions = 5
    source = open_source(config.source, config.features)
    assert len(source.parts()) == 8
    made, _ = spread_out(source, config, tmp_path / "spread", Engine(seed))
    assert made == 6  # neighbouring ranges of hashes, none over a fifth of the events
    names = sorted(p.name for p in tiny_directory.iterdir())
    assert names == sorted(p.name for p in (tmp_path / "spread").iterdir())
    same, _, _ = filecmp.cmpfiles(tiny_directory, tmp_path / "spread", names, shallow=False)
    assert same == names


def test_rows_are_cut_into_shards_as_on_one_machine(tiny_config, tmp_path, monkeypatch):
    """Shards of 512 rows, which pieces and partitions run over the ends of."""
    monkeypatch.setattr(dataset_module, "SHARD_BLOCKS", 1)
    monkeypatch.setattr(writer_module, "SHARD_BLOCKS", 1)
    monkeypatch.setattr(stages, "SHARD_ROWS", dataset_module.BLOCK_ROWS)
    source = open_source(tiny_config.source, tiny_config.features)
    local.prepare(source, tiny_config, str(tmp_path / "one"))
    _, shards = spread_out(source, tiny_config, tmp_path / "spread")
    assert shards == 4 + 1 + 2
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "spread").iterdir())
    same, _, _ = filecmp.cmpfiles(tmp_path / "one", tmp_path / "spread", names, shallow=False)
    assert same == names


STREAMS = (
    "chunks",
    "tallies",
    "users",
    "shares",
    "sorted",
    "plays",
    "sizes",
    "keys",
    "rows",
    "placed",
    "sums",
)


@pytest.mark.parametrize("stream", STREAMS)
def test_what_an_engine_loses_is_missed(tiny_config, tmp_path, monkeypatch, stream):
    """One of many values: a dataset without it would look as good as another."""
    monkeypatch.setattr(source_module, "BLOCK", 100)
    config = copy.deepcopy(tiny_config)
    config.data.examples, config.data.next_k = "sequences", 1
    config.features = tuple(f for f in config.features if f.where == "title")
    source = open_source(config.source, config.features)
    with pytest.raises(RuntimeError, match=r"the engine gave \d+ .* where \d+ were sent: it lost or doubled"):
        spread_out(source, config, tmp_path / "lost", Engine(0, loses=stream))
    assert list(tmp_path.iterdir()) == []
    if stream not in ("sizes", "keys"):  # which say which partition's they are
        with pytest.raises(RuntimeError, match="lost or doubled"):
            spread_out(source, config, tmp_path / "doubled", Engine(0, doubles=stream))


def test_neighbouring_ranges_make_partitions(monkeypatch):
    gather, events = partitions.gather, np.array([0, 3, 3, 0, 2, 9, 1, 0])
    assert gather(events, 1).tolist() == [-1, 0, 0, -1, 0, 0, 0, -1]
    assert gather(events, 3).tolist() == [-1, 0, 0, -1, 1, 2, 3, -1]  # 6 events at most, but of one range
    monkeypatch.setattr(partitions, "_MOST_EVENTS", 4)
    assert gather(events, 1).tolist() == [-1, 0, 1, -1, 2, 3, 4, -1]
    assert gather(np.zeros(2, np.int64), 3).tolist() == [-1, -1]


FEATURES = (
    Feature("tab", "category", "context", 4),
    Feature("load", "number", "context", 4),
    Feature("code", "category", "context", 4),
)


def test_columns_encoded_apart_are_those_encoded_together():
    """Sums of fractions too, to the last bit: in the order of the chunks' places."""
    rng, rows = np.random.default_rng(0), 7
    chunks = [
        {
            "tab": rng.choice([*"abcd", ""][i // 2 :], rows),
            "load": np.where(rng.random(rows) < 0.2, np.nan, rng.random(rows) * (1 if i else 1e16)),
            "code": rng.choice([MISSING, 5, -3, 2**40], rows),
        }
        for i in range(9)
    ]
    whole = FeatureColumns(FEATURES, "context")
    codes = [whole.add(chunk, rows) for chunk in chunks]
    whole.finish()
    apart = [FeatureColumns(FEATURES, "context") for _ in chunks]
    theirs = [columns.add(chunk, rows) for columns, chunk in zip(apart, chunks, strict=True)]
    seen, known = FittedColumn(), FeatureColumns(FEATURES, "context")
    for i in (2, 8, 0, 7, 3, 6, 1, 5, 4):
        seen.add(apart[i].seen((0, i)))
    known.finish_seen(seen)
    assert known.specs == whole.specs and known.values == whole.values == {
        "tab": [*"abcd"],
        "code": [-3, 5, 2**40],
    }
    for columns, mine, its in zip(apart, codes, theirs, strict=True):
        recoded = known.recode(columns, its[0]), its[1]
        for wanted, got in zip(whole.encode(*mine), known.encode(*recoded), strict=True):
            np.testing.assert_array_equal(wanted, got)
    assert known.recode(apart[0], theirs[0][0]).max() > -1


def test_drops_are_told_as_one_machine_tells_them(tiny_config):
    """In the order of the parts, the reader's last."""
    tally = messages.Tally(chunks=1, rows=1000, events=np.array([900]))
    for part in (1, 0):
        ours, its = Drops(), Drops()
        ours.add("late", part + 1, f"late {part}")
        its.add("torn", 7 * part, f"torn {part}")
        tally.add(messages.Tally(drops={part: (ours, its)}))
    config = copy.deepcopy(tiny_config)
    [(_, settled)] = stages.settle(tally, 2, config)
    assert settled.partitions() == 1
    assert settled.drops.counts == {"late": 3, "torn": 7}
    assert settled.drops.examples == {"late": "late 0", "torn": "torn 1"}
    config.data.max_dropped = 0.005
    with pytest.raises(
        InputError, match=r"10 of 1000 rows .* most of them: torn, 7 rows, the first at torn 1"
    ):
        list(stages.settle(tally, 2, config))
    with pytest.raises(InputError, match="no interactions"):
        list(stages.settle(messages.Tally(), 0, config))


def test_what_is_counted_adds_up():
    plays = messages.PlayCounts()
    for counts in ([0, 2], [1, 0, 0, 4], []):
        plays.add(messages.PlayCounts(np.array(counts, np.int64), len(counts)))
    assert plays.padded(5).tolist() == [1, 2, 0, 4, 0] and plays.copies == 6
    sizes = SplitSizes({"train": 3, "validation": 1, "test": 0}, counts={"a": 1})
    sizes.add(
        SplitSizes(
            {"train": 2, "validation": 0, "test": 0}, {"train": 1, "validation": 0, "test": 4}, {"b": 2}, 5, 6
        )
    )
    assert sizes.examples == {"train": 5, "validation": 1, "test": 0}
    assert sizes.users == {"train": 1, "validation": 0, "test": 4} and sizes.counts == {"a": 1, "b": 2}
    assert (sizes.completion_sum, sizes.completions) == (5, 6)
    with pytest.raises(InputError, match="no test example is left"):
        sizes.check()


def test_a_shard_is_whole_or_not_there(tmp_path):
    def pieces():
        yield np.zeros(dataset_module.BLOCK_ROWS, "<u4,<u4")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        writer_module.write_shard(tmp_path, "train", 0, np.dtype("<u4,<u4"), pieces())
    assert list(tmp_path.iterdir()) == []
