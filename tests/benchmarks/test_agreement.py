"""The agreement's log, what both are told, and what it makes of their ranks."""

import json
import sys

import numpy as np
import polars as pl
import pytest

from benchmarks import agreement
from benchmarks.peers import rectools_ranking
from benchmarks.peers.rectools_sasrec import SETTINGS
from configs.sequences import get_config
from jaxrec.core.errors import InputError


def of(*plays):
    return pl.DataFrame(list(plays), ["user", "item", "timestamp"], orient="row")


def test_a_log_is_settled():
    """User 1: two plays of one second keep the log's order and get a second each, which moves the third on;
    item 7's second play is left out, the oldest play too. User 2 has four titles: too few; user 3 has 5."""
    log = of(
        (1, 9, 30), (1, 5, 20), (2, 1, 1), (2, 2, 2), (2, 3, 3), (2, 4, 4), (2, 4, 5), (1, 3, 30), (1, 8, 31),
        (1, 7, 10), (1, 7, 40), (1, 6, 50), *((3, item, item) for item in range(5)),
    )  # fmt: skip
    found = agreement.settled(log, history=4)
    assert found.rows() == [
        (1, 5, 20),
        (1, 9, 30),
        (1, 3, 31),
        (1, 8, 32),
        (1, 6, 50),
        *((3, i, i) for i in range(5)),
    ]


def test_times_rise_however_often_one_comes():
    log = of(*((user, item, 5 * (item // 4)) for user in (1, 2) for item in range(12)))
    times = agreement.settled(log, history=40).partition_by("user", as_dict=True)
    for found in times.values():
        assert found["timestamp"].to_list() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]


def test_a_log_without_a_column_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("user,title,timestamp\n1,2,3\n")
    with pytest.raises(InputError, match="has no column item; it has user, title, timestamp"):
        agreement.read(str(tmp_path / "log.csv"))
    with pytest.raises(InputError, match="--log=none: no such file; allowed: simulated, kuairand, or a CSV"):
        agreement.read("none")


@pytest.mark.parametrize("model", ["sasrec", "hstu"])
def test_the_peer_is_told_what_the_config_says(model):
    found = agreement.peers_settings(get_config(model), "config", 200)
    assert found.pop("kind") == model
    assert found.pop("similarity_module_kwargs") == {"distance": "cosine"}
    assert found.pop("lightning_module_kwargs") == {"logits_t": 0.05}
    assert found.pop("pos_encoding_kwargs") == {"use_scale_factor": True}  # as ours is, and as published
    assert found == SETTINGS


def test_softmax_is_of_dot_products_in_both():
    theirs = agreement.peers_settings(get_config("sasrec"), "softmax", 32)
    assert theirs["loss"] == "softmax" and theirs["session_max_len"] == 32
    assert theirs["similarity_module_kwargs"] == {"distance": "dot"}
    assert theirs["lightning_module_kwargs"] == {"logits_t": 1.0}
    mine = agreement.edits_of("softmax", 32, 3)
    assert (mine["next_title.loss"], mine["next_title.temperature"]) == ("softmax", 1.0)
    assert mine["model.cosine"] is False and "model.cosine" not in agreement.edits_of("config", 32, 3)
    assert mine["data.history"] == mine["model.experts[0].window"] == 32


def test_ranks_are_matched_by_user_and_0_is_behind_all():
    """Keys that one reports as text and the other as numbers; HR@10 of ranks 1, 11, none, 10."""
    users = pl.Series([10, 2, 33, 4])
    one = pl.DataFrame({"user": ["10", "2", "33", "4"], "rank": [1, 11, 0, 10]})
    two = pl.DataFrame({"user": [4, 33, 2, 10], "rank": [10, 0, 11, 1]})
    found = agreement.values([one, two], users)
    np.testing.assert_array_equal(found["hr@10"], [[1, 0, 0, 1]] * 2)
    np.testing.assert_allclose(found["ndcg@10"], [[1, 0, 0, 1 / np.log2(11)]] * 2)
    with pytest.raises(ValueError, match="ranked for 3 users, not for the log's 4"):
        agreement.values([one.head(3)], users)


def test_a_difference_is_over_users_of_the_seeds_means():
    mine, other = np.array([[1.0, 0, 1, 0], [1, 1, 1, 0]]), np.array([[0.0, 0, 1, 0], [0, 0, 1, 0]])
    found = agreement.compared(mine, other)
    d = np.array([1, 0.5, 0, 0])
    assert found["difference"] == d.mean()
    assert found["error"] == pytest.approx(d.std(ddof=1) / 2)
    assert found["in_errors"] == pytest.approx(d.mean() / (d.std(ddof=1) / 2))
    assert found["jaxrec"]["seeds"] == [0.5, 0.75] and found["RecTools"]["mean"] == 0.25
    assert agreement.compared(mine, mine)["in_errors"] == 0.0


def test_seconds_of_training_are_steps_at_their_rate():
    def line(step, rate):
        return {"step": step, "split": "train", "examples_per_second": rate}

    lines = [line(10, 100.0), {"step": 10, "split": "validation"}, line(40, 50.0)]
    assert agreement.trained_for(lines, batch_size=5) == 10 * 5 / 100 + 30 * 5 / 50


def test_the_peer_holds_out_last_plays_and_finds_their_ranks(tmp_path):
    """User 1's last play in time is not the file's last; user 2's target was not recommended."""
    pd = pytest.importorskip("pandas")
    (tmp_path / "log.csv").write_text("user,item,timestamp\n1,7,9\n2,5,1\n1,8,3\n2,6,2\n1,9,4\n")
    train, targets = rectools_ranking.read_log(tmp_path / "log.csv")
    assert train[["user_id", "item_id"]].to_numpy().tolist() == [[1, 8], [1, 9], [2, 5]]
    assert targets[["user_id", "item_id"]].to_numpy().tolist() == [[1, 7], [2, 6]]
    shown = pd.DataFrame({"user_id": [2, 1, 1, 2], "item_id": [7, 6, 7, 8], "rank": [1, 1, 2, 2]})
    assert rectools_ranking.ranks(shown, targets).tolist() == [2, 0]


PEER = """
import json, sys
log, out, _, settings = sys.argv[1:]
open(out, "w").write("user,rank\\n1,3\\n")
print(json.dumps({"seconds": [1.0], "settings": json.loads(settings)}))
"""


def test_a_peers_run_is_kept(tmp_path, monkeypatch):
    (tmp_path / "peer.py").write_text(PEER)
    monkeypatch.setattr(agreement, "PEER", tmp_path / "peer.py")
    given = sys.executable, tmp_path / "log.csv", {"lr": 0.1}, tmp_path / "rectools-0.csv"
    ranked, said = agreement.theirs(*given)
    assert ranked.rows() == [(1, 3)] and said["settings"] == {"lr": 0.1}
    assert (
        agreement.theirs("/no/python", *given[1:])[1]
        == said
        == json.loads((tmp_path / "rectools-0.json").read_text())
    )


@pytest.mark.parametrize(
    "command, message",
    [
        (["/no/python"], "--peer-python: /no/python: No such file or directory"),
        ([sys.executable, "-c", "import none_such"], "ended with status 1: ModuleNotFoundError"),
    ],
)
def test_a_peer_that_cannot_run_is_named(command, message):
    with pytest.raises(InputError, match=message):
        agreement._run(command, "--peer-python")
