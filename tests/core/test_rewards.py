"""Rewards: values by hand, the same in NumPy and jax, unknown labels, versions of declarations."""

import dataclasses
import hashlib
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.declarations import Reward, Term
from jaxrec.core import rewards

Y = {
    "finished": np.array([0, 1, 1, 0], np.float32),
    "thumb": np.array([0, 1, -1, np.nan], np.float32),
    "minutes": np.array([0, 59, -3, 7], np.float32),
}
KNOWN = {
    "finished": np.ones(4, bool),
    "thumb": np.array([True, True, True, False]),
    "minutes": np.array([True, True, False, True]),
}


def both(reward, y=Y, known=KNOWN):
    """Return r and known of NumPy, after a check that jax has the same."""
    r, is_known = rewards.value(reward, y, known, np)
    r_jax, known_jax = rewards.value(
        reward, {n: jnp.asarray(a) for n, a in y.items()}, {n: jnp.asarray(a) for n, a in known.items()}, jnp
    )
    assert r.dtype == r_jax.dtype == np.float32 and known_jax.dtype == bool
    np.testing.assert_allclose(r, r_jax, rtol=3e-7)
    np.testing.assert_array_equal(is_known, known_jax)
    return r.tolist(), is_known.tolist()


def test_a_reward_is_a_clipped_sum():
    reward = Reward("r", (Term("finished", 1.5), Term("thumb", 0.75)))
    assert both(reward) == ([3, 5, 3.75, 3], [True, True, True, False])  # 5.25 is clipped
    low = Reward("r", (Term("finished", -4.0),), base=2)
    assert both(low)[0] == [2, 1, 1, 2]


def test_shapes():
    log = Reward("r", (Term("minutes", 0.5, "log1p"),), base=0, low=-10, high=10, unknown="observed")
    expected = [0, 0.5 * math.log(60), -0.5 * math.log(4), 0.5 * math.log(8)]
    assert both(log)[0] == pytest.approx(expected, rel=1e-6)
    step = Reward("r", (Term("minutes", 1, "step", at=7),), unknown="observed")
    assert both(step)[0] == [3, 4, 3, 4]
    half = {"finished": np.array([0.9, 0.899], np.float16)}  # .9 in float16 is below .9
    step = Reward("r", (Term("finished", 1, "step", at=0.9),))
    assert both(step, half, {"finished": np.ones(2, bool)})[0] == [4, 3]


def test_unknown_labels():
    terms = Term("finished"), Term("minutes", 0.1)
    assert both(Reward("r", terms)) == (pytest.approx([3, 5, 4, 3.7]), [True, True, False, True])
    r, known = both(Reward("r", terms, unknown="observed"))
    assert r == pytest.approx([3, 5, 3.7, 3.7]) and known == [True] * 4  # the events so far count
    filled = KNOWN | {"minutes": np.ones(4, bool)}  # a prediction is marked as known
    assert both(Reward("r", terms, unknown="filled"), known=filled) == (r, known)
    assert both(Reward("r", terms, unknown="filled"))[1] == [True, True, False, True]
    assert all(math.isfinite(x) for x in both(Reward("r", (Term("thumb"),)))[0])


def test_a_label_that_is_missing_is_an_error():
    with pytest.raises(KeyError, match="other"):
        rewards.value(Reward("r", (Term("other"),)), Y, KNOWN, np)


def test_a_version_is_that_of_the_canonical_declaration():
    reward = Reward("r", (Term("finished", 2), Term("thumb", shape="step", at=1)), base=1)
    text = '{"base":1.0,"name":"r","terms":[{"label":"finished","weight":2.0},'
    text += '{"at":1.0,"label":"thumb","shape":"step"}]}'
    assert rewards.version(reward) == hashlib.sha256(text.encode()).hexdigest()[:8]
    assert rewards.version(Reward("r", reward.terms, base=1.0, high=5)) == rewards.version(reward)
    for change in ({"base": 2}, {"unknown": "filled"}, {"terms": reward.terms[::-1]}, {"name": "s"}):
        assert rewards.version(dataclasses.replace(reward, **change)) != rewards.version(reward)


def test_a_new_field_and_the_order_of_fields_keep_versions():
    @dataclasses.dataclass
    class Later:
        unknown: str = "drop"
        high: float = 5.0
        low: float = 1.0
        added: str = ""
        terms: tuple = ()
        base: float = 3.0
        name: str = ""

    terms = (Term("finished", 2.0),)
    assert rewards.version(Later(terms=terms, name="r")) == rewards.version(Reward("r", terms))
    assert rewards.version(Later(terms=terms, name="r", added="x")) != rewards.version(Reward("r", terms))
