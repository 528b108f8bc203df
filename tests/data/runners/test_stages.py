"""Stages of distributed preparation make the dataset of one machine, without Beam.

The stages run in any order of inputs, possibly twice, and each on its own copy of the inputs.
"""

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
from jaxrec.data.signals import stages as signal_stages
from jaxrec.data.storage import dataset as dataset_module
from jaxrec.data.storage import writer as writer_module
from jaxrec.sources import open_source
from jaxrec.sources.simulator import source as source_module


class Engine:
    """Engine that copies and reorders values, and may run a stage twice."""

    def __init__(self, seed, lost_output="", duplicated_output=""):
        self.random, self.lost_output, self.duplicated_output = (
            random.Random(seed),
            lost_output,
            duplicated_output,
        )

    def run(self, step, elements, *arguments):
        """Return the values of each output."""
        outputs = {}
        for element in self.shuffled(elements):
            for attempt in range(self.random.choice((1, 2))):
                pairs = [
                    pickle.loads(pickle.dumps(v))
                    for v in step(self.pickled(element), *map(self.pickled, arguments))
                ]
                if not attempt:
                    for name, value in pairs:
                        outputs.setdefault(name, []).append(value)
        if self.lost_output in outputs:
            outputs[self.lost_output].pop()
        if self.duplicated_output in outputs:
            outputs[self.duplicated_output] += outputs[self.duplicated_output][:1]
        return outputs

    def pickled(self, value):
        return pickle.loads(pickle.dumps(value))

    def shuffled(self, values):
        values = list(values)
        return self.random.sample(values, len(values))

    def total(self, values, kind):
        """Add the values to several totals, and the totals to one another."""
        totals = [kind() for _ in range(3)]
        for value in self.shuffled(values):
            self.random.choice(totals).add(self.pickled(value))
        result = kind()
        for total in self.shuffled(totals):
            result.add(total)
        return result

    def grouped(self, pairs):
        groups = {}
        for key, value in self.shuffled(pairs):
            groups.setdefault(key, []).append(value)
        return groups


def run_stages(source, config, directory, engine=None):
    """Run the pipeline of `runners/beam.py` on an `Engine`; return the numbers of partitions and shards."""
    engine_ = engine or Engine(0)
    opened = engine_.run(stages.open_titles, [source], config)
    [titles], [features] = opened["titles"], opened["features"]
    read = engine_.run(stages.read, enumerate(source.parts()), titles, config)
    signal_parts = source.signal_parts()
    signals = engine_.run(signal_stages.read_signals, enumerate(signal_parts), titles, config)
    tally = engine_.total([*read["tallies"], *signals.get("tallies", [])], messages.Tally)
    numbers = (len(source.parts()), config, len(signal_parts))
    [stats] = engine_.run(stages.combine_tallies, [tally], *numbers)["stats"]
    users = engine_.run(stages.distribute_users, [None], titles, stats, config)
    shares = engine_.grouped(engine_.run(stages.route, read["chunks"], stats)["shares"])
    routed = engine_.run(signal_stages.route_signals, signals.get("signal_chunks", []), stats)
    signals_of = engine_.grouped(routed.get("signal_shares", []))
    users_of_partition = engine_.grouped(users["users"])
    partitions_ = [
        (
            p,
            {
                "shares": shares.get(p, []),
                "users": users_of_partition.get(p, []),
                "signal_shares": signals_of.get(p, []),
            },
        )
        for p in shares | users_of_partition
    ]
    sorted_ = engine_.run(stages.sort, partitions_, titles, stats, config)
    plays = engine_.total(sorted_["plays"], messages.PlayCounts)
    ranking = engine_.run(stages.rank, [plays], titles, features, stats, users["columns"][0], config)
    [ranked], [catalogue] = ranking["ranked"], ranking["catalogue"]
    built = engine_.run(stages.build, sorted_["sorted"], titles, stats, ranked, config)
    [offsets] = engine_.run(
        stages.offsets, [engine_.total(built["sizes"], messages.ByPartition)], stats, config
    )["offsets"]
    shards = engine_.grouped(engine_.run(stages.assign_shards, built["rows"], offsets)["shard_rows"])
    with writer_module.DatasetWriter(directory) as writer:
        written = engine_.run(stages.write, shards.items(), str(writer.partial))
        sums = engine_.total(written["sums"], messages.RowSums)
        keys = engine_.total(built["keys"], messages.ByPartition)
        seen = engine_.total(built["seen"], messages.ByPartition)
        arguments = (titles, stats, ranked, catalogue, offsets, keys, seen)
        [(arrays, users, evaluation, result)] = engine_.run(stages.finish, [sums], *arguments)["result"]
        writer.finish(arrays, users, manifest(config, result, []), evaluation)
    return len(shares), len(shards)


@pytest.mark.parametrize("seed", [0, 1])
def test_neither_order_nor_a_second_run_changes_a_byte(
    tiny_config, tiny_directory, tmp_path, monkeypatch, seed
):
    monkeypatch.setattr(source_module, "BLOCK", 50)
    monkeypatch.setattr(stages, "PIECE_ROWS", 100)
    config = copy.deepcopy(tiny_config)
    config.data.partitions = 5
    source = open_source(config.source, config.features)
    assert len(source.parts()) == 8
    partition_count, _ = run_stages(source, config, tmp_path / "spread", Engine(seed))
    assert partition_count == 6  # consecutive ranges of hashes, each partition at most a fifth of the events
    names = sorted(p.name for p in tiny_directory.iterdir())
    assert names == sorted(p.name for p in (tmp_path / "spread").iterdir())
    same, _, _ = filecmp.cmpfiles(tiny_directory, tmp_path / "spread", names, shallow=False)
    assert same == names


def test_rows_are_cut_into_shards_as_on_one_machine(tiny_config, tmp_path, monkeypatch):
    """Shards have 512 rows, and pieces and partitions cross the ends of shards."""
    monkeypatch.setattr(dataset_module, "SHARD_BLOCKS", 1)
    monkeypatch.setattr(writer_module, "SHARD_BLOCKS", 1)
    monkeypatch.setattr(stages, "SHARD_ROWS", dataset_module.BLOCK_ROWS)
    source = open_source(tiny_config.source, tiny_config.features)
    local.prepare(source, tiny_config, str(tmp_path / "one"))
    _, shards = run_stages(source, tiny_config, tmp_path / "spread")
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
    "seen",
    "rows",
    "shard_rows",
    "sums",
)


@pytest.mark.parametrize("stream", STREAMS)
def test_a_lost_or_duplicated_value_is_an_error(tiny_config, tmp_path, monkeypatch, stream):
    """Without the check, a dataset that lacks one of many values would look valid."""
    monkeypatch.setattr(source_module, "BLOCK", 100)
    config = copy.deepcopy(tiny_config)
    config.task.name, config.data.num_targets = "next_item", 1
    config.features = tuple(f for f in config.features if f.where == "title")
    source = open_source(config.source, config.features)
    with pytest.raises(
        RuntimeError, match=r"the engine delivered \d+ .* of \d+ sent: some were lost or duplicated"
    ):
        run_stages(source, config, tmp_path / "lost", Engine(0, lost_output=stream))
    assert list(tmp_path.iterdir()) == []
    if stream not in ("sizes", "keys", "seen"):  # keyed by partition: a duplicate is harmless
        with pytest.raises(RuntimeError, match="lost or duplicated"):
            run_stages(source, config, tmp_path / "doubled", Engine(0, duplicated_output=stream))


def test_consecutive_ranges_are_merged_into_partitions(monkeypatch):
    merge, events = partitions.merge_ranges, np.array([0, 3, 3, 0, 2, 9, 1, 0])
    assert merge(events, 1).tolist() == [-1, 0, 0, -1, 0, 0, 0, -1]
    # At most 6 events, except where a single range has more.
    assert merge(events, 3).tolist() == [-1, 0, 0, -1, 1, 2, 3, -1]
    monkeypatch.setattr(partitions, "_MAX_EVENTS", 4)
    assert merge(events, 1).tolist() == [-1, 0, 1, -1, 2, 3, 4, -1]
    assert merge(np.zeros(2, np.int64), 3).tolist() == [-1, -1]


FEATURES = (
    Feature("tab", "category", "context", 4),
    Feature("load", "number", "context", 4),
    Feature("code", "category", "context", 4),
)


def test_columns_encoded_independently_equal_those_encoded_together():
    """Floating-point sums are equal to the last bit: they are added in the order of the chunk ids."""
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
    independent = [FeatureColumns(FEATURES, "context") for _ in chunks]
    independent_codes = [columns.add(chunk, rows) for columns, chunk in zip(independent, chunks, strict=True)]
    fitted, merged = FittedColumn(), FeatureColumns(FEATURES, "context")
    for i in (2, 8, 0, 7, 3, 6, 1, 5, 4):
        fitted.add(independent[i].fitted((0, i)))
    merged.finish_from(fitted)
    assert merged.specs == whole.specs and merged.values == whole.values == {
        "tab": [*"abcd"],
        "code": [-3, 5, 2**40],
    }
    for columns, whole_codes, chunk_codes in zip(independent, codes, independent_codes, strict=True):
        recoded = merged.recode(columns, chunk_codes[0]), chunk_codes[1]
        for expected, actual in zip(whole.encode(*whole_codes), merged.encode(*recoded), strict=True):
            np.testing.assert_array_equal(expected, actual)
    assert merged.recode(independent[0], independent_codes[0][0]).max() > -1


def test_drops_are_in_the_order_of_one_machine(tiny_config):
    """Drops are in the order of the parts; those of the reader come last."""
    tally = messages.Tally(chunks=1, rows=1000, events=np.array([900]))
    for part in (1, 0):
        cleaning_drops, reader_drops = Drops(), Drops()
        cleaning_drops.add("late", part + 1, f"late {part}")
        reader_drops.add("torn", 7 * part, f"torn {part}")
        tally.add(messages.Tally(drops={part: (cleaning_drops, reader_drops)}))
    config = copy.deepcopy(tiny_config)
    [(_, stats)] = stages.combine_tallies(tally, 2, config)
    assert stats.partitions() == 1
    assert stats.drops.counts == {"late": 3, "torn": 7}
    assert stats.drops.examples == {"late": "late 0", "torn": "torn 1"}
    config.data.max_invalid_fraction = 0.005
    with pytest.raises(
        InputError, match=r"10 of 1000 rows .* most of them: torn, 7 rows, the first at torn 1"
    ):
        list(stages.combine_tallies(tally, 2, config))
    with pytest.raises(InputError, match="no interactions"):
        list(stages.combine_tallies(messages.Tally(), 0, config))


def test_counts_add_up():
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


def test_a_shard_is_complete_or_absent(tmp_path):
    def pieces():
        yield np.zeros(dataset_module.BLOCK_ROWS, "<u4,<u4")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        writer_module.write_shard(tmp_path, "train", 0, np.dtype("<u4,<u4"), pieces())
    assert list(tmp_path.iterdir()) == []
