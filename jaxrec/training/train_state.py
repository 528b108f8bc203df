"""Training state and its initialisation."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.runtime.mesh import replicate, state_shardings
from jaxrec.tasks.base import Task
from jaxrec.tasks.inputs.title_tables import empty_table
from jaxrec.training import optimizer
from jaxrec.training.adaptation.low_rank import init_low_rank
from jaxrec.training.restraints import has_anchor


class TrainState(NamedTuple):
    """Training state that each step updates and that a checkpoint stores.

    Attributes:
        params: Tree of parameters.
        optimizer: State of the optimizer.
        step: int32: number of completed steps.
        validation: float32: the last validation loss, for the plateau schedule.
        fresh: bool, True if no step has used the validation loss yet.
        task_state: State from `Task.init_task_state`.
        average: Moving average of the parameters; () unless `optimizer.ema_decay` is set.
        reference: Parameters that the training started with; () unless `start.anchor` or the task reads them.
        anchored: Bool, True where the anchor pulls a parameter to the reference; () without `start.anchor`.
        old: Parameters of an earlier step, from which a policy draws; () unless the task reads them.
        low_rank: Factors of the adapted kernels, which the optimizer updates; () without `start.low_rank`.
    """

    params: Any
    optimizer: Any
    step: jax.Array
    validation: jax.Array
    fresh: jax.Array
    task_state: Any = ()
    average: Any = ()
    reference: Any = ()
    anchored: Any = ()
    old: Any = ()
    low_rank: Any = ()

    @property
    def eval_params(self) -> Any:
        """Parameters for evaluation: the moving average if there is one, else `params`."""
        return self.average or self.params


@dataclass(frozen=True, eq=False)
class StateInit:
    """Initialiser of a task's training state from `train.seed`.

    The initialisation is traced as one program, because separate operations would be about a hundred small
    programs to compile. The key is an argument, so the program is the same for all seeds.
    """

    task: Task

    def init(self) -> TrainState:
        """Return the initial state on the host's default device."""
        # The program runs once, for milliseconds. On a CPU, optimising its machine code costs more time than
        # the optimisation saves.
        unoptimised = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        return self._traced.lower().compile(unoptimised)(self._key())

    def init_sharded(self) -> TrainState:
        """Return the initial state on all devices; thread-safe.

        Each shard of a sharded leaf is computed on its own device.
        """
        if not self.task.shards_titles:
            return replicate(self.init())
        init = jax.jit(
            lambda words: self._init_state(jax.random.wrap_key_data(words)),
            out_shardings=state_shardings(self.abstract()),
        )
        return init(np.asarray(jax.random.key_data(self._key())))

    def abstract(self) -> TrainState:
        """Return shapes and dtypes of the state, without allocating the state."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._traced.out_info)

    def _key(self) -> jax.Array:
        return jax.random.key(self.task.config.train.seed)

    @cached_property
    def _traced(self) -> jax.stages.Traced:
        """Trace of `_init_state`, made once for the shapes and the values of the state."""
        return jax.jit(self._init_state).trace(self._key())

    def _init_state(self, key: jax.Array) -> TrainState:
        params = self.task.init_params(key, empty_table(self.task.layout, self.task.config))
        config, kept = self.task.config.optimizer, self.task.kept_parameters
        is_anchored = has_anchor(self.task.config.start)
        low_rank = init_low_rank(self.task.config.start, params, key)
        trained = low_rank.factors if low_rank else params

        def copy_if(needed: bool) -> Any:
            return jax.tree.map(jnp.copy, params) if needed else ()

        return TrainState(
            params, optimizer.make(config).init(trained), jnp.int32(0), jnp.float32(0), jnp.bool_(False),
            self.task.init_task_state(), copy_if(bool(config.ema_decay)),
            copy_if(is_anchored or kept.reference),
            jax.tree.map(lambda x: jnp.zeros(x.shape, bool), params) if is_anchored else (),
            copy_if(kept.refresh > 0), low_rank,
        )  # fmt: skip


def count_parameters(params: Any) -> int:
    """Return the number of elements of a parameter tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
