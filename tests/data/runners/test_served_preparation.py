"""Datasets with served titles, against the log of the simulated service, and the oracle of their list."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxrec.config.serialization import digest
from jaxrec.core.formats.old_layouts import old_layout
from jaxrec.core.ids import POOLS
from jaxrec.core.row_format import Layout
from jaxrec.data.examples.sampling_density import count_negatives
from jaxrec.data.storage.audit import verify_dataset
from jaxrec.evaluation import baselines, metrics
from jaxrec.sources import open_source


@pytest.fixture(scope="module")
def log(served, served_config):
    """The slates of the service: (user, time in ms) -> titles shown; and the titles played, by the same."""
    source = open_source(served_config.source, served_config.features, None, served_config.signals)
    id_of = {key: i + 2 for i, key in enumerate(served.arrays.title_key.tolist())}
    title = np.array([id_of[key] for key in source.titles().key.tolist()])
    shown, played = {}, {}
    for part in source.signal_parts():
        for events in source.signals(part):
            for user, of, time in zip(events.user, events.title, events.time, strict=True):
                shown.setdefault((int(user), int(time)), set()).add(int(title[of]))
    for plays in source.interactions():
        for user, of, time in zip(plays.user, plays.title, plays.time, strict=True):
            played.setdefault((int(user), int(title[of])), []).append(int(time))
    return shown, played


def requests(served, log, split):
    """Yield the rows of a held-out split with the slate of each; none where it was not logged."""
    shown, played = log
    keys = served.user_keys(split)
    for row in served.rows(split).all():
        user, target = int(keys[row["user"]]), int(row["target"][0])
        first = min(played[user, target])
        yield row, user, shown.get((user, first), set()) - {int(t) for t in row["target"]}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_lists_hold_the_slates_of_the_log(served, served_config, log, split):
    logged = {True: [], False: []}
    for row, user, slate in requests(served, log, split):
        listed = [int(t) for t in row["list_served"][0] if t]
        assert len(listed) == len(set(listed))
        assert set(listed) == slate  # a slate has at most 20 other titles
        logged[user >= served_config.source.users].append(bool(slate))
    assert all(logged[True])
    assert split == "test" or 0.4 < np.mean(logged[False]) < 0.6


def test_each_next_title_has_the_slate_of_its_own_request(served, log):
    shown, played = log
    keys, checked = served.user_keys("test"), 0
    for row in served.rows("test").all():
        user = int(keys[row["user"]])
        for k in range(1, len(row["target"])):
            target = int(row["target"][k])
            if target:
                slate = shown.get((user, min(played[user, target])), set())
                slate = slate - {int(t) for t in row["target"]}
                assert {int(t) for t in row["list_served"][k] if t} == slate
                checked += bool(slate)
    assert checked > 100


def test_training_rows_hold_slates_of_half_of_the_requests(served):
    rows = served.rows("train").all()
    count = (rows["pool_served"] > 0).sum(axis=1)
    assert 0.45 < (count > 0).mean() < 0.55
    assert count[count > 0].min() > 2
    for row in rows[:200]:
        listed = row["pool_served"][: count[0]]
        assert not set(listed[listed > 0]) & set(row["target"])


def test_the_rows_hold_what_an_audit_expects(served):
    assert not verify_dataset(served).problems


def test_layouts_of_four_pools_stay_what_they_were(served, tiny):
    assert len(tiny.layout.pools) == 4 and tiny.layout.lists == ("enabled", "disabled")
    assert "served" not in json.dumps(tiny.manifest["layout"])
    assert served.layout.pools == (*tiny.layout.pools, 20)
    assert served.layout.lists == ("enabled", "disabled", "served")
    for layout in (tiny.layout, served.layout):
        stored = json.loads(json.dumps(layout.to_json()))
        assert Layout.from_json(stored) == layout == Layout.from_json(old_layout(stored))
    assert "pool_served" not in tiny.layout.row_dtype().names


def test_the_fields_of_the_served_pool_enter_the_digest_where_they_are_set(served_config):
    config = served_config
    data = [dataclasses.replace(config.data, **edits) for edits in (
        {}, {"served": 0}, {"served": 10}, {"request_window_seconds": 5},
    )]  # fmt: skip
    assert len({digest(dataclasses.replace(config, data=one)) for one in data}) == len(data)


def test_other_rows_do_not_depend_on_the_served_pool(served, tiny):
    for split in ("train", "test"):
        ours, theirs = served.rows(split).all(), tiny.rows(split).all()
        for name in theirs.dtype.names:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_the_density_of_negatives_counts_served_titles(served):
    """Per row: all of up to 5 served titles, and of n above 5 each with 5 / n."""
    rows = served.rows("train").all()
    expected = np.zeros(served.layout.num_titles)
    for row in rows:
        titles = row["pool_served"][row["pool_served"] > 0]
        expected[titles] += min(len(titles), 5) / max(len(titles), 1) / len(rows)
    mix = tuple(5 * (name == "served") for name in POOLS)
    density = count_negatives(served.rows("train"), served.layout.num_titles, mix)
    np.testing.assert_allclose(density.drawn_V, expected, rtol=1e-12, atol=1e-15)
    assert not density.hard_V.any()


def ndcg(rows, scores):
    missing = np.concatenate([np.zeros((len(rows), 1), bool), rows["list_served"][:, 0] == 0], axis=1)
    return metrics.ndcg(metrics.rank(np.where(missing, -math.inf, scores)), 1).mean()


def test_the_oracle_of_the_served_list_exceeds_probability_and_popularity(served):
    rows = served.rows("test").all()
    rows = rows[rows["list_served"][:, 0, 0] > 0]
    oracle = ndcg(rows, rows["oracle_served"])
    assert oracle > 0.5  # a slate's list has 12 titles here: a random order reaches .08
    assert oracle > ndcg(rows, rows["truth_served"]) + 0.1
    assert oracle > ndcg(rows, baselines.popularity(rows, "served", served.arrays)[:, 0]) + 0.4


def test_the_oracle_is_that_of_the_choice_among_what_was_shown(served):
    """Titles shown at a request are chosen as often as p/q expects: in ten bins, within 4 SE."""
    rows = np.concatenate([served.rows(split).all() for split in ("validation", "test")])
    rows = rows[rows["list_served"][:, 0, 0] > 0]
    shown = np.concatenate([np.ones((len(rows), 1), bool), rows["list_served"][:, 0] > 0], axis=1)
    ratio = np.where(shown, rows["oracle_served"], 0).astype(np.float64)
    chance = (ratio / ratio.sum(axis=1, keepdims=True))[shown]
    chosen = np.broadcast_to(np.arange(shown.shape[1]) == 0, shown.shape)[shown]
    edges = np.quantile(chance, np.arange(1, 10) / 10)
    for group in range(10):
        of_bin = np.searchsorted(edges, chance) == group
        expected, count = chance[of_bin].mean(), of_bin.sum()
        assert abs(chosen[of_bin].mean() - expected) < 4 * np.sqrt(expected / count) + 0.02, group
