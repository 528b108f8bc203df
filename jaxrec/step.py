"""The pure training step, written for one device, and the first state.

Gradients are of the local *sum* of the loss; sums and the count meet in a `psum` outside the
differentiated function, and one division makes the mean, so shares of unequal count cannot bend it.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec import batch as batches
from jaxrec import losses, optimizer, weighting
from jaxrec.config import Config
from jaxrec.config_check import mix_counts
from jaxrec.nn import draws
from jaxrec.nn.experts import GateFields, temperature
from jaxrec.nn.layers import at_least_float32
from jaxrec.nn.pooling import ExpertFields
from jaxrec.nn.recommender import Recommender
from jaxrec.parallel import AXIS, rows_of_share
from jaxrec.schema import Batch, HostBatch, Layout, TitleTable

_CPU_PART = 256  # examples at a time on a CPU: what they leave behind has to stay near its caches
_CPU_TARGET_PART = 16  # where every candidate has a sequence of its own

Sums = dict[str, tuple[Any, Any]]  # metric -> (sum, count), divided once by who reads them


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
    def judged(self) -> Any:
        """The parameters that validation, test and whoever loads a checkpoint score with."""
        return self.average or self.params


@dataclass(frozen=True)
class Program:
    """A config and a dataset's layout as pure functions. `threshold` is the dataset's mean completion."""

    config: Config
    layout: Layout
    threshold: float
    steps_per_epoch: int
    total_steps: int

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        o = self.config.objective
        weights = {"ctr": o.ctr, "ranking": o.ranking, "completion": o.regression}
        return tuple(task for task, weight in weights.items() if weight > 0)

    @property
    def weighed(self) -> tuple[str, ...]:
        """The terms of Eq. 15 that the objective weighs against one another."""
        return tuple(task for task in losses.TASKS if getattr(self.config.objective, task) > 0)

    @property
    def fixed_weights(self) -> jax.Array:
        """[T], of `weighed`."""
        weights = [getattr(self.config.objective, task) for task in self.weighed]
        return jnp.asarray(weights, at_least_float32(self.config.model.dtype))

    def moving_weights(self, params: Any, state: TrainState) -> losses.Moving | None:
        """The weights of `weighed` in training, and what joins the loss; None where they stay fixed."""
        moves, joins = self.config.objective.weighting, jnp.float32(0)
        if moves == "fixed":
            return None
        if moves == "uncertainty":
            weights, joins = weighting.uncertainty(params[weighting.PARAMETERS])
        else:
            epoch = state.step // self.steps_per_epoch
            weights = weighting.averaging(state.averages, epoch, self.fixed_weights)
        return dict(zip(self.weighed, weights, strict=True)), joins

    @property
    def balances(self) -> bool:
        return self.config.objective.balance > 0 and len(self.config.model.experts) > 1

    @cached_property
    def model(self) -> Recommender:
        m = self.config.model
        return Recommender(
            dtype=m.dtype,
            features=self.layout.features,
            titles=self.layout.titles,
            width=m.width,
            experts=tuple(
                ExpertFields(e.window, e.layers, e.heads, e.feedforward, e.dropout, e.kind, m.attention)
                for e in m.experts
            ),
            gate=GateFields(m.gate.hidden, m.gate.noise),
            dropout=m.dropout,
            matcher=m.matcher,
            matcher_product=m.matcher_product,
            tasks=self.tasks,
            head=m.head,
            reads=m.reads,
            embedding_spread=m.embedding_spread,
            position=m.position,
            target_in_sequence=m.target_in_sequence,
            retrieval=m.retrieval,
            retrieval_negatives=self.config.objective.retrieval_negatives,
        )

    @cached_property
    def view(self) -> batches.View:
        s = self.config.sampling
        return batches.View(self.layout, self.windows, s.history_keeps_abandoned, s.unknown_rate)

    @cached_property
    def windows(self) -> tuple[int, ...]:
        """How many titles experts read, each once, the longest first."""
        return tuple(sorted({e.window for e in self.config.model.experts}, reverse=True))

    @property
    def packs(self) -> bool:
        """Whether histories may share rows; where candidates join them, a request has rows of its own."""
        return not self.config.model.target_in_sequence

    def parts(self, share: int) -> int:
        """How many parts a device's `share` of a batch is worked through in: the fewest that divide it and
        hold `train.microbatch` examples at most."""
        on_cpu = _CPU_PART if self.packs else _CPU_TARGET_PART
        most = self.config.train.microbatch or (on_cpu if jax.default_backend() == "cpu" else share)
        return next(n for n in range(-(-share // most), share + 1) if share % n == 0)

    def projects_once(self, share: int) -> bool:
        """Whether the catalogue has fewer titles than a share's parts look up together."""
        return self.layout.titles < share * (self.config.sampling.negatives + self.config.sampling.next_k)

    @cached_property
    def score_task(self) -> str:
        """The head that ranks at evaluation."""
        wanted = self.config.evaluate.score
        return wanted if wanted != "auto" else "ranking" if "ranking" in self.tasks else "ctr"

    def init(self) -> TrainState:
        """The first state, from train.seed; on the host's default device."""
        return jax.jit(self._first_state)(jax.random.key(self.config.train.seed))

    def _first_state(self, key: jax.Array) -> TrainState:
        """Traced as one program: run bit by bit, it would be a hundred small ones to compile. The key is an
        argument, so that every seed's is the same."""
        batch = jnp.zeros((1, self.layout.row_dtype().itemsize // 4), jnp.uint32)
        rows = batches.decode(batch, self.layout.row_dtype())
        candidates = jnp.zeros((1, 1), jnp.int32)
        table = TitleTable(*(jnp.zeros((self.layout.titles, self.layout.columns("title", k)), t)
                             for k, t in (("category", jnp.int32), ("number", jnp.float32))))  # fmt: skip
        request = batches.history(rows, self.view)
        params = self.model.init(key, request, candidates, table, 1.0)["params"]
        moves = self.config.objective.weighting
        if moves == "uncertainty":
            params = params | {weighting.PARAMETERS: weighting.log_variances(self.fixed_weights)}
        averages = weighting.no_averages(len(self.weighed)) if moves == "averaging" else ()
        tx = optimizer.make(self.config.optimizer)
        average = jax.tree.map(jnp.copy, params) if self.config.optimizer.average else ()
        zero, no = jnp.int32(0), jnp.bool_(False)
        experts = len(self.config.model.experts)
        dtype = at_least_float32(self.config.model.dtype)
        usage = jnp.full(experts, 1 / experts, dtype) if self.balances else ()
        return TrainState(params, tx.init(params), zero, jnp.float32(0), no, averages, average, usage)

    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state, without making it."""
        return jax.eval_shape(self.init)

    def temperature(self, step: jax.Array) -> jax.Array:
        g = self.config.model.gate
        return temperature(step, self.total_steps, g.start_temperature, g.temperature, g.anneal)

    def loss(
        self, params: Any, batch: Batch, table: TitleTable, tau: jax.Array | float, key: jax.Array | None,
        catalogue: Any = None, moving: losses.Moving | None = None, usage: jax.Array | None = None,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """The sum over valid examples of Eq. 15, and each metric's (sum, count). `catalogue` is the model's,
        where it was worked out before; `moving` is of `moving_weights`, `usage` of `losses.evenness`.
        Without, weights are the config's and nothing is balanced: so is the loss of validation, which the
        plateau compares between epochs."""
        candidates = jnp.concatenate([batch.positive, batch.negative], axis=1)
        out: Any = self.model.apply(
            {"params": params}, batch.history, candidates, table, tau, key, batch.positive.shape[1], catalogue
        )
        c = self.config
        return losses.objective(
            out, batch, c.objective, c.sampling, self.threshold, c.model.gate.target_entropy, moving, usage
        )

    def gradients(self, state: TrainState, host: HostBatch, table: TitleTable) -> tuple[Any, Sums]:
        """Gradients of the mean loss over the global batch, and its sums; inside a mapped step."""
        parts = self.parts(len(host.valid))
        if parts == 1:
            found = self._part(state, None, host, table, 0, 1)
            grads, sums = jax.lax.psum((found[0][0], found[1]), AXIS)
        else:
            grads, sums = jax.lax.psum(self._parts(state, host, table, parts), AXIS)
        count = jnp.maximum(sums["loss"][1], 1)
        return jax.tree.map(lambda g: g / count.astype(g.dtype), grads), sums

    def _parts(
        self, state: TrainState, host: HostBatch, table: TitleTable, parts: int
    ) -> tuple[Any, Sums]:  # fmt: skip
        """Gradients of the summed loss over a device's share, part by part, and its sums."""
        stacked = jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), host)
        catalogue, pull = None, None
        if self.projects_once(len(host.valid)):
            project = partial(self.model.apply, table=table, method="catalogue")
            catalogue, pull = jax.vjp(lambda params: project({"params": params}), state.params)

        def add(so_far: Any, part: tuple[jax.Array, HostBatch]) -> tuple[Any, Sums]:
            more, sums = self._part(state, catalogue, part[1], table, part[0], parts)
            return jax.tree.map(jnp.add, so_far, more), sums

        nothing = jax.tree.map(  # a sum over many parts, which bfloat16 would stop adding to
            lambda x: jnp.zeros(x.shape, at_least_float32(x.dtype)), (state.params, catalogue)
        )
        (grads, of_catalogue), each = jax.lax.scan(add, nothing, (jnp.arange(parts), stacked))
        if pull is not None:
            of_catalogue = jax.tree.map(lambda g, x: g.astype(x.dtype), of_catalogue, catalogue)
            grads = jax.tree.map(jnp.add, grads, pull(of_catalogue)[0])
        return grads, jax.tree.map(lambda x: x.sum(0), each)

    def _part(
        self, state: TrainState, catalogue: Any, host: HostBatch, table: TitleTable,
        part: jax.Array | int, parts: int,
    ) -> tuple[tuple[Any, Any], Sums]:  # fmt: skip
        """Gradients of the summed loss over one of a device's parts, for parameters and catalogue, and its
        sums."""
        rows = rows_of_share(len(host.valid), part, parts)
        key = draws.row_keys(self.config.train.seed, state.step, rows)
        sampling = self.config.sampling
        batch = batches.training(
            host.words, host.valid, self.view, mix_counts(sampling.mix, sampling.negatives), sampling.next_k,
            state.step // self.steps_per_epoch, key, host.packing,
        )  # fmt: skip
        tau = self.temperature(state.step)

        def loss(params: Any, catalogue: Any) -> tuple[jax.Array, Sums]:
            moving, usage = self.moving_weights(params, state), state.usage if self.balances else None
            return self.loss(params, batch, table, tau, key, catalogue, moving, usage)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(state.params, catalogue)

    def train_step(self, state: TrainState, host: HostBatch, table: TitleTable) -> tuple[TrainState, Sums]:
        """One step on this device's share; inside `parallel.map_over_devices`."""
        grads, sums = self.gradients(state, host, table)
        params, slots = optimizer.step(
            self.config.optimizer, grads, state.optimizer, state.params,
            value=state.validation, fresh=state.fresh,
        )  # fmt: skip
        one = jnp.float32(1)
        sums |= {
            "gradient_norm": (optimizer.norm(grads), one),
            "learning_rate": (optimizer.learning_rate(slots, self.config.optimizer), one),
            "temperature": (self.temperature(state.step), one),
        }
        moving, averages = self.moving_weights(state.params, state), state.averages
        if moving is not None:
            sums |= {f"weight_{task}": (weight, one) for task, weight in moving[0].items()}
        if averages:
            total = jnp.stack([sums[f"loss_{task}"][0] for task in self.weighed])
            ends = (state.step + 1) % self.steps_per_epoch == 0
            averages = weighting.add(averages, total, sums["loss"][1], ends)
        average = state.average
        if average:
            average = optimizer.averaged(self.config.optimizer, average, params, state.step)
        usage = state.usage
        if self.balances:
            of_gate = [sums[f"gate_{e}"] for e in range(len(usage))]
            usage = jnp.stack([total / jnp.maximum(count, 1) for total, count in of_gate]).astype(usage.dtype)
        no, step = jnp.bool_(False), state.step + 1
        return TrainState(params, slots, step, state.validation, no, averages, average, usage), sums


def means(sums: Sums) -> dict[str, float]:
    """Reads (sum, count) pairs and divides; NaN where nothing counted. With a gate, also how its experts
    are used: `losses.gate_use`."""
    host = jax.device_get(sums)
    out = {name: float(s / n) if n else float("nan") for name, (s, n) in host.items()}
    return out | losses.gate_use(out)


def parameters(params: Any) -> int:
    """How many numbers a tree of parameters holds."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
