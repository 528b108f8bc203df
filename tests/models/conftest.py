"""Small model and batches for the model tests."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrec.config.heads import HeadSpec, paper_head
from jaxrec.config.schema import Expert, Model
from jaxrec.config.schema import Gate as GateConfig
from jaxrec.core.batch import History, PastOutcome, TitleTable
from jaxrec.core.row_format import FeatureSpec
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
    "width": 8,
    "experts": (Expert(3, 1, 2, 1.0, 0.2), Expert(6, 1, 2, 2.0, 0.2)),
    "gate": GateConfig((8, 4), 0.1),
    "dropout": 0.2,
    "matcher": (12, 6),
    "matcher_product": True,
}
TASKS = ("ctr", "ranking", "completion")


class Case:
    """Model of FIELDS with `changes`, its parameters, and `rows` examples of history `length`."""

    def __init__(self, rows=5, length=6, dtype="float32", tasks=TASKS, sampled_titles=0, **changes):
        r = np.random.default_rng(1)
        config = Model(**(FIELDS | changes))
        heads = tuple(head if isinstance(head, HeadSpec) else paper_head(head) for head in tasks)
        self.model = RankingModel(dtype, FEATURES, V, config, "", heads, sampled_titles)
        dtype = jnp.promote_types(self.model.dtype, jnp.float32)
        present = np.arange(length)[None] >= r.integers(0, length, (rows, 1))

        def columns(x):
            return jnp.asarray(np.where(present, x, 0), dtype if x.dtype.kind == "f" else jnp.int32)

        title = columns(r.integers(2, V, (rows, length)))
        self.history = History(
            title,
            PastOutcome(columns(r.random((rows, length)))),
            columns(r.integers(1, 4, (rows, length)) * 1.0),
            columns(r.random((rows, length)) * 16),
            *alone(title, tuple(e.max_len for e in self.model.config.experts)),
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
    """Return the small model with all components; tests must not change it."""
    return Case()


@pytest.fixture(scope="session")
def case():
    """Make a Case; of equal arguments it is made once, since parameters take seconds to compile and
    initialize. Each caller has a copy, whose attributes may be set."""
    made = {}

    def of(rows=5, length=6, **changes):
        key = repr((rows, length, sorted(changes.items()), jax.config.jax_enable_x64))
        if key not in made:
            made[key] = Case(rows, length, **changes)
        return copy.copy(made[key])

    return of
