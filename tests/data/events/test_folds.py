"""Folds of users: each user is tested once, and the shares divide the others."""

import numpy as np
import pytest

from jaxrec.config.schema import Config, Data
from jaxrec.core.hashing import of_keys
from jaxrec.data.events import users
from jaxrec.data.events.splits import TEST, TRAIN, VALIDATION

HASHES = of_keys(np.arange(20_000))


def splits_of(fold, **data):
    return users.split_of(HASHES, Config(data=Data(fold=fold, **data)))


@pytest.mark.parametrize("count", [2, 5, 7])
def test_folds_test_each_user_once(count):
    splits = np.stack([splits_of(f"{k}/{count}") for k in range(1, count + 1)])
    assert ((splits == TEST).sum(axis=0) == 1).all()
    for split in splits:
        assert np.bincount(split).tolist() == pytest.approx(
            np.array([8 / 9 * (1 - 1 / count), (1 - 1 / count) / 9, 1 / count]) * len(HASHES), rel=0.1
        )


def test_a_fold_is_a_range_of_the_hash_and_validation_comes_last(monkeypatch):
    """The second of three folds tests from 1/3 to 2/3. The others begin there; a third is for validation."""
    u = np.array([0.01, 0.32, 0.34, 0.66, 0.67, 0.99, 0.15, 0.1, np.nextafter(1, 0)])
    monkeypatch.setattr(users, "uniform", lambda *_: u)
    settings = Data(fold="2/3", train_share=0.5, validation_share=0.25)
    split = users.split_of(HASHES[: len(u)], Config(data=settings))
    assert split.tolist() == [
        TRAIN, VALIDATION, TEST, TEST, TRAIN, TRAIN, VALIDATION, TRAIN, TRAIN,
    ]  # fmt: skip
    assert split.dtype == np.int8


def test_the_edges_of_ranges_belong_to_one_fold(monkeypatch):
    edges = np.array([k / 7 for k in range(1, 7)])
    u = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1), [2.0**-53, 1 - 2.0**-53]])
    monkeypatch.setattr(users, "uniform", lambda *_: u)
    splits = [users.split_of(HASHES[: len(u)], Config(data=Data(fold=f"{k}/7"))) for k in range(1, 8)]
    assert (np.stack(splits) == TEST).sum(axis=0).tolist() == [1] * len(u)


def test_without_a_fold_the_shares_divide_all_users():
    u = users.uniform(0, users._SPLIT_DRAW, HASHES)
    assert (splits_of("") == (u > 0.8).astype(int) + (u > 0.9)).all()
    assert (splits_of("1/5", seed=1) != splits_of("1/5")).any()
