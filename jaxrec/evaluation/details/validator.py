"""Evaluation of parameters on the validation queries during training."""

from typing import Any

from jaxrec.core.batch import TitleTable
from jaxrec.core.errors import InputError
from jaxrec.core.ids import CATALOGUE, LABELS
from jaxrec.data.storage.dataset import Rows
from jaxrec.evaluation.labels.of_heads import label_scorer, mean_metrics_of_labels, predictions
from jaxrec.evaluation.labels.of_states import StatePredictions, StateScorer
from jaxrec.evaluation.results import full_metrics, lists_of_queries, model_lists
from jaxrec.evaluation.scorers import CatalogueRanker, ListScorer, ListScores
from jaxrec.tasks.base import Task
from jaxrec.tasks.outputs import mean_metrics


class Validator:
    """Evaluation of parameters on the validation queries during training.

    `metric` on the list `watched` selects the best checkpoint: NDCG@1 of the enabled list, of the served list
    with served negatives or, for next-item models, NDCG@10 over the catalogue without the titles of the
    stored history. evaluate.seen does not change that: the rows suffice for it, and the values of all runs
    are comparable. For exposures, offline runs and sequences whose titles have no loss it is the mean AUC of
    the heads of labels.

    Args:
        task: The task.
        table: Title features on the devices.
        rows: The validation rows.
    """

    def __init__(self, task: Task, table: TitleTable, rows: Rows) -> None:
        protocols = task.protocols()
        self.watched, self.metric = protocols.best
        self._rows, self._queries, self._task = rows, rows.all(), task
        self._lists = lists_of_queries(protocols.lists, self._queries)
        if protocols.lists and self.watched not in self._lists:
            raise InputError(
                f"sampling.mix.served={task.config.sampling.mix.served:g}: no validation query has a slate, "
                "by which checkpoints are compared; allowed: 0, or a log of impressions that holds some"
            )
        self._scorer: ListScorer | CatalogueRanker | StateScorer
        if self.watched == LABELS:
            self._scorer = label_scorer(task, table, with_loss=True)
        elif protocols.lists:
            self._scorer = ListScorer(task, table, with_loss=True, next_k=1)
        else:
            self._scorer = CatalogueRanker(task, table, seen="stored", temperature=protocols.temperature)

    def __call__(self, params: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Return mean metrics such as `loss`, and the ranking metrics of each list."""
        result = self._scorer(params, self._rows)
        if self.watched == LABELS and isinstance(result, ListScores | StatePredictions):
            of_heads = mean_metrics_of_labels(predictions(self._task, result), self._queries["user"])
            return mean_metrics(result.sums), {LABELS: of_heads}
        if isinstance(result, ListScores):
            return mean_metrics(result.sums), model_lists(result.scores, self._queries, 1, self._lists)
        assert not isinstance(result, StatePredictions)  # whose metrics are those of labels
        return mean_metrics(result.sums), {CATALOGUE: full_metrics(result.by_order["model"].ranks)}
