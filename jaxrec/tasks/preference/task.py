"""Preference task: a policy over next titles is trained further by rewards of what users chose."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.config.rules.post import PAIRS, SHOWN
from jaxrec.config.schema import Post
from jaxrec.core.batch import HostBatch, TitleTable
from jaxrec.losses.full_softmax import softmax
from jaxrec.losses.preference import (
    Choices,
    Draws,
    Objective,
    Slates,
    advantages,
    preference_loss,
)
from jaxrec.models.generative.policy import Facts, Heads, Policy
from jaxrec.models.next_item import ItemWindow
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.outputs import KeptParameters, PolicyInputs, Protocols, Sums
from jaxrec.tasks.preference import compared, inputs
from jaxrec.tasks.preference.compared import Encoded, FixedPolicy
from jaxrec.tasks.preference.context import BatchContext, reward_context
from jaxrec.tasks.preference.head_losses import head_losses, metrics_of

_PRIOR = 3.0  # rewards that the mean of all users counts as, in the mean of a user
_TITLES = 64  # titles whose rewards are predicted at a time


class _Heads(NamedTuple):
    """Outputs of a policy at the positions of windows.

    Attributes:
        log_pi: [B, L] log probability of the target.
        q: [B, L] value Q of the target, and Q minus its logsumexp; None but for the objective "cql".
        baseline: [B, L] the baseline V.
        rewards: [M, B, L] rewards of the target by the reward models.
        encoded: Outputs of the policy.
    """

    log_pi: jax.Array
    q: tuple[jax.Array, jax.Array] | None
    baseline: jax.Array
    rewards: jax.Array
    encoded: Encoded


@dataclass(frozen=True, eq=False)
class PreferenceTask(NextItemTask):
    """The objective `config.post` on windows of sequences whose positions have rewards.

    The loss of a step is the weighted mean of -log pi over positions. To the sum the task adds those of the
    baseline and of the reward models, whose parameters the weighted mean does not reach. Adam divides by
    their scale, so that they need no normaliser of their own.
    """

    def check(self) -> None:
        """Raise InputError if the rows lack a label of the reward or pairs, or know the label nowhere."""
        post = self.config.post
        inputs.check_pairs(self.config, self.layout)
        inputs.check_shown(self.config, self.layout)
        inputs.check_labels("post.reward", post.reward, self.config, self.layout, self.label_shares)

    def protocols(self) -> Protocols:
        """Return the protocols of `NextItemTask`, and the truth among the usual lists."""
        return super().protocols()._replace(usual_truth=True, candidates=("drawn", "best"))

    @property
    def baseline(self) -> str:
        """Name of the baseline that the objective subtracts."""
        return self.config.post.baseline if self.config.post.objective in ("exponential", "ppo") else "zero"

    @property
    def kept_parameters(self) -> KeptParameters:
        """Parameters of the start for pairs and draws, of an earlier step for draws; see `Task`."""
        post = self.config.post
        if post.objective == "ppo":
            return KeptParameters(True, post.refresh, ("reward_*",))
        return KeptParameters(post.objective in PAIRS)

    def with_kept(self, context: BatchContext, reference: Any, old: Any, table: TitleTable) -> BatchContext:
        """Return the context with the fixed policies that the objective reads; see `Task`."""

        def policy(params: Any) -> FixedPolicy:
            return FixedPolicy(params, self.project_titles(params, table), context.has_title)

        kept = self.kept_parameters
        return context._replace(
            reference=policy(reference) if kept.reference else None, old=policy(old) if kept.refresh else None
        )

    @cached_property
    def model(self) -> Policy:
        """Policy of the config, on the dataset's features."""
        m, name = self.config.model, self.baseline
        of_state = name in ("value", "soft") or self.config.post.objective == SHOWN
        heads = Heads(of_state, name == "title", self.config.post.reward_models)
        return Policy(m.dtype, self.layout.features, self.layout.num_titles, m, heads=heads)

    def divisor(self, count: jax.Array) -> jax.Array:
        """Return the scalar sum of the weights, which may be below 1; 1 where no position has a weight."""
        return jnp.where(count > 0, count, jnp.ones_like(count))

    def device_context(
        self, task_state: Any, step: jax.Array, host: HostBatch, table: TitleTable
    ) -> BatchContext:
        """Return the mean reward of the global batch, around which values and reward models predict."""
        return reward_context(host, self.layout, self.config, self.candidates(table))

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: Any, step: jax.Array,
        key: jax.Array, projections: Any, context: BatchContext,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the summed loss of the objective and of the heads, and sums of metrics; see `Task.loss`."""
        x = inputs.training(host.words, self.layout, self.config, self.size, key)
        valid_Bx1 = jnp.asarray(host.valid)[:, None]
        windows = x.windows._replace(target=jnp.where(valid_Bx1, x.windows.target, 0))
        x = x._replace(windows=windows, known=x.known & valid_Bx1)
        projections = self.project_titles(params, table) if projections is None else projections
        if self.config.post.objective == "ppo":
            return self._loss_of_draws(params, x, projections, key, context)
        # Log-ratios to another policy have no dropout: its noise is no difference of policies.
        out = self._heads(params, x, projections, None if context.reference else key, context)
        choices = Choices(
            out.log_pi, windows.target > 0, x.reward, x.known, out.baseline, *(out.q or (None, None))
        )
        of_heads, sums = head_losses(choices, out.rewards, x.user, self.baseline, self.config)
        if context.reference is not None:
            objective, of_pairs = self._objective_of_pairs(x, out, context.reference)
            sums |= of_pairs
        elif x.shown is not None:
            offset_BxL = self._of_state(params, out.encoded.state, x, context)
            objective = self._objective_of_shown(
                x, x.shown, out, self._with_source(choices, out.rewards), offset_BxL
            )
        else:
            objective = preference_loss(self._with_source(choices, out.rewards), self.config.post)
        return objective.total + of_heads, metrics_of(objective, choices) | sums

    def _objective_of_pairs(
        self, x: inputs.RewardWindows, out: _Heads, reference: FixedPolicy
    ) -> tuple[Objective, Sums]:
        """Return the objective of the pairs of windows, and metrics: the log probabilities may both fall."""
        encoded, of_reference = out.encoded, compared.encode_fixed(self.model, reference, x.windows.window)
        winner, loser = x.winner, x.loser
        assert winner is not None and loser is not None  # `check` has passed
        temperature = self.config.next_item.temperature
        pairs = compared.pairs(encoded, of_reference, winner, loser, out.log_pi, temperature)
        pairs = pairs._replace(chosen=x.windows.target > 0)
        ids = jnp.stack([x.windows.target, winner, loser], axis=-1)
        logits = encoded.logits(ids) / temperature
        log_p = out.log_pi[..., None] + logits - logits[..., :1]
        metrics = compared.pair_metrics(pairs, log_p[..., 1], log_p[..., 2])
        return preference_loss(pairs, self.config.post), metrics

    def _objective_of_shown(
        self, x: inputs.RewardWindows, shown_BxLxn: jax.Array, out: _Heads, choices: Choices,
        offset_BxL: jax.Array,
    ) -> Objective:  # fmt: skip
        """Return the objective of the titles that were shown at the positions of windows."""
        ids = jnp.concatenate([x.windows.target[..., None], shown_BxLxn], axis=-1)
        logits = out.encoded.logits(ids) / self.config.next_item.temperature
        log_pi = out.log_pi[..., None] + logits - logits[..., :1]
        known = choices.known & (shown_BxLxn > 0).any(-1)
        shown = Slates(log_pi + offset_BxL[..., None], ids > 0, choices.reward, known)
        return preference_loss(shown, self.config.post)

    def _loss_of_draws(
        self, params: Any, x: inputs.RewardWindows, projections: Any, key: jax.Array, context: BatchContext
    ) -> tuple[jax.Array, Sums]:
        """Return the summed loss of titles that the old policy draws, and sums of metrics.

        The rewards are those of the reference's reward models, so that neither the policy nor its encoder
        changes them.
        """
        post, settings, target = self.config.post, self.config.next_item, x.windows.target
        assert context.reference is not None and context.old is not None
        encoded = compared.encode(self.model, params, x.windows.window, projections)
        policy = encoded._replace(has_title=context.has_title)
        reference, old = (
            compared.encode_fixed(self.model, fixed, x.windows.window)
            for fixed in (context.reference, context.old)
        )
        title_BxLxn, log_old = compared.draw(old, x.played, key, post.samples, settings)
        by = compared.follow(
            policy, reference if post.kappa else None, x.played, (title_BxLxn, target), settings
        )
        of_reference: Any = {"params": context.reference.params}
        drawn = reference.title[title_BxLxn]
        rewards: Any = self.model.apply(of_reference, reference.state, drawn, method="rewards_of_titles")
        reward = context.mean + compared.predicted(rewards, post)
        present = target > 0
        value, of_value, sums = None, jnp.zeros(()), {}
        if self.baseline == "value":
            value = self._value(params, policy.state, x, context)
            error = jnp.square(value[..., None] - reward).mean(-1)
            of_value = jnp.where(present, 0.5 * error, 0.0).sum()
            sums["value_error"] = 2 * of_value, present.sum()
        draws = Draws(by.of_draws, log_old, advantages(reward, value), by.kl, present)
        objective = preference_loss(draws, post)
        choices = Choices(by.of_target, present, reward.mean(-1), present, jnp.zeros_like(by.kl))
        if post.kappa:
            sums["kl"] = jnp.where(present, by.kl, 0.0).sum(), present.sum()
        return objective.total + of_value, metrics_of(objective, choices) | sums

    def pair_candidates(
        self, params: Any, table: TitleTable, x: PolicyInputs, key_Bx2: jax.Array, post: Post
    ) -> jax.Array:
        """Return the titles [B, L, n] that the policy draws, or its best ones; see `Task`."""
        encoded, settings = self.encode_fixed(params, table, x.window), self.config.next_item
        if post.candidates == "best":
            return compared.best(encoded, x.played_BxLxP, post.samples, settings)
        return compared.draw(encoded, x.played_BxLxP, key_Bx2, post.samples, settings)[0]

    def encode_fixed(self, params: Any, table: TitleTable, window: ItemWindow) -> Encoded:
        """Return the outputs of the policy at the positions of windows, without dropout."""
        fixed = FixedPolicy(params, self.project_titles(params, table), self.candidates(table))
        return compared.encode_fixed(self.model, fixed, window)

    def _shallow(self, x: jax.Array) -> jax.Array:
        """Return the input of a value or of a reward model, through which the encoder gets no gradient."""
        return x if self.config.post.reward_gradient else jax.lax.stop_gradient(x)

    def _value(
        self, params: Any, state_BxLxD: jax.Array, x: inputs.RewardWindows, context: BatchContext
    ) -> jax.Array:
        """Return the value [B, L] of states, expected or soft."""
        of_state = self._of_state(params, state_BxLxD, x, context)
        return of_state + (context.soft if self.baseline == "soft" else context.mean)

    def _of_state(
        self, params: Any, state_BxLxD: jax.Array, x: inputs.RewardWindows, context: BatchContext
    ) -> jax.Array:
        """Return the output [B, L] of the head "value" on states and earlier rewards."""
        facts = Facts(_user_means(x, context) - context.mean, x.earlier_count)
        out: Any = self.model.apply({"params": params}, self._shallow(state_BxLxD), facts, method="value")
        return out

    def _heads(
        self,
        params: Any,
        x: inputs.RewardWindows,
        projections: Any,
        key: jax.Array | None,
        context: BatchContext,
    ) -> _Heads:
        """Return the outputs of the policy and of its heads at every position."""
        variables: Any = {"params": params}
        target_BxL, config = x.windows.target, self.config.next_item
        encoded = compared.encode(self.model, params, x.windows.window, projections, key)
        state_BxLxD, candidates_VxD = encoded.state, encoded.title
        budget = config.logits_budget_mib * 2**20

        def log_softmax(temperature: float) -> jax.Array:
            inputs = state_BxLxD, candidates_VxD, target_BxL, temperature, budget, x.played, context.has_title
            return -softmax(*inputs)

        log_pi_BxL, q = log_softmax(config.temperature), None
        if self.config.post.objective == "cql":
            scale = self.config.post.tau / config.temperature
            logit_BxL = jnp.einsum("bld,bld->bl", state_BxLxD, candidates_VxD[target_BxL])
            q = context.mean + scale * logit_BxL.astype(log_pi_BxL.dtype), log_softmax(1 / scale)
        state, title = self._shallow(state_BxLxD), self._shallow(candidates_VxD)[target_BxL]
        of_models: Any = self.model.apply(variables, state, title, method="rewards")
        mean_BxL = _user_means(x, context)
        baseline: Any = jnp.zeros_like(mean_BxL)
        if self.baseline == "user":
            baseline = mean_BxL
        elif self.baseline == "title":
            values_V: Any = self.model.apply(variables, method="title_values")
            baseline = context.mean + values_V[target_BxL]
        elif self.baseline != "zero":
            baseline = self._value(params, state_BxLxD, x, context)
        return _Heads(log_pi_BxL, q, baseline, context.mean + of_models, encoded)

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
            rewards_MxBxS: Any = self.model.apply(
                {"params": params}, state_BxD, title_SxD[None], method="rewards_of_titles"
            )
            return rewards_MxBxS.mean(0)

        rewards_NxBxS = jax.lax.map(block, blocks_NxSxD)
        return jnp.moveaxis(rewards_NxBxS, 0, 1).reshape(len(state_BxD), -1)[:, :V]

    def _with_source(self, choices: Choices, rewards_MxBxL: jax.Array) -> Choices:
        """Return the choices with the rewards of `post.source`."""
        post = self.config.post
        if post.source == "observed":
            return choices
        reward = compared.predicted(jax.lax.stop_gradient(rewards_MxBxL), post)
        return choices._replace(reward=reward, known=choices.chosen)

    def update_task_state(
        self, task_state: Any, params: Any, step: jax.Array, sums: Sums
    ) -> tuple[Any, Sums]:
        """Return the state, and the sums with the effective sample size as a share of the positions.

        The effective sample size of weights w is (sum w)^2 / sum w^2 (Kish 1965).
        """
        (squares, count), (total, _) = sums.pop("squared_weight"), sums["weight"]
        share = jnp.square(total) / jnp.maximum(squares, jnp.finfo(squares.dtype).tiny)
        return task_state, sums | {"effective_share": (share, count)}


def _user_means(x: inputs.RewardWindows, context: BatchContext) -> jax.Array:
    """Return the means [B, L] of the users' earlier rewards, shrunk to that of all users."""
    return (x.earlier_sum + _PRIOR * context.mean) / (x.earlier_count + _PRIOR)
