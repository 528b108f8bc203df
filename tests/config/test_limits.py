"""Tests of the upper limits of whole numbers."""

import pytest

from jaxrec.config.rules.limits import _LIMITS, check_limits
from jaxrec.config.schema import Config, Feature
from jaxrec.config.validation import check, parse_length
from jaxrec.core.errors import InputError


def with_value(name, value):
    """Return a config with this value at a dotted key without indices, and the key with indices."""
    config = Config(features=(Feature("title_id", "category", "title", 8),))
    *parents, field = name.split(".")
    tree, key = config, ""
    for parent in parents:
        tree, key = getattr(tree, parent), f"{key}{parent}."
        if isinstance(tree, tuple):
            tree, key = tree[0], f"{key[:-1]}[0]."
    is_tuple = isinstance(getattr(tree, field), tuple)
    setattr(tree, field, (value,) if is_tuple else value)
    return config, key + field + "[0]" * is_tuple


@pytest.mark.parametrize("name", _LIMITS)
def test_each_limit_is_of_a_field_and_holds(name):
    most = _LIMITS[name]
    check_limits(with_value(name, most)[0])
    config, key = with_value(name, most + 1)
    with pytest.raises(InputError) as error:
        check_limits(config)
    assert str(error.value) == f"{key}={most + 1} must be at most {most:,}"


def test_every_whole_number_has_a_limit():
    config, _ = with_value("train.seed", 2**40 + 1)
    with pytest.raises(InputError, match=r"^train\.seed=\d+ must be at most 1,099,511,627,776$"):
        check(config)


def test_a_duration_has_a_limit():
    assert parse_length("1000000000 steps") == (10**9, "steps")
    with pytest.raises(InputError, match="must be at most 1,000,000,000 epochs or steps"):
        parse_length("1000000001 epochs")
