"""The sequences benchmark: its log, and the protocol with the peer's process."""

import sys

import numpy as np
import pytest

from benchmarks import sequences
from benchmarks.peers.rectools_sasrec import SETTINGS
from configs.sequences import get_config
from jaxrec.core.errors import InputError

USERS, TITLES, PLAYS = 700, 900, 70_000  # more users than are generated at once


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("sequences") / "log.csv"
    counts = sequences.write_log(path, USERS, TITLES, PLAYS)
    return path, counts, np.loadtxt(path, np.int64, delimiter=",", skiprows=1)


def test_lengths_add_up_and_are_clipped():
    counts = sequences.lengths(6000, 1_000_000, np.random.default_rng(0))
    assert counts.sum() == 1_000_000 and (counts.min(), counts.max()) == (20, 200)
    assert np.median(counts) > 100 and len(np.unique(counts)) > 150  # neither all equal nor all full


def test_impossible_lengths_are_rejected():
    with pytest.raises(ValueError, match="10 users cannot have 3000 plays, 20 to 200 each"):
        sequences.lengths(10, 3000, np.random.default_rng(0))


def test_log_holds_each_users_plays_and_a_held_out_play(log):
    path, counts, rows = log
    assert path.read_text().startswith("user,item,timestamp\n")
    user, first = np.unique(rows[:, 0], return_index=True)
    np.testing.assert_array_equal(user, np.arange(1, USERS + 1))
    np.testing.assert_array_equal(np.diff([*first, len(rows)]), counts + 1)
    same_user = np.diff(rows[:, 0]) == 0
    assert (np.diff(rows[:, 2])[same_user] > 0).all()  # time increases within a user
    assert len(np.unique(rows[:, :2], axis=0)) == len(rows)  # no title twice
    assert rows[:, 1].min() >= 1 and rows[:, 1].max() <= TITLES


def test_popularity_of_first_plays_follows_zipfs_law(log):
    """The n-th of V titles leads 1 / (n H_V) of sequences; the first, 1 in 7.4."""
    _, _, rows = log
    leads = rows[np.flatnonzero(np.diff([0, *rows[:, 0]])), 1]
    fraction = np.bincount(leads, minlength=TITLES + 1).max() / USERS
    assert fraction == pytest.approx(1 / (1 / np.arange(1, TITLES + 1)).sum(), abs=0.04)


def test_log_is_deterministic(log, tmp_path):
    sequences.write_log(tmp_path / "again.csv", USERS, TITLES, PLAYS)
    assert (tmp_path / "again.csv").read_bytes() == log[0].read_bytes()


def test_peer_settings_equal_the_config():
    config = get_config("sasrec")
    (expert,) = config.model.experts
    assert {
        "session_max_len": config.data.max_history,
        "n_factors": config.model.width,
        "n_blocks": expert.num_layers,
        "n_heads": expert.num_heads,
        "dropout_rate": expert.dropout,
        "batch_size": config.train.batch_size,
        "n_negatives": config.next_item.negatives,
        "loss": config.next_item.loss,
        "lr": config.optimizer.learning_rate,
    } == SETTINGS


PEER = """
import json, sys
print(json.dumps({"interactions": 5}), flush=True)
for epoch, line in enumerate(sys.stdin):
    print(json.dumps({"epoch": epoch, "line": line.strip()}), flush=True)
open(sys.argv[1], "w").write("ended")
"""


def test_a_peer_trains_an_epoch_per_line_and_ends_with_its_input(tmp_path):
    with sequences.peer([sys.executable, "-c", PEER, str(tmp_path / "end")]) as peer:
        assert peer.about == {"interactions": 5}
        assert [peer.epoch(), peer.epoch()] == [{"epoch": e, "line": "epoch"} for e in (0, 1)]
        assert not (tmp_path / "end").exists()
    assert (tmp_path / "end").read_text() == "ended"


@pytest.mark.parametrize(
    "command, message",
    [
        (["/no/python"], "--peer-python=/no/python: No such file or directory; allowed: an interpreter"),
        ([sys.executable, "-c", "import none_such"], "ended with status 1: ModuleNotFoundError: No module "),
    ],
)
def test_error_of_a_peer_that_cannot_run(command, message):
    with pytest.raises(InputError, match=message), sequences.peer(command):
        pass


def test_error_of_a_peer_that_ended():
    command = [sys.executable, "-c", "print('{}', flush=True); exit(3)"]
    message = "ended with status 3: no output; it needs "
    with sequences.peer(command) as peer, pytest.raises(InputError, match=message):
        peer._process.wait()  # nothing reads the peer's input any more
        peer.epoch()


def test_report_of_both():
    timing = sequences.Timing
    timings = {"jaxrec": timing((10.0, 12.0, 11.0)), "RecTools": timing((30.0, 30.0, 44.0))}
    peer = {"versions": {"rectools": "0.19.0", "torch": "2.13.0"}, "threads": 2}
    figures = sequences._figures(timings, 660)
    assert figures["times_faster"] == {"median": 3.0, "least": 2.5, "most": 4.0}
    assert figures["interactions_per_second"]["jaxrec"]["median"] == 60.0
    rows = sequences._table(timings, 660, peer)
    assert rows[-1] == ("jaxrec to RecTools", "3.00 (2.50 to 4.00) times", "target 2")
