"""Preference task: a policy over next titles is trained further by rewards of what users chose."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.heads import REWARD, labels_read
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.core.errors import InputError
from jaxrec.losses.full_softmax import softmax
from jaxrec.losses.preference import (
    Choices,
    Objective,
    preference_loss,
    soft_value_loss,
    value_loss,
)
from jaxrec.models.generative.policy import Facts, Heads, Policy
from jaxrec.models.layers import rng
from jaxrec.models.layers.dense import applied
from jaxrec.runtime.mesh import AXIS
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.outputs import Protocols, Sums
from jaxrec.tasks.preference import inputs
from jaxrec.tasks.ranking_inputs import decode

_PRIOR = 3.0  # rewards that the mean of all users counts as, in the mean of a user
_TITLES = 64  # titles whose rewards are predicted at a time
_BOOTSTRAP = rng.layer_id(("bootstrap",))
_POISSON = (0.36788, 0.73576, 0.91970, 0.98101, 0.99634)  # distribution function of a Poisson mean of 1


class BatchRewards(NamedTuple):
    """Rewards of the global batch.

    Attributes:
        mean: Mean reward.
        soft: beta log of the mean of exp(reward / beta).
    """

    mean: jax.Array
    soft: jax.Array


class _Heads(NamedTuple):
    """Outputs of a policy at the positions of windows.

    Attributes:
        log_pi: [B, L] log probability of the target.
        q: [B, L] value Q of the target, and Q minus its logsumexp; None but for the objective "cql".
        baseline: [B, L] the baseline V.
        rewards: [M, B, L] rewards of the target by the reward models.
    """

    log_pi: jax.Array
    q: tuple[jax.Array, jax.Array] | None
    baseline: jax.Array
    rewards: jax.Array


@dataclass(frozen=True, eq=False)
class PreferenceTask(NextItemTask):
    """The objective `config.post` on windows of sequences whose positions have rewards.

    The loss of a step is the weighted mean of -log pi over positions. To the sum the task adds those of the
    baseline and of the reward models, whose parameters the weighted mean does not reach. Adam divides by
    their scale, so that they need no normaliser of their own.
    """

    def check(self) -> None:
        """Raise InputError if the rows lack a label of the reward, or know it nowhere."""
        post = self.config.post
        for label in labels_read(REWARD + post.reward, self.config) if post.reward else ():
            where = f"post.reward={post.reward!r} reads label {label.name!r}"
            if label.name not in self.layout.labels:
                stored = ", ".join(self.layout.labels) or "no label"
                raise InputError(f"{where}, but the dataset's rows store {stored}")
            if not self.label_shares.get(label.name, 1.0):
                raise InputError(f"{where}, which is known at none of the training targets")

    def protocols(self) -> Protocols:
        """Return the protocols of `NextItemTask`, and the truth among the usual lists."""
        return super().protocols()._replace(usual_truth=True)

    @property
    def baseline(self) -> str:
        """Name of the baseline that the objective subtracts."""
        return self.config.post.baseline if self.config.post.objective == "exponential" else "zero"

    @cached_property
    def model(self) -> Policy:
        """Policy of the config, on the dataset's features."""
        m, name = self.config.model, self.baseline
        heads = Heads(name in ("value", "soft"), name == "title", self.config.post.reward_models)
        return Policy(m.dtype, self.layout.features, self.layout.num_titles, m, heads=heads)

    def divisor(self, count: jax.Array) -> jax.Array:
        """Return the sum of the weights, which may be below 1; 1 where no position has a weight."""
        return jnp.where(count > 0, count, jnp.ones_like(count))

    def device_context(
        self, task_state: Any, step: jax.Array, host: HostBatch, table: TitleTable
    ) -> BatchRewards:
        """Return the mean reward of the global batch, around which values and reward models predict."""
        rows = decode(host.words, self.layout.row_dtype())
        rewards, post = inputs.row_rewards(rows, self.config, self.layout), self.config.post
        known = rewards.known & jnp.asarray(host.valid)[:, None]
        high = jax.lax.pmax(jnp.where(known, rewards.reward, -jnp.inf).max(), AXIS)
        high = jnp.where(jnp.isfinite(high), high, 0.0)
        total, exponential, count = jax.lax.psum(
            (
                jnp.where(known, rewards.reward, 0.0).sum(),
                jnp.where(known, jnp.exp((rewards.reward - high) / post.beta), 0.0).sum(),
                known.sum(),
            ),
            AXIS,
        )
        count = jnp.maximum(count, 1)
        tiny = jnp.finfo(exponential.dtype).tiny
        return BatchRewards(total / count, high + post.beta * jnp.log(jnp.maximum(exponential / count, tiny)))

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: Any, step: jax.Array,
        key: jax.Array, projections: Any, context: BatchRewards,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the summed loss of the objective and of the heads, and sums of metrics; see `Task.loss`."""
        x = inputs.training(host.words, self.layout, self.config, self.size, key)
        valid_Bx1 = jnp.asarray(host.valid)[:, None]
        windows = x.windows._replace(target=jnp.where(valid_Bx1, x.windows.target, 0))
        x = x._replace(windows=windows, known=x.known & valid_Bx1)
        projections = self.project_titles(params, table) if projections is None else projections
        out = self._heads(params, x, projections, key, (context, self.candidates(table)))
        choices = Choices(
            out.log_pi, windows.target > 0, x.reward, x.known, out.baseline, *(out.q or (None, None))
        )
        objective = preference_loss(self._with_source(choices, out.rewards), self.config.post)
        of_heads, sums = self._head_losses(choices, out.rewards, x.user)
        return objective.total + of_heads, _metrics(objective, choices) | sums

    def _heads(
        self, params: Any, x: inputs.RewardWindows, projections: Any, key: jax.Array,
        of_batch: tuple[BatchRewards, jax.Array | None],
    ) -> _Heads:  # fmt: skip
        """Return the outputs of the policy and of its heads at every position.

        `of_batch` holds the rewards of the batch and the mask from `candidates`.
        """
        context, titles_V = of_batch
        variables: Any = {"params": params}
        target_BxL, config = x.windows.target, self.config.next_item
        state_BxLxD = applied(Policy.__call__, self.model, params)(x.windows.window, projections, key)
        candidates_VxD: Any = self.model.apply(variables, projections, method="candidates")
        budget = config.logits_budget_mib * 2**20

        def log_softmax(temperature: float) -> jax.Array:
            inputs = state_BxLxD, candidates_VxD, target_BxL, temperature, budget, x.played, titles_V
            return -softmax(*inputs)

        log_pi_BxL, q = log_softmax(config.temperature), None
        if self.config.post.objective == "cql":
            scale = self.config.post.tau / config.temperature
            logit_BxL = jnp.einsum("bld,bld->bl", state_BxLxD, candidates_VxD[target_BxL])
            q = context.mean + scale * logit_BxL.astype(log_pi_BxL.dtype), log_softmax(1 / scale)
        shallow = (lambda y: y) if self.config.post.reward_gradient else jax.lax.stop_gradient
        state, title = shallow(state_BxLxD), shallow(candidates_VxD)[target_BxL]
        of_models: Any = self.model.apply(variables, state, title, method="rewards")
        mean_BxL = (x.earlier_sum + _PRIOR * context.mean) / (x.earlier_count + _PRIOR)
        baseline: Any = jnp.zeros_like(mean_BxL)
        if self.baseline == "user":
            baseline = mean_BxL
        elif self.baseline == "title":
            values_V: Any = self.model.apply(variables, method="title_values")
            baseline = context.mean + values_V[target_BxL]
        elif self.baseline != "zero":
            facts = Facts(mean_BxL - context.mean, x.earlier_count)
            centre = context.mean if self.baseline == "value" else context.soft
            value_BxL: Any = self.model.apply(variables, state, facts, method="value")
            baseline = centre + value_BxL
        return _Heads(log_pi_BxL, q, baseline, context.mean + of_models)

    def reward_scores(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        """Return the mean prediction [B, V] of the reward models, relative to the mean reward of all users.

        Titles are scored in blocks, so that the pairs of a batch and all titles are never in memory at once.

        Args:
            params: Parameters of the model.
            host: [B, words] packed query rows.
            table: Features of all titles.
        """
        state_BxD, candidates_VxD = self.encode_queries(params, host, table)
        V, D = candidates_VxD.shape
        blocks_NxSxD = jnp.pad(candidates_VxD, ((0, -V % _TITLES), (0, 0))).reshape(-1, _TITLES, D)

        def block(title_SxD: jax.Array) -> jax.Array:
            pair = jnp.broadcast_arrays(state_BxD[:, None], title_SxD[None])
            rewards_MxBxS: Any = self.model.apply({"params": params}, *pair, method="rewards")
            return rewards_MxBxS.mean(0)

        rewards_NxBxS = jax.lax.map(block, blocks_NxSxD)
        return jnp.moveaxis(rewards_NxBxS, 0, 1).reshape(len(state_BxD), -1)[:, :V]

    def _with_source(self, choices: Choices, rewards_MxBxL: jax.Array) -> Choices:
        """Return the choices with the rewards of `post.source`."""
        post = self.config.post
        if post.source == "observed":
            return choices
        rewards_MxBxL = jax.lax.stop_gradient(rewards_MxBxL)
        reward = rewards_MxBxL.mean(0)
        if post.source == "ensemble":
            reward = reward - post.pessimism * rewards_MxBxL.std(0)
        return choices._replace(reward=reward, known=choices.chosen)

    def _head_losses(
        self, choices: Choices, rewards_MxBxL: jax.Array, user_B: jax.Array
    ) -> tuple[jax.Array, Sums]:
        """Return the summed losses of the baseline and of the reward models, and their metrics."""
        total, sums, count = jnp.zeros(()), {}, choices.known.sum()
        if self.baseline in ("title", "value"):
            loss = value_loss(choices.baseline, choices).sum()
            total, sums["value_error"] = total + loss, (2 * loss, count)
        elif self.baseline == "soft":
            loss = soft_value_loss(choices.baseline, choices, self.config.post.beta).sum()
            total, sums["soft_value_loss"] = total + loss, (loss, count)
        if len(rewards_MxBxL):
            weight_MxBx1 = self._bootstrap(user_B, len(rewards_MxBxL))[:, :, None]
            losses = jax.vmap(value_loss, (0, None))(rewards_MxBxL, choices)
            total = total + (weight_MxBx1 * losses).sum()
            sums["reward_error"] = 2 * losses.mean(0).sum(), count
        return total, sums

    def _bootstrap(self, user_B: jax.Array, models: int) -> jax.Array:
        """Return the weights [M, B] of users in the bootstrap samples of the reward models.

        A weight is a Poisson number of mean 1 (Poisson bootstrap), a function of the user, the model and
        `train.seed`. A single model has all users.
        """
        if models == 1:
            return jnp.ones((1, len(user_B)))
        uniform_BxM = rng.uniform((models,), rng.row_keys(self.config.train.seed, 0, user_B), _BOOTSTRAP)
        return (uniform_BxM.T[..., None] > jnp.asarray(_POISSON)).sum(-1).astype(jnp.float32)

    def update_task_state(
        self, task_state: Any, params: Any, step: jax.Array, sums: Sums
    ) -> tuple[Any, Sums]:
        """Return the state, and the sums with the effective sample size as a share of the positions.

        The effective sample size of weights w is (sum w)^2 / sum w^2 (Kish 1965).
        """
        (squares, count), (total, _) = sums.pop("squared_weight"), sums["weight"]
        share = jnp.square(total) / jnp.maximum(squares, jnp.finfo(squares.dtype).tiny)
        return task_state, sums | {"effective_share": (share, count)}


def _metrics(objective: Objective, choices: Choices) -> Sums:
    """Return sums and counts of the objective and its weights; the count of the loss is their sum."""
    chosen = choices.chosen.sum()
    return {
        "loss": (objective.total, objective.weight.sum()),
        "nll": (-jnp.where(choices.chosen, choices.log_pi, 0.0).sum(), chosen),
        "reward": (jnp.where(choices.known, choices.reward, 0.0).sum(), choices.known.sum()),
        "weight": (objective.weight.sum(), chosen),
        "squared_weight": (jnp.square(objective.weight).sum(), chosen),
        "clipped": (objective.clipped.sum(), chosen),
    }
