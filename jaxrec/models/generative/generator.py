"""Generative model: the encoder of the next-title model, and a decoder that writes titles as codes.

Axis letters: B users, L positions, P trained positions, V titles, D width, W beams.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrec.config.schema import Codes
from jaxrec.core.batch import TitleTable, TitleTrie
from jaxrec.models.generative.beam_search import (
    FoundSessions,
    FoundTitles,
    beam_search,
    draw_titles,
    session_search,
)
from jaxrec.models.generative.decoder import Decoder, EncoderMemory
from jaxrec.models.generative.trie_steps import CodedTitles, every_log_pi, session_log_pi, title_log_pi
from jaxrec.models.next_item import Catalogue, ItemWindow, NextItemModel

_BYTES = 2**27  # of the caches of all prefixes of some users, when all titles are scored


class Generator(NextItemModel):
    """Next-title encoder with a decoder of codes.

    The encoder's parameters have the names of `NextItemModel`, so that it can start from one.

    Attributes:
        codes: Config of the codes and of the decoder.
    """

    codes: Codes = Codes()

    def setup(self) -> None:
        """Create the encoder and the decoder."""
        super().setup()
        expert, codes = self.config.experts[0], self.codes
        hidden = round(expert.mlp_ratio * self.config.width)
        self.decoder = Decoder(
            self.dtype, self.config.width, expert.num_heads, hidden, expert.dropout, codes.decoder,
            codes.experts, codes.levels + 1, codes.size, codes.titles, name="decoder",
        )  # fmt: skip

    def of_table(self, window: ItemWindow, table: TitleTable) -> jax.Array:
        """Compute the outputs [B, L, D] of both parts from a title table, to initialise the parameters."""
        h_BxLxD = self(window, self.catalogue(table))
        memory = self._memory(h_BxLxD, window, None)
        x = self.decoder.first_input(h_BxLxD[:, -1:])
        self.decoder.logits(0, self.decoder(x, memory).h_BxNxTxD)
        return h_BxLxD

    def chosen(
        self, window: ItemWindow, catalogue: Catalogue, trie: TitleTrie, position_BxP: jax.Array,
        title_BxP: jax.Array, key_Bx2: jax.Array | None, key_BxPx2: jax.Array | None,
    ) -> CodedTitles:  # fmt: skip
        """Return the log probabilities of titles after some positions of windows.

        Args:
            window: Windows of L positions.
            catalogue: From `catalogue`.
            trie: Trie of the codes.
            position_BxP: int32 positions, from 0.
            title_BxP: int32 ids of titles with a code; [B, P, m] those of sessions.
            key_Bx2: uint32 keys for dropout of the encoder; None for no dropout.
            key_BxPx2: The same for the decoder.
        """
        h_BxLxD = self(window, catalogue, key_Bx2)
        state_BxPxD = jnp.take_along_axis(h_BxLxD, position_BxP[..., None], axis=1)
        memory = self._memory(h_BxLxD, window, position_BxP)
        of_titles = session_log_pi if title_BxP.ndim == 3 else title_log_pi
        return of_titles(self.decoder, state_BxPxD, memory, trie, title_BxP, key_BxPx2)

    def every(self, window: ItemWindow, catalogue: Catalogue, trie: TitleTrie) -> jax.Array:
        """Return the log probabilities [B, V] of all titles after the newest position.

        Some users are scored at a time, whose caches take at most `_BYTES`.
        """
        h_BxLxD = self(window, catalogue)
        nodes = max(len(level.token) for level in trie.levels[:-1])
        bytes_per_user = 8 * nodes * self.config.width * self.codes.decoder * (self.codes.levels + 1)
        size = min(max(_BYTES // bytes_per_user, 1), len(h_BxLxD))

        def chunk(inputs: tuple[jax.Array, ItemWindow]) -> jax.Array:
            h, of_chunk = inputs
            return every_log_pi(self.decoder, h[:, -1], self._memory(h, of_chunk, None), trie)

        B, pad = len(h_BxLxD), -len(h_BxLxD) % size
        parts = jax.tree.map(
            lambda x: jnp.pad(x, ((0, pad), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:]),
            (h_BxLxD, window),
        )
        return jax.lax.map(chunk, parts).reshape(B + pad, -1)[:B]

    def beam(self, window: ItemWindow, catalogue: Catalogue, trie: TitleTrie, width: int) -> FoundTitles:
        """Return the titles of the best beams after the newest position."""
        h_BxLxD = self(window, catalogue)
        return beam_search(self.decoder, h_BxLxD[:, -1], self._memory(h_BxLxD, window, None), trie, width)

    def beams_at(
        self, window: ItemWindow, catalogue: Catalogue, without: Callable[[jax.Array], TitleTrie],
        played_BxLxP: jax.Array, width: int,
    ) -> FoundTitles:  # fmt: skip
        """Return the titles [B, L, W] of the best beams after every position, one position at a time.

        Args:
            window: Windows of L positions.
            catalogue: From `catalogue`.
            without: Function from ids [B, P] of titles to the tries of all other titles.
            played_BxLxP: int32 ids of titles that may not be found, 0 for none.
            width: Number of beams W.
        """
        h_BxLxD = self(window, catalogue)
        L, memory = h_BxLxD.shape[1], self._memory(h_BxLxD, window, None)

        def at(inputs: tuple[jax.Array, jax.Array, jax.Array]) -> FoundTitles:
            state_BxD, played_BxP, position = inputs
            up_to = memory._replace(mask_BxNxL=memory.mask_BxNxL & (jnp.arange(L) <= position))
            return beam_search(self.decoder, state_BxD, up_to, without(played_BxP), width)

        parts = jnp.moveaxis(h_BxLxD, 1, 0), jnp.moveaxis(played_BxLxP, 1, 0), jnp.arange(L)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), jax.lax.map(at, parts))

    def sessions(
        self, window: ItemWindow, catalogue: Catalogue, trie: TitleTrie, width: int
    ) -> FoundSessions:
        """Return the sessions of `codes.titles` titles of the best beams after the newest position."""
        h_BxLxD = self(window, catalogue)
        memory = self._memory(h_BxLxD, window, None)
        return session_search(self.decoder, h_BxLxD[:, -1], memory, trie, width, self.codes.titles)

    def draw(
        self, window: ItemWindow, catalogue: Catalogue, trie: TitleTrie, key_Bx2: jax.Array, draws: int
    ) -> FoundTitles:
        """Return titles that are drawn after the newest position, with replacement."""
        h_BxLxD = self(window, catalogue)
        memory = self._memory(h_BxLxD, window, None)
        return draw_titles(self.decoder, h_BxLxD[:, -1], memory, trie, key_Bx2, draws)

    def _memory(
        self, h_BxLxD: jax.Array, window: ItemWindow, position_BxP: jax.Array | None
    ) -> EncoderMemory:
        """Return the encoder's outputs up to positions; None: up to the newest one, for all prefixes."""
        mask_BxNxL = (window.title_BxL > 0)[:, None]
        if position_BxP is not None:
            mask_BxNxL = mask_BxNxL & (jnp.arange(h_BxLxD.shape[1]) <= position_BxP[..., None])
        return self.decoder.memory(h_BxLxD, mask_BxNxL)
