"""Beam search for the most probable titles, and draws of titles, under a trie.

Beams are kept in the order of their nodes. Of equal scores the lower node is kept, at every level, and no
two beams have the same node, so that no title comes twice. A beam as wide as every level holds all prefixes
and gives the order of all titles.

Axis letters: B requests, W beams, M slots of children, V titles, n draws.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.batch import TitleTrie
from jaxrec.models.generative.decoder import Decoder, EncoderMemory
from jaxrec.models.generative.trie_steps import NEVER, child_log_pi, children
from jaxrec.models.layers import rng
from jaxrec.models.layers.attention import KeysValues

_DRAW = rng.layer_id(("draw", "token"))


class FoundTitles(NamedTuple):
    """Titles of requests with their log probabilities.

    Attributes:
        id_BxW: int32 ids, the most probable first; 0 where there are fewer titles than beams.
        log_pi_BxW: Log probabilities; -inf where the id is 0.
    """

    id_BxW: jax.Array
    log_pi_BxW: jax.Array


class FoundSessions(NamedTuple):
    """Sessions of m titles, of which no title comes twice in a session.

    Attributes:
        id_BxWxm: int32 ids, the most probable session first; 0 where there are fewer sessions than beams.
        log_pi_BxWxm: Log probability of the titles of a session up to each; -inf where the id is 0.
    """

    id_BxWxm: jax.Array
    log_pi_BxWxm: jax.Array


class _Beams(NamedTuple):
    """Beams in the middle of a search.

    Attributes:
        score: [B, W] log probabilities of the tokens so far.
        node: [B, W] int32 nodes of the current title.
        earlier: [B, W, j] int32 ids of the titles before it.
        scores: [B, W, j] log probabilities up to each of these titles.
    """

    score: jax.Array
    node: jax.Array
    earlier: jax.Array
    scores: jax.Array

    def of(self, beam_BxW: jax.Array) -> "_Beams":
        """Return the beams of some indices."""

        def take(x: jax.Array) -> jax.Array:
            index = beam_BxW.reshape(*beam_BxW.shape, *(1,) * (x.ndim - 2))
            return jnp.take_along_axis(x, index, axis=1)

        return jax.tree.map(take, self)


def session_search(
    decoder: Decoder, state_BxD: jax.Array, memory: EncoderMemory, trie: TitleTrie, width: int,
    titles: int,
) -> FoundSessions:  # fmt: skip
    """Return the sessions of the `width` best beams of each request, in one pass over all their tokens.

    Args:
        decoder: The decoder.
        state_BxD: States of the requests.
        memory: Outputs of the encoder, with a mask [B, 1, L].
        trie: Trie of all titles, or of the allowed ones.
        width: Largest number of beams W.
        titles: Number of titles m of a session.
    """
    B, depth = len(state_BxD), len(trie.levels)
    beams = _Beams(
        jnp.zeros((B, 1), jnp.float32), jnp.zeros((B, 1), jnp.int32),
        jnp.zeros((B, 1, 0), jnp.int32), jnp.zeros((B, 1, 0), jnp.float32),
    )  # fmt: skip
    x, caches = decoder.first_input(state_BxD[:, None]), None
    for slot in range(titles):
        beams = beams._replace(node=jnp.zeros_like(beams.node))
        for i, level in enumerate(trie.levels):
            decoded = decoder(x, memory, caches)
            closed = trie.node[beams.earlier][..., i] if slot else None
            among = children(level, beams.node, closed)
            log_pi = child_log_pi(level, decoder.logits(i, decoded.h_BxNxTxD[:, :, 0]), among)
            total_BxWM = jnp.maximum(beams.score[..., None] + log_pi, NEVER).reshape(B, -1)
            count, slots = min(width, total_BxWM.shape[1]), log_pi.shape[2]
            kept = jnp.sort(jax.lax.top_k(total_BxWM, count)[1], axis=1)  # in the order of the nodes

            def take(of_children: jax.Array, kept: jax.Array = kept) -> jax.Array:
                return jnp.take_along_axis(of_children.reshape(len(kept), -1), kept, axis=1)

            beams = beams.of(kept // slots)._replace(score=take(total_BxWM), node=take(among.node))
            if (slot, i) != (titles - 1, depth - 1):
                x = decoder.token_input(i, take(among.token), slot)[:, :, None]
                caches = _of_parents(decoded.caches, kept // slots)
        beams = beams._replace(
            earlier=jnp.concatenate([beams.earlier, trie.title[beams.node][..., None]], axis=-1),
            scores=jnp.concatenate([beams.scores, beams.score[..., None]], axis=-1),
        )
    beams = beams.of(jax.lax.top_k(beams.score, beams.score.shape[1])[1])
    exists = (beams.score > NEVER / 2)[..., None]
    return FoundSessions(jnp.where(exists, beams.earlier, 0), jnp.where(exists, beams.scores, -jnp.inf))


def beam_search(
    decoder: Decoder, state_BxD: jax.Array, memory: EncoderMemory, trie: TitleTrie, width: int
) -> FoundTitles:
    """Return the titles of the `width` best beams of each request: `session_search` of one title."""
    sessions = session_search(decoder, state_BxD, memory, trie, width, 1)
    return FoundTitles(sessions.id_BxWxm[..., 0], sessions.log_pi_BxWxm[..., 0])


def draw_titles(
    decoder: Decoder,
    state_BxD: jax.Array,
    memory: EncoderMemory,
    trie: TitleTrie,
    key_Bx2: jax.Array,
    draws: int,
) -> FoundTitles:
    """Draw titles with replacement, each a function of its key and the number of the draw.

    A token is the maximum of log probabilities with Gumbel noise (Gumbel-max; Maddison et al. 2014).

    Args:
        decoder: The decoder.
        state_BxD: States of the requests.
        memory: Outputs of the encoder, with a mask [B, 1, L].
        trie: Trie of all titles, or of the allowed ones, of which there is one.
        key_Bx2: uint32 keys of the requests.
        draws: Number of draws n.

    Returns:
        [B, n] titles in the order of the draws, and their log probabilities.
    """
    B = len(state_BxD)
    key_Bxnx2 = rng.fold_in(key_Bx2[:, None], jnp.arange(draws))
    node, score = jnp.zeros((B, draws), jnp.int32), jnp.zeros((B, draws), jnp.float32)
    x = jnp.repeat(decoder.first_input(state_BxD[:, None]), draws, axis=1)
    caches: tuple[KeysValues, ...] | None = None
    for i, level in enumerate(trie.levels):
        decoded = decoder(x, memory, caches)
        among = children(level, node)
        log_pi = child_log_pi(level, decoder.logits(i, decoded.h_BxNxTxD[:, :, 0]), among)
        uniform = rng.uniform((log_pi.shape[-1],), rng.fold_in(key_Bxnx2, jnp.uint32(i)), _DRAW, log_pi.dtype)
        slot = jnp.argmax(log_pi - jnp.log(-jnp.log(uniform)), axis=-1)[..., None]
        score = score + jnp.take_along_axis(log_pi, slot, axis=-1)[..., 0]
        node = jnp.take_along_axis(among.node, slot, axis=-1)[..., 0]
        if i < len(trie.levels) - 1:
            token = jnp.take_along_axis(among.token, slot, axis=-1)[..., 0]
            x, caches = decoder.token_input(i, token)[:, :, None], decoded.caches
    return FoundTitles(trie.title[node], score)


def _of_parents(caches: tuple[KeysValues, ...], parent_BxW: jax.Array) -> tuple[KeysValues, ...]:
    """Return the caches [B, W, S, H, d] of the parents of beams."""
    index = parent_BxW[:, :, None, None, None]
    return tuple(
        (jnp.take_along_axis(k, index, axis=1), jnp.take_along_axis(v, index, axis=1)) for k, v in caches
    )
