"""Differences on titles of few plays, by hand."""

import numpy as np
import pytest

from benchmarks.cold_titles import Queries, difference
from jaxrec.core.errors import InputError


def queries(ndcg, plays=(3, 20, 21, 0)):
    return Queries(np.array([7, 7, 9, 9]), np.array(plays), np.array(ndcg, float))


def test_differences_are_means_of_users_over_the_seeds():
    first = [queries([1.0, 0.5, 0.2, 0.4]), queries([0.8, 0.5, 0.2, 0.0])]
    second = [queries([0.0, 0.5, 1.0, 0.1]), queries([0.0, 0.3, 1.0, 0.2])]
    few = difference(first, second, 0, 20)
    # user 7: (0.5 + 0.5) / 2; user 9, whose third query has more plays: (0.3 - 0.2) / 2
    assert few["difference"] == pytest.approx((0.5 + 0.05) / 2) and few["users"] == 2
    assert few["ndcg"] == pytest.approx((1.9 + 1.3) / 6) and few["queries"] == 3
    assert few["low"] <= few["difference"] <= few["high"]
    many = difference(first, second, 21, 1_000)
    assert many["difference"] == pytest.approx(-0.8) and many["users"] == 1
    with pytest.raises(InputError, match="no test query has a target of 100 to 200 plays"):
        difference(first, second, 100, 200)
