"""The agreement benchmark: its log, the settings of both libraries, comparison."""

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


def log_of(*plays):
    return pl.DataFrame(list(plays), ["user", "item", "timestamp"], orient="row")


def test_a_log_is_reduced():
    """Order, repeats and history lengths leave no choice to either library.

    User 1: two plays of one second keep the log's order and get one second each, which moves the third play.
    The second play of item 7 and the oldest play are removed. User 2 has four titles, too few; user 3 has 5.
    """
    log = log_of(
        (1, 9, 30), (1, 5, 20), (2, 1, 1), (2, 2, 2), (2, 3, 3), (2, 4, 4), (2, 4, 5), (1, 3, 30), (1, 8, 31),
        (1, 7, 10), (1, 7, 40), (1, 6, 50), *((3, item, item) for item in range(5)),
    )  # fmt: skip
    reduced = agreement.reduce_log(log, history=4)
    assert reduced.rows() == [
        (1, 5, 20),
        (1, 9, 30),
        (1, 3, 31),
        (1, 8, 32),
        (1, 6, 50),
        *((3, i, i) for i in range(5)),
    ]


def test_times_increase_for_any_number_of_simultaneous_plays():
    log = log_of(*((user, item, 5 * (item // 4)) for user in (1, 2) for item in range(12)))
    times = agreement.reduce_log(log, history=40).partition_by("user", as_dict=True)
    for user_log in times.values():
        assert user_log["timestamp"].to_list() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13]


def test_a_log_without_a_column_is_rejected(tmp_path):
    (tmp_path / "log.csv").write_text("user,title,timestamp\n1,2,3\n")
    with pytest.raises(InputError, match="has no column item; it has user, title, timestamp"):
        agreement.read(str(tmp_path / "log.csv"))
    with pytest.raises(InputError, match="--log=none: no such file; allowed: simulated, kuairand, or a CSV"):
        agreement.read("none")


@pytest.mark.parametrize("model", ["sasrec", "hstu"])
def test_peer_settings_follow_the_config(model):
    settings = agreement.peer_settings(get_config(model), "config", 200)
    assert settings.pop("kind") == model
    assert settings.pop("similarity_module_kwargs") == {"distance": "cosine"}
    assert settings.pop("lightning_module_kwargs") == {"logits_t": 0.05}
    assert settings.pop("pos_encoding_kwargs") == {"use_scale_factor": True}  # as in jaxrec and as published
    assert settings == SETTINGS


def test_esasrec_has_the_blocks_of_its_authors():
    theirs = agreement.peer_settings(get_config("esasrec"), "config", 16)
    assert theirs["transformer_layers_type"].endswith("ligr.LiGRLayers") and theirs["n_negatives"] == 256
    assert theirs["transformer_layers_kwargs"] == {"ff_factors_multiplier": 4}
    assert theirs["similarity_module_kwargs"] == {"distance": "dot"} and theirs["loss"] == "sampled_softmax"


def test_both_libraries_use_softmax_of_dot_products():
    theirs = agreement.peer_settings(get_config("sasrec"), "softmax", 32)
    assert theirs["loss"] == "softmax" and theirs["session_max_len"] == 32
    assert theirs["similarity_module_kwargs"] == {"distance": "dot"}
    assert theirs["lightning_module_kwargs"] == {"logits_t": 1.0}
    edits = agreement.shared_edits("softmax", 32, 3)
    assert (edits["next_item.loss"], edits["next_item.temperature"]) == ("softmax", 1.0)
    assert edits["model.cosine"] is False and "model.cosine" not in agreement.shared_edits("config", 32, 3)
    assert edits["data.max_history"] == edits["model.experts[0].max_len"] == 32


def test_ranks_are_matched_by_user_and_rank_0_counts_as_last():
    """Keys are text in one frame and numbers in the other; ranks 1, 11, none, 10."""
    users = pl.Series([10, 2, 33, 4])
    one = pl.DataFrame({"user": ["10", "2", "33", "4"], "rank": [1, 11, 0, 10]})
    two = pl.DataFrame({"user": [4, 33, 2, 10], "rank": [10, 0, 11, 1]})
    values = agreement.user_metrics([one, two], users)
    np.testing.assert_array_equal(values["hr@10"], [[1, 0, 0, 1]] * 2)
    np.testing.assert_allclose(values["ndcg@10"], [[1, 0, 0, 1 / np.log2(11)]] * 2)
    with pytest.raises(ValueError, match="ranked for 3 users, not for the log's 4"):
        agreement.user_metrics([one.head(3)], users)


def test_difference_is_over_users_of_means_over_seeds():
    ours, theirs = np.array([[1.0, 0, 1, 0], [1, 1, 1, 0]]), np.array([[0.0, 0, 1, 0], [0, 0, 1, 0]])
    comparison = agreement.compare(ours, theirs)
    d = np.array([1, 0.5, 0, 0])
    assert comparison["difference"] == d.mean()
    assert comparison["error"] == pytest.approx(d.std(ddof=1) / 2)
    assert comparison["in_errors"] == pytest.approx(d.mean() / (d.std(ddof=1) / 2))
    assert comparison["jaxrec"]["seeds"] == [0.5, 0.75] and comparison["RecTools"]["mean"] == 0.25
    assert agreement.compare(ours, ours)["in_errors"] == 0.0


def test_training_seconds_are_steps_divided_by_rates():
    def line(step, rate):
        return {"step": step, "split": "train", "examples_per_second": rate}

    lines = [line(10, 100.0), {"step": 10, "split": "validation"}, line(40, 50.0)]
    assert agreement.trained_for(lines, batch_size=5) == 10 * 5 / 100 + 30 * 5 / 50


def test_the_peer_holds_out_last_plays_and_ranks_them(tmp_path):
    """User 1's last play is not last in the file; user 2's target is not recommended."""
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


def test_a_finished_peer_run_is_reused(tmp_path, monkeypatch):
    (tmp_path / "rectools_ranking.py").write_text(PEER)
    monkeypatch.setattr(agreement, "PEERS", tmp_path)
    arguments = sys.executable, tmp_path / "log.csv", {"kind": "sasrec"}, tmp_path / "rectools-0.csv"
    ranked, figures = agreement.theirs(*arguments)
    assert ranked.rows() == [(1, 3)] and figures["settings"] == {"kind": "sasrec"}
    assert (
        agreement.theirs("/no/python", *arguments[1:])[1]
        == figures
        == json.loads((tmp_path / "rectools-0.json").read_text())
    )


@pytest.mark.parametrize(
    "command, message",
    [
        (["/no/python"], "--peer-python: /no/python: No such file or directory"),
        ([sys.executable, "-c", "import none_such"], "ended with status 1: ModuleNotFoundError"),
    ],
)
def test_error_of_a_peer_that_cannot_run(command, message):
    with pytest.raises(InputError, match=message):
        agreement._run(command, "--peer-python")
