"""Rewards: values from the labels of a title at a request, and the version of a declaration.

`xp` is numpy or jax.numpy: preparation and devices share one function.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class TermLike(Protocol):
    """Fields of `config.Term`."""

    label: str
    weight: float
    shape: Any
    at: float


class RewardLike(Protocol):
    """Fields of `config.Reward`."""

    name: str
    base: float
    low: float
    high: float
    unknown: Any

    @property
    def terms(self) -> Sequence[TermLike]:
        """Return the terms of the sum."""


def shaped(term: TermLike, y: Any, xp: Any) -> Any:
    """Return the shape of a term applied to values [...] of its label, at least float32.

    "linear" is y; "log1p" is sign(y) log(1 + |y|), so that negative values are allowed; "step" is 1 where y
    is at least `term.at`, otherwise 0. A threshold is rounded to the type of y, which may be float16.
    """
    if term.shape == "step":
        return xp.where(y >= xp.asarray(term.at, y.dtype), xp.float32(1), xp.float32(0))
    wide = y.astype(xp.promote_types(y.dtype, xp.float32))
    return xp.sign(wide) * xp.log1p(xp.abs(wide)) if term.shape == "log1p" else wide


def value(reward: RewardLike, y: Mapping[str, Any], known: Mapping[str, Any], xp: Any) -> tuple[Any, Any]:
    """Return rewards [...], clip(base + sum of weight * shape(y), low, high), and where they are known.

    Args:
        reward: Declaration.
        y: Label -> values [...]; where a label is unknown, those of the events so far or, with
            `reward.unknown` "filled", predictions.
        known: Label -> bool [...]; with "filled" True also where the value is a prediction.
        xp: numpy or jax.numpy.

    Returns:
        r: [...] at least float32.
        known: [...] bool. With "observed" it is True throughout, for what has happened so far counts.
            Otherwise it is True where the labels of all terms are known. Elsewhere r is to be left out;
            unknown labels count as 0 in it.

    Raises:
        KeyError: `y` or `known` lacks a label of a term.
    """
    names = [term.label for term in reward.terms]
    total: Any = reward.base
    all_known: Any = True
    for name, term in zip(names, reward.terms, strict=True):
        values, is_known = xp.asarray(y[name]), xp.asarray(known[name])
        if reward.unknown == "observed":
            is_known = xp.ones_like(is_known)
        else:  # by `where`: what an unknown label holds may be no number
            values = xp.where(is_known, values, xp.zeros_like(values))
        total = total + term.weight * shaped(term, values, xp)
        all_known = is_known & all_known
    return xp.clip(total, reward.low, reward.high), all_known


def version(reward: RewardLike) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of a declaration, as canonical JSON.

    Fields are sorted by name. A field at its default is left out, so that a field that is added later keeps
    the versions of older declarations. Whole numbers are written as floats: 1 and 1.0 are one declaration.
    """
    text = json.dumps(_canonical(reward), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _canonical(tree: Any) -> Any:
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        values = [(field, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
        return {field.name: _canonical(x) for field, x in values if x != field.default}
    if isinstance(tree, list | tuple):
        return [_canonical(element) for element in tree]
    return float(tree) if isinstance(tree, int) and not isinstance(tree, bool) else tree
