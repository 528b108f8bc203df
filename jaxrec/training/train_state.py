"""The state that training carries from step to step, and its first value."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.runtime.mesh import replicate, state_shardings
from jaxrec.tasks.base import Task
from jaxrec.training import optimizer


class TrainState(NamedTuple):
    """All that training carries from step to step, and all that a checkpoint holds of it."""

    params: Any
    optimizer: Any
    step: jax.Array  # int32: batches seen
    validation: jax.Array  # float32: the last validation loss, for the plateau
    fresh: jax.Array  # bool: no step has acted on that loss yet
    task_state: Any = ()  # the task's own: `Task.init_task_state`
    average: Any = ()  # of the parameters, where `optimizer.ema_decay` is set

    @property
    def eval_params(self) -> Any:
        """The parameters that are validated, tested and served."""
        return self.average or self.params


@dataclass(frozen=True)
class StateInit:
    """The first state of a task, from `train.seed`.

    It is traced as one program: run operation by operation, it would be a hundred small programs to compile.
    The key is an argument, so that the program is the same for every seed.
    """

    task: Task

    def init(self) -> TrainState:
        """Return the first state on the host's default device."""
        # It runs once, for milliseconds: on a CPU optimising its machine code takes longer than it saves.
        unoptimised = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        return self._traced.lower().compile(unoptimised)(self._key())

    def init_sharded(self) -> TrainState:
        """Return the first state on all devices; sharded leaves are made where they stay. Thread-safe."""
        if not self.task.shards_titles:
            return replicate(self.init())
        first = jax.jit(
            lambda words: self._first_state(jax.random.wrap_key_data(words)),
            out_shardings=state_shardings(self.abstract()),
        )
        return first(np.asarray(jax.random.key_data(self._key())))

    def abstract(self) -> TrainState:
        """Return shapes and dtypes of the state, without making it."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._traced.out_info)

    def _key(self) -> jax.Array:
        return jax.random.key(self.task.config.train.seed)

    @cached_property
    def _traced(self) -> jax.stages.Traced:
        """`_first_state`, traced once: for its shapes and, where they are wanted, its values."""
        return jax.jit(self._first_state).trace(self._key())

    def _first_state(self, key: jax.Array) -> TrainState:
        params = self.task.init_params(key, self.task.empty_table())
        config = self.task.config.optimizer
        average = jax.tree.map(jnp.copy, params) if config.ema_decay else ()
        return TrainState(
            params, optimizer.make(config).init(params), jnp.int32(0), jnp.float32(0), jnp.bool_(False),
            self.task.init_task_state(), average,
        )  # fmt: skip


def count_parameters(params: Any) -> int:
    """Return how many numbers a tree of parameters holds."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
