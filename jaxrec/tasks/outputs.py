"""Outputs of a task: scores of queries, and metrics as (sum, count) pairs.

Pairs are added over microbatches, devices and steps, and divided once.
"""

from typing import Any, NamedTuple

import jax

from jaxrec.losses import gate
from jaxrec.models.next_item import ItemWindow

Sums = dict[str, tuple[Any, Any]]  # metric -> (sum, count)


class TitleScores(NamedTuple):
    """Scores of B queries over all titles.

    Attributes:
        scores_BxV: Scores by title id, in at least float32.
        target_B: int32 ids of the targets.
        seen_BxL: int32 ids of the stored history, abandoned titles included, 0 for padding.
    """

    by_head: dict[str, jax.Array]
    target_B: jax.Array
    seen_BxL: jax.Array


class QueryScores(NamedTuple):
    """Scores of B queries over their fixed candidate lists, and the experts' weights.

    Attributes:
        by_head: Head -> [B, lists, K, 1 + negatives], the target first.
        gate_BxE: Weights of the experts without noise; each row sums to 1.
        sums: Sums of the validation loss; empty without `with_loss`.
        outcomes: Head of a label -> its label [B] at the first target, and where it is known [B].
    """

    by_head: dict[str, jax.Array]
    gate_BxE: jax.Array
    sums: Sums
    outcomes: dict[str, tuple[jax.Array, jax.Array]]


class Protocols(NamedTuple):
    """Evaluation protocols of a task's checkpoints.

    Attributes:
        lists: Candidate lists that the task scores; empty if its rows have none.
        best: (candidate list, metric) by which the best checkpoint is chosen. With LABELS the model is
            measured by its heads of labels alone, and ranks no titles.
        temperature: Divisor of the scores in the validation loss over all titles.
        is_policy: True if `Task.policy_logits` gives probabilities of all titles.
        usual_truth: True if the truth is among the usual lists of the test split, where it is stored.
        candidates: Values of `post.candidates` by which `Task.pair_candidates` finds titles; () for none.
    """

    lists: tuple[str, ...]
    best: tuple[str, str]
    temperature: float = 1.0
    is_policy: bool = False
    usual_truth: bool = False
    candidates: tuple[str, ...] = ()


class PolicyInputs(NamedTuple):
    """Inputs of a policy at the positions of windows.

    Attributes:
        window: Windows of L positions.
        played_BxLxP: int32 titles that may not be chosen, 0 for none.
    """

    window: ItemWindow
    played_BxLxP: jax.Array


class KeptParameters(NamedTuple):
    """Parameters beside the current ones that the loss of a task reads.

    Attributes:
        reference: True: those that the training started with, `TrainState.reference`.
        refresh: Steps after which `TrainState.old` is replaced by the current parameters; 0: there is none.
        taken: Patterns of names of parameters that the run which the training starts from must have.
    """

    reference: bool = False
    refresh: int = 0
    taken: tuple[str, ...] = ()


def mean_metrics(sums: Sums) -> dict[str, float]:
    """Return the mean of each metric as a Python float, NaN for a count of 0.

    With a gate, the values of `losses.gate.gate_statistics` are added.

    Args:
        sums: Metric -> (sum, count), scalars on the host or on a device.
    """
    host = jax.device_get(sums)
    means = {name: float(s / n) if n else float("nan") for name, (s, n) in host.items()}
    return means | gate.gate_statistics(means)
