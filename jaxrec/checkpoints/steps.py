"""Complete steps of a directory of checkpoints, without opening the checkpoints."""

import orbax.checkpoint as ocp

from jaxrec.core.paths import AnyPath, as_path


def complete_steps(directory: str | AnyPath) -> list[int]:
    """Return the complete steps; none where there is no such directory.

    Any thread of a single process may call this function.
    """
    path = as_path(directory)
    return list(ocp.utils.checkpoint_steps(path)) if path.is_dir() else []


def describe_latest(directory: str | AnyPath) -> str:
    """Describe the newest complete checkpoint of a directory in words."""
    steps = complete_steps(directory)
    return f"the last checkpoint is step {max(steps)}" if steps else "there is no checkpoint"
