"""Public class `Evaluator`: evaluation of a run from Python."""

from typing import Any

from jaxrec.core.paths import AnyPath, as_path
from jaxrec.evaluation.evaluator import evaluate
from jaxrec.evaluation.results import EvaluationResult, write_result


class Evaluator:
    """Evaluator of the checkpoints of a run.

    Args:
        workdir: Folder of the run.
    """

    def __init__(self, workdir: str | AnyPath) -> None:
        self.workdir = as_path(workdir)

    def run(self, *, write: bool = False, per_user: bool = False, **options: Any) -> EvaluationResult:
        """Evaluate a checkpoint and the baselines.

        Args:
            write: Also write the files of `python -m jaxrec.evaluate` to the workdir.
            per_user: With `write`, also the metrics of each user.
            **options: `which`, `data`, `split`, `lists`, `next_k`, `heads`, `seen` and `retrieve`, as in
                `evaluation.evaluator.evaluate`.

        Returns:
            The result; `result` in it is the JSON object that the command prints.
        """
        evaluation = evaluate(self.workdir, **options)
        if write:
            write_result(self.workdir, evaluation, per_user)
        return evaluation
