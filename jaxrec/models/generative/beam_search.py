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


def beam_search(
    decoder: Decoder, state_BxD: jax.Array, memory: EncoderMemory, trie: TitleTrie, width: int
) -> FoundTitles:
    """Return the titles of the `width` best beams of each request.

    Args:
        decoder: The decoder.
        state_BxD: States of the requests.
        memory: Outputs of the encoder, with a mask [B, 1, L].
        trie: Trie of all titles, or of the allowed ones.
        width: Largest number of beams W.
    """
    node, score = jnp.zeros((len(state_BxD), 1), jnp.int32), jnp.zeros((len(state_BxD), 1), jnp.float32)
    x, caches = decoder.first_input(state_BxD[:, None]), None
    for i, level in enumerate(trie.levels):
        decoded = decoder(x, memory, caches)
        among = children(level, node)
        log_pi = child_log_pi(level, decoder.logits(i, decoded.h_BxNxTxD[:, :, 0]), among)
        total_BxWM = jnp.maximum(score[..., None] + log_pi, NEVER).reshape(len(node), -1)
        beams, slots = min(width, total_BxWM.shape[1]), log_pi.shape[2]
        kept = jnp.sort(jax.lax.top_k(total_BxWM, beams)[1], axis=1)  # in the order of the nodes

        def take(of_children: jax.Array, kept: jax.Array = kept) -> jax.Array:
            return jnp.take_along_axis(of_children.reshape(len(kept), -1), kept, axis=1)

        score, node = take(total_BxWM), take(among.node)
        if i < len(trie.levels) - 1:
            x = decoder.token_input(i, take(among.token))[:, :, None]
            caches = _of_parents(decoded.caches, kept // slots)
    score, place = jax.lax.top_k(score, score.shape[1])
    titles = trie.title[jnp.take_along_axis(node, place, axis=1)]
    exists = score > NEVER / 2
    return FoundTitles(jnp.where(exists, titles, 0), jnp.where(exists, score, -jnp.inf))


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
