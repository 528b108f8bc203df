"""Share a small hand-written result of an evaluation."""

import pytest


def lists(enabled: float, disabled: float) -> dict:
    def one(x: float) -> dict:
        return {
            "ndcg@1": x,
            "ndcg@5": x + 0.1,
            "recall@5": x + 0.2,
            "mrr@5": x + 0.05,
            "users": 10,
            "examples": 1234,
        }

    return {"enabled": one(enabled), "disabled": one(disabled)}


@pytest.fixture
def result() -> dict:
    return {
        "name": "tiny", "split": "test", "which": "best",
        "lists": lists(0.25, 0.5),
        "baselines": {
            "popularity": lists(0.125, 0.4), "abandoned_rule": lists(0.2, 0.4),
            "in_history_rule": lists(0.1, 0.4), "not_in_history_rule": lists(0.21, 0.4),
            "oracle": lists(0.375, 0.6), "oracle_p": lists(0.3, 0.55),
        },
        "lists_k3": lists(0.2, 0.45), "baselines_k3": {"popularity": lists(0.1, 0.35)},
        "gate": {
            "mean": [0.25, 0.75], "entropy": 0.5, "information": 0.0625, "collapsed": False,
            "by_history": {
                "1": {"weights": [0.1, 0.9], "queries": 1234}, "2": {"weights": [0.3, 0.7], "queries": 5},
            },
        },
        "by_hard": {"10": {"ndcg@1": 0.1, "examples": 4}, "2": {"ndcg@1": 0.5, "examples": 1230}},
        "dataset": "abc123", "step": 4321, "seed": 0, "seconds": 62.5,
    }  # fmt: skip
