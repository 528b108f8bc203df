"""Generative task: a decoder writes the next titles of a sequence as their codes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxrec.codes.trie import allow
from jaxrec.config.rules.post import PAIRS
from jaxrec.config.schema import Post
from jaxrec.core.batch import HostBatch, TitleTable, TitleTrie
from jaxrec.core.ids import CATALOGUE, FIRST_TITLE
from jaxrec.models.generative.beam_search import FoundSessions, FoundTitles
from jaxrec.models.generative.generator import Generator
from jaxrec.models.generative.trie_steps import CodedTitles
from jaxrec.models.layers import rng
from jaxrec.models.layers.dense import applied
from jaxrec.models.next_item import ItemWindow
from jaxrec.tasks import next_item_inputs
from jaxrec.tasks.generative import pairs, sessions
from jaxrec.tasks.generative.places import Places, draw_places
from jaxrec.tasks.next_item import NextItemTask
from jaxrec.tasks.outputs import KeptParameters, PolicyInputs, Protocols, Sums, TitleScores
from jaxrec.tasks.preference.compared import FixedPolicy
from jaxrec.tasks.preference.inputs import check_labels, check_pairs

_DROPOUT = rng.layer_id(("codes", "dropout"))


@dataclass(frozen=True, eq=False)
class GenerativeTask(NextItemTask):
    """Cross-entropy of the codes of next titles at `codes.places` positions of each window.

    With `codes.titles` above 1 the targets of a position are the titles of the session that follows, and the
    sessions of a low mean reward are left out. With an objective of pairs, `config.post`, the positions that
    have one are trained by it, see `pairs`.

    The trie of all codes is among the features of titles, so that a program is the same for all codes of one
    shape. Evaluations score all titles by their exact log probabilities; recommendations take the titles of
    `codes.beam` beams, or those of the best beam of sessions.
    """

    def check(self) -> None:
        """Raise InputError if the rows lack pairs, or a label of the sessions' reward."""
        check_pairs(self.config, self.layout)
        check_labels("codes.reward", self.config.codes.reward, self.config, self.layout, self.label_shares)

    @cached_property
    def model(self) -> Generator:
        """Model of the config, on the dataset's features."""
        m = self.config.model
        return Generator(m.dtype, self.layout.features, self.layout.num_titles, m, codes=self.config.codes)

    def protocols(self) -> Protocols:
        """Return ranking among all titles, by NDCG@10; with rewards the truth is among the usual lists."""
        finds = ("best",) if self.config.codes.titles == 1 else ()  # pairs are of single titles
        return Protocols(
            (),
            (CATALOGUE, "ndcg@10"),
            is_policy=True,
            usual_truth=bool(self.config.rewards),
            candidates=finds,
        )

    @property
    def kept_parameters(self) -> KeptParameters:
        """Parameters of the start for pairs; see `Task`."""
        return KeptParameters(self.config.post.objective in PAIRS)

    def with_kept(self, context: Any, reference: Any, old: Any, table: TitleTable) -> Any:
        """Return the model of the start in place of the context, for pairs; see `Task`."""
        if not self.kept_parameters.reference:
            return context
        return FixedPolicy(reference, self.project_titles(reference, table))

    def divisor(self, count: jax.Array) -> jax.Array:
        """Return the count of the loss, a scalar; of pairs the sum of the weights, which may be below 1."""
        if not self.kept_parameters.reference:
            return super().divisor(count)
        return jnp.where(count > 0, count, jnp.ones_like(count))

    def device_context(self, task_state: Any, step: jax.Array, host: HostBatch, table: TitleTable) -> Any:
        """Return the mean reward from which on sessions are trained; None for single titles."""
        if self.config.codes.titles == 1:
            return None
        return sessions.middle_reward(host, self.layout, self.config)

    def loss(
        self, params: Any, host: HostBatch, table: TitleTable, task_state: Any, step: jax.Array,
        key: jax.Array, projections: Any, context: Any,
    ) -> tuple[jax.Array, Sums]:  # fmt: skip
        """Return the loss summed over the drawn positions, and sums of metrics; see `Task.loss`.

        The metrics are the loss, its terms by level, and the load of the experts: the largest share of the
        tokens that an expert has, times the number of experts. Of sessions there is
        the share that is trained. Those of pairs are in `compared.pair_metrics`.
        """
        codes = self.config.codes
        projections = self.project_titles(params, table) if projections is None else projections
        if isinstance(context, FixedPolicy):
            x = pairs.pair_places(self, host, key)
            return pairs.pair_loss(
                self.model, self.config.post, params, context, x, projections, trie_of(table)
            )
        windows, places, kept = self._targets(host, key, context)
        key_BxPx2 = rng.fold_in(rng.fold_in(key, jnp.uint32(_DROPOUT))[:, None], jnp.arange(codes.places))
        out: CodedTitles = applied(Generator.chosen, self.model, params)(
            windows.window, projections, trie_of(table), *places, key, key_BxPx2
        )
        has = places.target > 0  # [B, P], or [B, P, m] of sessions
        loss, count = -jnp.where(has, out.log_pi, 0.0).sum(), has.sum()
        levels_T = -jnp.where(has[..., None], out.levels, 0.0).sum(tuple(range(has.ndim)))
        sums: Sums = {"loss": (loss, count)} | kept
        sums |= {f"loss_level_{i + 1}": (level, count) for i, level in enumerate(levels_T)}
        return loss, sums | self._load(out.decoded.experts, has)

    def _targets(
        self, host: HostBatch, key: jax.Array, least: jax.Array | None
    ) -> tuple[next_item_inputs.TargetWindows, Places, Sums]:
        """Return windows, the positions that are trained, and the share of sessions that are.

        Args:
            host: Packed rows.
            key: [B, 2] uint32 keys.
            least: Least mean reward of a session; None for single titles.
        """
        sampling, codes, valid_Bx1 = self.config.sampling, self.config.codes, jnp.asarray(host.valid)[:, None]
        if least is None:
            windows, *_ = next_item_inputs.row_windows(host.words, self.layout, sampling, self.size, key)
            return windows, draw_places(jnp.where(valid_Bx1, windows.target, 0), codes.places, key), {}
        windows, following = sessions.after_positions(host.words, self.layout, self.config, self.size, key)
        is_session = valid_Bx1 & (windows.target > 0)
        is_kept = is_session & (following.mean >= least)
        places = draw_places(jnp.where(is_kept, windows.target, 0), codes.places, key)
        title_BxPxm = jnp.take_along_axis(following.title, places.position[..., None], axis=1)
        title_BxPxm = jnp.where(places.target[..., None] > 0, title_BxPxm, 0)
        return (
            windows,
            Places(places.position, title_BxPxm),
            {"sessions_kept": (is_kept.sum(), is_session.sum())},
        )

    def _load(self, experts: tuple[jax.Array, ...], has: jax.Array) -> Sums:
        """Return the tokens of each expert over all layers, as shares of all choices."""
        if not experts:
            return {}
        E, depth = self.config.codes.experts, self.config.codes.levels + 1
        weight_N = jnp.repeat(has.reshape(-1), depth).astype(jnp.float32)
        load_E = jnp.zeros(E)
        for expert_Nx2 in experts:
            load_E = load_E.at[expert_Nx2].add(weight_N[:, None])
        choices = weight_N.sum() * len(experts) * experts[0].shape[1]
        return {f"expert_load_{e}": (load_E[e], choices) for e in range(E)}

    def _scored(self, method: Any, params: Any, host: HostBatch, table: TitleTable, *arguments: Any) -> Any:
        """Return a method of the model at the newest positions of queries."""
        window, _ = next_item_inputs.queries(host.words, self.layout, self.size)
        trie = trie_of(table)
        return applied(method, self.model, params)(
            window, self.project_titles(params, table), trie, *arguments
        )

    def score_all_titles(
        self, params: Any, host: HostBatch, table: TitleTable, heads: tuple[str, ...] = ()
    ) -> TitleScores:
        """Return the log probabilities [B, V] of all titles; see `Task`."""
        _, rows = next_item_inputs.queries(host.words, self.layout, self.size)
        scores_BxV = self._scored(Generator.every, params, host, table)
        return TitleScores({"next_item": scores_BxV}, rows["target"][:, 0], rows["history_title"])

    def policy_logits(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        """Return the log probabilities [B, V] of all titles."""
        return self._scored(Generator.every, params, host, table)

    def beam(self, params: Any, host: HostBatch, table: TitleTable) -> FoundTitles:
        """Return the titles of `codes.beam` beams of queries."""
        return self._scored(Generator.beam, params, host, table, self.config.codes.beam)

    def beams_at(
        self, params: Any, window: ItemWindow, table: TitleTable, played_BxLxP: jax.Array, width: int
    ) -> FoundTitles:
        """Return the titles [B, L, W] of the best beams after every position, none of which was played.

        Args:
            params: Parameters of the model.
            window: Windows of L positions.
            table: Features of all titles.
            played_BxLxP: int32 ids of the titles that were played, 0 for none.
            width: Number of beams W.
        """
        trie = trie_of(table)

        def without(id_BxP: jax.Array) -> TitleTrie:
            allowed_BxV = jnp.ones((len(id_BxP), len(trie.node)), bool)
            return allow(trie, allowed_BxV.at[jnp.arange(len(id_BxP))[:, None], id_BxP].set(False), jnp)

        projections = self.project_titles(params, table)
        return applied(Generator.beams_at, self.model, params)(
            window, projections, without, played_BxLxP, width
        )

    def pair_candidates(
        self, params: Any, table: TitleTable, x: PolicyInputs, key_Bx2: jax.Array, post: Post
    ) -> jax.Array:
        """Return the titles [B, L, n] of the best beams; see `Task`."""
        return self.beams_at(params, x.window, table, x.played_BxLxP, post.samples).id_BxW

    def sessions(self, params: Any, host: HostBatch, table: TitleTable) -> FoundSessions:
        """Return the sessions of `codes.titles` titles of `codes.beam` beams of queries."""
        return self._scored(Generator.sessions, params, host, table, self.config.codes.beam)

    def encode_queries(self, params: Any, host: HostBatch, table: TitleTable) -> Any:
        """Return the log probabilities [B, V] of the titles of the beams, -inf of other titles.

        Of sessions these are the titles of the best one, each with the log probability of the session up to
        it, so that they are in the order of the session.
        """
        if self.config.codes.titles > 1:
            titles = FoundTitles(*(x[:, 0] for x in self.sessions(params, host, table)))
        else:
            titles = self.beam(params, host, table)
        B, V = len(titles.id_BxW), max(self.layout.num_titles, table.categories.shape[0])
        scores_BxV = (
            jnp.full((B, V), -jnp.inf).at[jnp.arange(B)[:, None], titles.id_BxW].set(titles.log_pi_BxW)
        )
        return scores_BxV.at[:, :FIRST_TITLE].set(-jnp.inf)

    def score_titles(
        self, params: Any, encoded: Any, table: TitleTable, head: str, id_N: jax.Array
    ) -> jax.Array:
        return encoded[:, id_N]

    def embed_users(self, params: Any, host: HostBatch, table: TitleTable) -> jax.Array:
        """Return the states [B, D] of the users of queries."""
        window, _ = next_item_inputs.queries(host.words, self.layout, self.size)
        h_BxLxD = applied(Generator.__call__, self.model, params)(window, self.project_titles(params, table))
        return h_BxLxD[:, -1]

    @property
    def dot_heads(self) -> tuple[str, ...]:
        """Names of heads that are products of vectors: none."""
        return ()


def trie_of(table: TitleTable) -> TitleTrie:
    """Return the trie of a table of titles with codes."""
    assert table.trie is not None, "the titles have no codes"
    return table.trie
