"""Packing of histories on the device, from the plan of the host.

`data.loading.packing.Packer` makes the same `Packing` on the host, for rows that are transferred.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.batch import Packing, PackingPlan
from jaxrec.core.ids import PAD
from jaxrec.tasks.ranking_inputs import decode


@dataclass(frozen=True)
class DevicePacking:
    """Packing of the shards of a device.

    Attributes:
        dtype: dtype of the stored rows.
        windows: Window lengths, in descending order.
        rows: Packed rows of a shard, for each window.
        keeps_abandoned: True where the model reads abandoned titles too.
    """

    dtype: np.dtype
    windows: tuple[int, ...]
    rows: tuple[int, ...]
    keeps_abandoned: bool

    def __call__(self, words: jax.Array, plan: PackingPlan) -> Packing:
        """Pack the shards of a device; traced.

        Args:
            words: [shards * S, words] uint32 rows, one shard after another, each of S examples.
            plan: Slots of the S examples of each shard.
        """
        fields = decode(words, self.dtype)
        kept = fields["history_title"] != PAD
        if not self.keeps_abandoned:
            kept &= fields["history_abandoned"] == 0
        kept_MxSxH = kept.reshape(-1, len(plan.starts[0]), kept.shape[1])
        packing = jax.vmap(self._pack_shard, in_axes=(0, None))(kept_MxSxH, plan)
        return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), packing)

    def _pack_shard(self, kept_SxH: jax.Array, plan: PackingPlan) -> Packing:
        """Pack a shard of S examples with H stored titles.

        Every title that is shown writes the entry of its slot. A title that is not shown in a window writes
        past the end, which is dropped. All indices differ, so that deterministic programs on a GPU need not
        write one entry after another.
        """
        (S, H), width = kept_SxH.shape, self.windows[0]
        newer_SxH = kept_SxH[:, ::-1].cumsum(axis=1, dtype=jnp.int32)[:, ::-1] - 1  # of a title that is kept
        total_Sx1 = newer_SxH[:, :1] + 1
        stored_SxH = jnp.arange(S * H, dtype=jnp.int32).reshape(S, H)
        source_SxH = stored_SxH * width + newer_SxH
        packed, slots = list[jax.Array](), self.rows[0] * width
        for start_S, rows, w in zip(plan.starts, self.rows, self.windows, strict=True):
            older_SxH = jnp.minimum(total_Sx1, w) - 1 - newer_SxH  # older titles of the example in the window
            slot_SxH = start_S[:, None] + older_SxH
            to_SxH = jnp.where(kept_SxH & (older_SxH >= 0), slot_SxH, rows * w + stored_SxH)
            empty = slots if packed else S * H * width
            entries = jnp.full(rows * w, empty, jnp.int32)
            entries = entries.at[to_SxH].set(source_SxH, mode="drop", unique_indices=True)
            packed.append(entries.reshape(rows, w))
            if w == width:
                source_SxH = slot_SxH  # the shorter windows read the slots of the longest
        return Packing(packed[0], tuple(packed[1:]))
