"""The evaluation benchmark: its NumPy peer equals our model, metric for metric."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import evaluate
from benchmarks.peers import numpy_evaluate as peer
from jaxrec.evaluation import metrics


@pytest.fixture(scope="module")
def setting(tiny_config, tiny_directory):
    data = dataclasses.replace(tiny_config.data, directory=str(tiny_directory))
    return evaluate.Setting(dataclasses.replace(tiny_config, data=data))


@pytest.fixture
def sample(setting):
    rows = setting.rows
    short = np.nonzero((rows["history_title"] > 0).sum(1) < 3)[0][:5]
    return np.unique([*short, *range(0, len(rows), max(len(rows) // 30, 1))])


def test_the_peer_equals_our_model(setting, sample):
    differences = evaluate.check_equal(setting, sample)
    assert differences["scores"] < 1e-5 and differences["metrics"] < 1e-12


CHANGED = (
    "expert_1/encoder/block_0/attention/query_bias",
    "gate/mlp/out/bias",
    "history/position",
    "product/user",
    "matcher_ranking/kernel_out",
)


@pytest.mark.parametrize("name", CHANGED)
def test_a_peer_with_other_parameters_is_detected(setting, sample, name, monkeypatch):
    def change(path, x):
        unchanged = jax.tree_util.keystr(path, simple=True, separator="/") != name
        return x if unchanged else x + np.linspace(0, 1, x.size, dtype=x.dtype).reshape(x.shape)

    monkeypatch.setattr(setting.peer, "p", jax.tree_util.tree_map_with_path(change, setting.host))
    with pytest.raises(AssertionError, match=r"scores differ|rank \d+ among all"):
        evaluate.check_equal(setting, sample)


def test_catalogue_ranks_equal_ranks_by_sorting(setting):
    rows = setting.rows[:40]
    mean = peer.whole_catalogue(setting.peer, rows)
    ranks = setting.ranks(100)
    assert len(ranks) == 100
    assert {name: f(ranks[:40]).mean() for name, f in metrics.METRICS.items()} == pytest.approx(
        mean, abs=1e-6
    )


def test_ties_rank_before_the_target():
    assert peer.rank_by_sorting(np.float32([1, 2, 3, 2])) == 3
    assert peer.rank_by_sorting(np.float32([1, 1, 1])) == 3
    for rank in range(1, 8):
        assert peer.query_metrics(rank) == pytest.approx(
            {name: float(f(np.int64(rank))) for name, f in metrics.METRICS.items()}
        )
