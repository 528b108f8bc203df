"""Log probabilities of titles under a trie: of chosen titles, of all titles, and of the children of nodes.

The logits of a level are masked to the children of the node before the softmax, so that a probability that
belongs to no title does not exist, and those of all titles sum to 1.

Axis letters: B windows, N prefixes, M slots of children, K tokens of a level, D width, V titles.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrec.core.batch import TitleTrie, TrieLevel
from jaxrec.models.generative.decoder import Decoded, Decoder, EncoderMemory
from jaxrec.models.layers.attention import KeysValues
from jaxrec.models.layers.rng import fold_in

NEVER = -1.0e30  # log probability of what may not be chosen: finite, so that 0 * NEVER is 0


class Children(NamedTuple):
    """Children of nodes.

    Attributes:
        node: [..., M] int32 node in the level below; any node in an empty slot.
        token: [..., M] int32 token of the child.
        valid: [..., M] bool, True where the slot holds an open child.
    """

    node: jax.Array
    token: jax.Array
    valid: jax.Array


def children(level: TrieLevel, node: jax.Array, earlier: jax.Array | None = None) -> Children:
    """Return the children of nodes, by one gather of the level's slots.

    A child is open if an allowed leaf is below it that is none of the earlier titles.

    Args:
        level: Level of the children. With `open_leaves` [B, m], the first axis of `node` is B.
        node: [...] int32 nodes of the level above.
        earlier: [..., J] int32 nodes of this level on the paths of allowed titles that may not come again,
            -1 for none; None: there are no such titles.
    """
    if level.dense is not None:
        child = level.dense[node]
        valid = child >= 0
        child = jnp.maximum(child, 0)
        token = jnp.broadcast_to(level.slot, child.shape)
    else:
        child = level.first[node][..., None] + level.slot
        valid = child < level.first[node + 1][..., None]
        child = jnp.minimum(child, len(level.token) - 1)
        token = level.token[child]
    left = _of_nodes(level.open_leaves, child)
    if earlier is not None:
        left = left - (child[..., None] == earlier[..., None, :]).sum(-1)
    return Children(child, token, valid & (left > 0))


def _of_nodes(values: jax.Array, node: jax.Array) -> jax.Array:
    """Return values [m] or [B, m] at nodes [B, ...]."""
    if values.ndim == 1:
        return values[node]
    flat = jnp.take_along_axis(values, node.reshape(len(node), -1), axis=1)
    return flat.reshape(node.shape)


def child_log_pi(level: TrieLevel, logits: jax.Array, among: Children) -> jax.Array:
    """Return the log probabilities [..., M] of children; NEVER in empty slots.

    Args:
        level: Level of the children.
        logits: [..., K] logits of all tokens.
        among: Children of the nodes.
    """
    is_dense, M = level.dense is not None, len(level.slot)
    at_slots = logits[..., :M] if is_dense else jnp.take_along_axis(logits, among.token, axis=-1)
    log_pi = jax.nn.log_softmax(jnp.where(among.valid, at_slots, NEVER), axis=-1)
    return jnp.where(among.valid, log_pi, NEVER)


class CodedTitles(NamedTuple):
    """Log probabilities of titles that were chosen.

    Attributes:
        log_pi: [B, N] log probability of each title; [B, N, m] of each title of a session.
        levels: [..., depth] its terms, one of each level.
        decoded: Outputs of the decoder.
    """

    log_pi: jax.Array
    levels: jax.Array
    decoded: Decoded


def session_log_pi(
    decoder: Decoder, state_BxNxD: jax.Array, memory: EncoderMemory, trie: TitleTrie,
    title_BxNxm: jax.Array, key_BxNx2: jax.Array | None = None,
) -> CodedTitles:  # fmt: skip
    """Return the log probabilities of m titles in a row, from one pass over all their tokens.

    Each title is given those before it, none of which it may repeat.

    Args:
        decoder: The decoder.
        state_BxNxD: States.
        memory: Outputs of the encoder that each state attends to.
        trie: Trie of all titles, or of the allowed ones.
        title_BxNxm: int32 ids of different titles with a code; 0 for none, after the last title.
        key_BxNx2: uint32 keys for dropout; None for no dropout.
    """
    path_BxNxmxT = trie.node[title_BxNxm]
    titles, depth = path_BxNxmxT.shape[-2:]
    inputs = [decoder.first_input(state_BxNxD)]
    for step in range(titles * depth - 1):
        slot, i = divmod(step, depth)
        token = trie.levels[i].token[path_BxNxmxT[..., slot, i]]
        inputs.append(decoder.token_input(i, token, slot)[:, :, None])
    key = None if key_BxNx2 is None else fold_in(key_BxNx2[:, :, None], jnp.arange(titles * depth))
    decoded = decoder(jnp.concatenate(inputs, axis=2), memory, key=key)
    is_title_BxNxm, sessions = title_BxNxm > 0, []
    for slot in range(titles):
        parent, terms = jnp.zeros_like(title_BxNxm[..., 0]), []
        for i, level in enumerate(trie.levels):
            earlier = None
            if slot:
                earlier = jnp.where(is_title_BxNxm[..., :slot], path_BxNxmxT[..., :slot, i], -1)
            among = children(level, parent, earlier)
            logits = decoder.logits(i, decoded.h_BxNxTxD[:, :, slot * depth + i])
            log_pi = child_log_pi(level, logits, among)
            node = path_BxNxmxT[..., slot, i]
            of_child = level.token[node] if level.dense is not None else node - level.first[parent]
            terms.append(jnp.take_along_axis(log_pi, of_child[..., None], axis=-1)[..., 0])
            parent = node
        sessions.append(jnp.stack(terms, axis=-1))
    levels_BxNxmxT = jnp.stack(sessions, axis=2)
    return CodedTitles(levels_BxNxmxT.sum(-1), levels_BxNxmxT, decoded)


def title_log_pi(
    decoder: Decoder, state_BxNxD: jax.Array, memory: EncoderMemory, trie: TitleTrie, title_BxN: jax.Array,
    key_BxNx2: jax.Array | None = None,
) -> CodedTitles:  # fmt: skip
    """Return the log probabilities of titles, as `session_log_pi` of one title in a row."""
    out = session_log_pi(decoder, state_BxNxD, memory, trie, title_BxN[..., None], key_BxNx2)
    return CodedTitles(out.log_pi[..., 0], out.levels[..., 0, :], out.decoded)


def every_log_pi(decoder: Decoder, state_BxD: jax.Array, memory: EncoderMemory, trie: TitleTrie) -> jax.Array:
    """Return the log probabilities [B, V] of all titles; NEVER of ids that are not in the trie.

    Every node of the trie is decoded once, with the cache of its parent. At the last level, nodes with one
    child are left out: its probability is 1.
    """
    B, last = len(state_BxD), len(trie.levels) - 1
    score_BxN = jnp.zeros((B, 1), jnp.promote_types(state_BxD.dtype, jnp.float32))
    x, caches, node = decoder.first_input(state_BxD[:, None]), None, jnp.zeros(1, jnp.int32)
    for i, level in enumerate(trie.levels):
        log_pi_Bxm = jnp.zeros((B, len(level.token)))
        if len(node):
            decoded = decoder(x, memory, caches)
            logits_BxNxK = decoder.logits(i, decoded.h_BxNxTxD[:, :, 0])
            log_pi_Bxm = _of_children(level, logits_BxNxK, node)
        score_BxN = score_BxN[:, level.parent] + jnp.where(level.open_leaves > 0, log_pi_Bxm, NEVER)
        if i < last:
            below = trie.levels[i + 1]
            node = below.several if i + 1 == last else jnp.arange(len(level.token))
            x = decoder.token_input(i, level.token[node])
            x = jnp.broadcast_to(x, (B, *x.shape))[:, :, None]
            # The index of each parent among the nodes that were decoded: all of them, but at the last level.
            caches = _of_prefixes(decoded.caches, level.parent[node])
    score_BxN = jnp.maximum(score_BxN, NEVER)
    return jnp.full((B, len(trie.node)), NEVER, score_BxN.dtype).at[:, trie.title].set(score_BxN)


def _of_children(level: TrieLevel, logits_BxNxK: jax.Array, node_N: jax.Array) -> jax.Array:
    """Return the log probabilities [B, m] of all nodes of a level; 0 where the parent is not decoded."""
    among = children(level, jnp.broadcast_to(node_N, (len(logits_BxNxK), len(node_N))))
    log_pi_BxNxM = child_log_pi(level, logits_BxNxK, among)
    nodes = len(level.first) - 1
    row = jnp.full(nodes, len(node_N), jnp.int32).at[node_N].set(jnp.arange(len(node_N)))[level.parent]
    slot = level.token
    if level.dense is None:
        slot = jnp.arange(len(level.token)) - level.first[level.parent]
    return jnp.where(row < len(node_N), log_pi_BxNxM[:, jnp.minimum(row, len(node_N) - 1), slot], 0.0)


def _of_prefixes(caches: tuple[KeysValues, ...] | None, index: jax.Array) -> tuple[KeysValues, ...] | None:
    """Return the caches of prefixes [n], the same for all windows."""
    return None if caches is None else tuple((k[:, index], v[:, index]) for k, v in caches)
