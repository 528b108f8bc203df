"""A small model and requests to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.core.batch import History, TitleTable
from jaxrec.core.row_format import FeatureSpec
from jaxrec.models.encoders.base import ExpertFields
from jaxrec.models.mixture import GateFields
from jaxrec.models.ranker import RankingModel
from jaxrec.tasks.ranking_inputs import alone

V = 30
FEATURES = (
    FeatureSpec("title_id", "category", "title", 6, V, 0),
    FeatureSpec("genre", "categories", "title", 4, 7, 2),
    FeatureSpec("year", "number", "title", 3),
    FeatureSpec("segment", "category", "user", 4, 5),
    FeatureSpec("age", "number", "user", 2),
    FeatureSpec("device", "category", "context", 3, 4),
    FeatureSpec("completion", "number", "interaction", 3),
    FeatureSpec("sessions", "number", "interaction", 2),
    FeatureSpec("age", "number", "interaction", 2),
)
FIELDS = {
    "dtype": "float32",
    "features": FEATURES,
    "titles": V,
    "width": 8,
    "experts": (ExpertFields(3, 1, 2, 1.0, 0.2), ExpertFields(6, 1, 2, 2.0, 0.2)),
    "gate": GateFields((8, 4), 0.1),
    "dropout": 0.2,
    "matcher": (12, 6),
    "matcher_product": True,
    "tasks": ("ctr", "ranking", "completion"),
}


class Case:
    """A model of FIELDS with `changes`, its parameters, and `rows` requests of history `length`."""

    def __init__(self, rows: int = 5, length: int = 6, **changes):
        r = np.random.default_rng(1)
        self.model = RankingModel(**(FIELDS | changes))
        dtype = jnp.promote_types(self.model.dtype, jnp.float32)
        seen = np.arange(length)[None] >= r.integers(0, length, (rows, 1))

        def columns(x):
            return jnp.asarray(np.where(seen, x, 0), dtype if x.dtype.kind == "f" else jnp.int32)

        title = columns(r.integers(2, V, (rows, length)))
        self.history = History(
            title,
            columns(r.random((rows, length))),
            columns(r.integers(1, 4, (rows, length)) * 1.0),
            columns(r.random((rows, length)) * 16),
            *alone(title, tuple(e.window for e in self.model.experts)),
            jnp.asarray(r.integers(1, 5, (rows, 1))),
            jnp.asarray(r.normal(size=(rows, 1)), dtype),
            jnp.asarray(r.integers(1, 4, (rows, 1))),
            jnp.zeros((rows, 0), dtype),
        )
        table = r.integers(0, 7, (V, 2)), r.normal(size=(V, 1))
        self.table = TitleTable(jnp.asarray(table[0]), jnp.asarray(table[1], dtype))
        self.candidate = jnp.asarray(r.integers(2, V, (rows, 4)))
        arguments = self.history, self.candidate, self.table, 1.0
        self.variables = jax.jit(self.model.init)(jax.random.key(0), *arguments)
        self._run = jax.jit(lambda v, h, c, k: self.model.apply(v, h, c, self.table, 1.0, k))

    def __call__(self, history=None, candidate=None, key=None, variables=None):
        history = self.history if history is None else history
        candidate = self.candidate if candidate is None else candidate
        return self._run(variables or self.variables, history, candidate, key)


@pytest.fixture(scope="session")
def small():
    """The small model with every part, not to be changed."""
    return Case()


@pytest.fixture(scope="session")
def case():
    """Makes a Case."""
    return Case
