"""Steps whose loss or gradient is not finite: `train.on_nonfinite`.

"stop" looks at the metric sums of each call on the host, which costs nothing, and ends the run before a
checkpoint is written. "skip" is decided inside the step, because the state is donated: the step leaves the
state as it was, except for the number of the step, on all devices alike.
"""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrec.core.errors import RunError
from jaxrec.core.json_io import write_bytes
from jaxrec.core.paths import AnyPath
from jaxrec.runtime.multihost import is_first_process
from jaxrec.tasks.outputs import Sums
from jaxrec.training.train_state import TrainState

NONFINITE = "nonfinite.npz"  # the batches of the call, in the workdir
_WATCHED = ("loss", "gradient_norm")


def skip_nonfinite(before: TrainState, after: TrainState, sums: Sums) -> tuple[TrainState, Sums]:
    """Undo a step whose loss or gradient is not finite; called inside a mapped step.

    Args:
        before: The state before the step.
        after: The state after the step.
        sums: Metric sums over all devices, equal on all devices.

    Returns:
        The state, with the step of `after`, and the sums with "skipped" (0 or 1 for each step); all other
        sums and counts are 0 for a skipped step.
    """
    is_finite = jnp.all(jnp.array([jnp.isfinite(sums[name][0]) for name in _WATCHED]))
    kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, before)
    sums = jax.tree.map(lambda value: jnp.where(is_finite, value, jnp.zeros_like(value)), sums)
    one = jnp.float32(1)
    return kept._replace(step=after.step), sums | {"skipped": (one - is_finite, one)}


def nonfinite_metrics(sums: Sums) -> list[str]:
    """Return the names of the metrics that are not finite if loss or gradient are not, in their order."""
    host = jax.device_get({name: total for name, (total, _) in sums.items()})
    if all(np.isfinite(host[name]) for name in _WATCHED):
        return []
    return [name for name, total in host.items() if not np.isfinite(total).all()]


def stop_nonfinite(
    names: list[str], first: int, last: int, batches: Any, workdir: AnyPath, checkpoint: int | None
) -> None:
    """Write the batches of a call to the workdir, those of the first process, and raise.

    Args:
        names: Metrics that are not finite.
        first: First step of the call.
        last: Last step of the call.
        batches: Batches of this process by index, from 0.
        workdir: Folder of the run.
        checkpoint: Newest step with a checkpoint, or None.

    Raises:
        RunError: Always; the message names the steps, the metrics and what to do.
    """
    arrays: dict[str, Any] = {}
    for step in range(first, last + 1):
        for i, leaf in enumerate(jax.tree.leaves(batches[step - 1])):
            arrays[f"step_{step}_{i}"] = np.asarray(leaf)
    if is_first_process():  # the batches of other processes have the same steps
        data = io.BytesIO()
        np.savez_compressed(data, **arrays)
        write_bytes(workdir / NONFINITE, data.getvalue())
    steps = f"step {last}" if first == last else f"steps {first} to {last}"
    kept = "no checkpoint" if checkpoint is None else f"the checkpoint of step {checkpoint}"
    raise RunError(
        f"{steps}: not finite: {', '.join(names)}; the batch is in {workdir / NONFINITE}, {kept} is kept, "
        "and the same command repeats the step; lower optimizer.learning_rate, or leave such steps out with "
        "train.on_nonfinite=skip"
    )
