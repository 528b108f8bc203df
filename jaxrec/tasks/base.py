"""What training carries from step to step, and the one train_step, written for one device.

What a step differentiates is its program's own: `step.Program` of requests, `sequence_step.SequenceProgram`
of sequences. Gradients are of the local *sum* of the loss; sums and the count meet in a `psum` outside the
differentiated function, and one division makes the mean, so shares of unequal count cannot bend it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.config.schema import Config
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.row_format import Layout
from jaxrec.losses import ranking
from jaxrec.models.encoders.base import ExpertFields
from jaxrec.models.layers import rng
from jaxrec.models.layers.dense import at_least_float32
from jaxrec.runtime.mesh import (
    AXIS,
    merge_sharded,
    psum_replicated,
    replicate,
    split_sharded,
    state_shardings,
)
from jaxrec.runtime.parallel_step import example_rows
from jaxrec.training import optimizer

Sums = dict[str, tuple[Any, Any]]  # metric -> (sum, count), divided once by who reads them


class TitleScores(NamedTuple):
    """What a model says of B queries over all titles."""

    scores_BxV: jax.Array
    target_B: jax.Array  # int32 ids
    seen_BxL: jax.Array  # int32 ids of the stored history, abandoned ones too, 0 for padding


class TrainState(NamedTuple):
    """All that training carries from step to step, and all that a checkpoint holds of it."""

    params: Any
    optimizer: Any
    step: jax.Array  # int32: batches seen
    validation: jax.Array  # float32: the last validation loss, for the plateau
    fresh: jax.Array  # bool: no step has acted on it yet
    averages: Any = ()  # `weighting.Averages` where tasks are weighed by them
    average: Any = ()  # of the parameters, where `optimizer.average` asks for one
    usage: Any = ()  # [E]: the last step's mean gate, where `objective.balance` asks for it

    @property
    def eval_params(self) -> Any:
        """The parameters that validation, test and whoever loads a checkpoint score with."""
        return self.average or self.params


@dataclass(frozen=True)
class Task:
    """A config and a dataset's layout as pure functions. `threshold` is the dataset's mean completion."""

    config: Config
    layout: Layout
    threshold: float
    steps_per_epoch: int
    total_steps: int

    # ------------------------------------------------ what a program says of itself

    @property
    def packs_sequences(self) -> bool:
        """Whether histories may share rows."""
        return False

    def part_size(self, backend: str) -> int:
        """Examples that a device works through at a time; 0: all it has."""
        raise NotImplementedError

    def projects_once(self, share: int) -> bool:
        """Whether the catalogue is worked out once for a device's `share`, or by each of its parts."""
        raise NotImplementedError

    def init_params(self, key: jax.Array, table: TitleTable) -> Any:
        """The first parameters; traced."""
        raise NotImplementedError

    def catalogue(self, params: Any, table: TitleTable, shared: Any) -> Any:
        """What the model makes of titles, once for many examples: of every one, or of those that `shared`
        says the device's share asks for."""
        raise NotImplementedError

    def score_all_titles(self, params: Any, host: HostBatch, table: TitleTable) -> TitleScores:
        """Every title's score for queries, by the head that ranks; without noise or dropout."""
        raise NotImplementedError

    def shared(self, state: TrainState, host: HostBatch, table: TitleTable) -> Any:
        """What all parts of a device's share are given of it, or of the global batch; inside a mapped
        step."""
        return None

    def summed_loss(
        self, params: Any, catalogue: Any, state: TrainState, host: HostBatch, table: TitleTable,
        key: jax.Array, shared: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """The loss summed over some rows of the batch, which have the keys `key` [B, 2], and each metric's
        (sum, count); without a `catalogue` the model looks titles up itself."""
        raise NotImplementedError

    def update_task_state(self, before: TrainState, after: TrainState, sums: Sums) -> tuple[TrainState, Sums]:
        """The state after a step with what else the program carries on, and `sums` with its figures."""
        return after, sums

    # ------------------------------------------------ the same for all

    @property
    def encoders(self) -> tuple[ExpertFields, ...]:
        """The config's experts as `nn` takes them."""
        m = self.config.model
        return tuple(
            ExpertFields(e.window, e.layers, e.heads, e.feedforward, e.dropout, e.kind, m.attention)
            for e in m.experts
        )

    def parts(self, share: int) -> int:
        """How many parts a device's `share` of a batch is worked through in: the fewest that divide it and
        hold `train.microbatch` examples at most."""
        most = self.config.train.microbatch or self.part_size(jax.default_backend()) or share
        return next(n for n in range(-(-share // most), share + 1) if share % n == 0)

    @property
    def splits(self) -> bool:
        """Whether the titles' embeddings, and the optimizer's state of them, are dealt to the devices."""
        return self.config.model.title_table == "split"

    @property
    def mapping(self) -> str:
        """How `parallel.map_over_devices` maps the step."""
        return "shard_map" if self.splits else "pmap"

    def init(self) -> TrainState:
        """The first state, from train.seed; on the host's default device."""
        first, seed = self._first, jax.random.key(self.config.train.seed)
        # It runs once, for milliseconds: on a CPU optimising its machine code takes longer than it saves.
        hasty = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
        return first.lower().compile(hasty)(seed)

    def init_sharded(self) -> TrainState:
        """The first state on all devices: replicated, or what is dealt made where it stays; of any thread."""
        if not self.splits:
            return replicate(self.init())
        words = np.asarray(jax.random.key_data(jax.random.key(self.config.train.seed)))
        first = jax.jit(
            lambda words: self._first_state(jax.random.wrap_key_data(words)),
            out_shardings=state_shardings(self.abstract_state()),
        )
        return first(words)

    @cached_property
    def _first(self) -> jax.stages.Traced:
        """`_first_state`, traced once: for its shapes and, where they are wanted, its values."""
        return jax.jit(self._first_state).trace(jax.random.key(self.config.train.seed))

    def _first_state(self, key: jax.Array) -> TrainState:
        """Traced as one program: run bit by bit, it would be a hundred small ones to compile. The key is an
        argument, so that every seed's is the same."""
        table = TitleTable(*(jnp.zeros((self.layout.titles, self.layout.columns("title", k)), t)
                             for k, t in (("category", jnp.int32), ("number", jnp.float32))))  # fmt: skip
        params = self.init_params(key, table)
        slots = optimizer.make(self.config.optimizer).init(params)
        average = jax.tree.map(jnp.copy, params) if self.config.optimizer.average else ()
        first = TrainState(params, slots, jnp.int32(0), jnp.float32(0), jnp.bool_(False), average=average)
        return first._replace(**self.init_task_state())

    def init_task_state(self) -> dict[str, Any]:
        """Of a first state, what `carried` moves."""
        return {}

    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state, without making it."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._first.out_info)

    def gradients(self, state: TrainState, host: HostBatch, table: TitleTable) -> tuple[Any, Sums]:
        """Gradients of the mean loss over the global batch, and its sums; inside a mapped step."""
        parts, shared = self.parts(len(host.valid)), self.shared(state, host, table)
        if parts == 1 and not self.splits:
            found = self._part(state, None, host, table, 0, 1, shared)
            grads, sums = psum_replicated((found[0][0], found[1]))
        else:
            grads, sums = psum_replicated(self._parts(state, host, table, parts, shared))
        count = jnp.maximum(sums["loss"][1], 1)
        return jax.tree.map(lambda g: g / count.astype(g.dtype), grads), sums

    def _parts(
        self, state: TrainState, host: HostBatch, table: TitleTable, parts: int, shared: Any
    ) -> tuple[Any, Sums]:
        """Gradients of the summed loss over a device's share, part by part, and its sums."""
        stacked = jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), host)
        catalogue, pull = None, None
        if self.projects_once(len(host.valid)):
            catalogue, pull = jax.vjp(lambda params: self.catalogue(params, table, shared), state.params)

        def add(so_far: Any, part: tuple[jax.Array, HostBatch]) -> tuple[Any, Sums]:
            more, sums = self._part(state, catalogue, part[1], table, part[0], parts, shared)
            return jax.tree.map(jnp.add, so_far, more), sums

        nothing = jax.tree.map(  # a sum over many parts, which bfloat16 would stop adding to
            lambda x: jnp.zeros(x.shape, at_least_float32(x.dtype)),
            (split_sharded(state.params)[1], catalogue),
        )
        (grads, of_catalogue), each = jax.lax.scan(add, nothing, (jnp.arange(parts), stacked))
        if pull is not None:
            of_catalogue = jax.tree.map(lambda g, x: g.astype(x.dtype), of_catalogue, catalogue)
            dealt, others = split_sharded(pull(of_catalogue)[0])
            grads = merge_sharded(dealt, jax.tree.map(jnp.add, grads, others))
        return grads, jax.tree.map(lambda x: x.sum(0), each)

    def _part(
        self, state: TrainState, catalogue: Any, host: HostBatch, table: TitleTable,
        part: jax.Array | int, parts: int, shared: Any,
    ) -> tuple[tuple[Any, Any], Sums]:  # fmt: skip
        """Gradients of the summed loss over one of a device's parts, for catalogue and parameters, but for
        what is dealt, which the catalogue was made of; and its sums."""
        rows = example_rows(len(host.valid), part, parts)
        key = rng.row_keys(self.config.train.seed, state.step, rows)

        dealt, others = split_sharded(state.params)

        def loss(others: Any, catalogue: Any) -> tuple[jax.Array, Sums]:
            return self.summed_loss(merge_sharded(dealt, others), catalogue, state, host, table, key, shared)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(others, catalogue)

    def train_step(self, state: TrainState, host: HostBatch, table: TitleTable) -> tuple[TrainState, Sums]:
        """One step on this device's share; inside `parallel.map_over_devices`."""
        grads, sums = self.gradients(state, host, table)
        params, slots = optimizer.step(
            self.config.optimizer, grads, state.optimizer, state.params,
            value=state.validation, fresh=state.fresh,
        )  # fmt: skip
        one = jnp.float32(1)
        sums |= {
            "gradient_norm": (global_norm(grads), one),
            "learning_rate": (optimizer.learning_rate(slots, self.config.optimizer), one),
        }
        average = state.average
        if average:
            average = optimizer.averaged(self.config.optimizer, average, params, state.step)
        after = state._replace(
            params=params, optimizer=slots, step=state.step + 1, fresh=jnp.bool_(False), average=average
        )
        return self.update_task_state(state, after, sums)


def global_norm(gradients: Any) -> jax.Array:
    """Of the whole gradient, of which each device has what is dealt to it; inside a mapped step."""
    dealt, others = split_sharded(gradients)
    if not jax.tree.leaves(dealt):
        return optimizer.norm(gradients)
    return jnp.sqrt(optimizer.norm(others) ** 2 + jax.lax.psum(optimizer.norm(dealt) ** 2, AXIS))


def mean_metrics(sums: Sums) -> dict[str, float]:
    """Reads (sum, count) pairs and divides; NaN where nothing counted. With a gate, also how its experts
    are used: `losses.gate_use`."""
    host = jax.device_get(sums)
    out = {name: float(s / n) if n else float("nan") for name, (s, n) in host.items()}
    return out | ranking.gate_statistics(out)


def count_parameters(params: Any) -> int:
    """How many numbers a tree of parameters holds."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
