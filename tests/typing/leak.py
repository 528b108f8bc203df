"""Outcomes of a request that are passed to models: mypy refuses each line with the comment `leak`.

The lines beside them pass what is known, and mypy accepts them. `test_leak.py` runs mypy on this file.
"""

from typing import Any

from jaxrec.core.batch import Batch, History, Outcome, PastOutcome, TitleTable, after
from jaxrec.losses.ranking import objective
from jaxrec.models.layers.dense import applied
from jaxrec.models.next_item import NextItemModel
from jaxrec.models.ranker import RankingModel
from jaxrec.models.user_encoder import UserEncoder
from jaxrec.tasks.next_item_inputs import TargetWindows


def rank(model: RankingModel, params: Any, batch: Batch, table: TitleTable) -> None:
    """Encode and score what is known, and an outcome."""
    encode = applied(RankingModel.encode, model, params)
    encode(batch.history, table, 1.0)
    encode(batch.outcome, table, 1.0)  # leak
    score = applied(RankingModel.__call__, model, params)
    score(batch.history, batch.positive, table, 1.0)
    score(batch.outcome, batch.positive, table, 1.0)  # leak


def encode_inside(model: UserEncoder, batch: Batch, table: TitleTable) -> None:
    """Encode inside a model, without `applied`."""
    model.encode_history(batch.history, table)
    model.encode_history(batch.outcome, table)  # leak


def predict(model: NextItemModel, params: Any, windows: TargetWindows, vectors: Any) -> None:
    """Encode the plays of windows, and the outcomes of their targets."""
    encode = applied(NextItemModel.__call__, model, params)
    encode(windows.window, vectors)
    encode(windows.outcome, vectors)  # leak


def remember(history: History, past: Outcome, outcome: Outcome) -> History:
    """Extend a history by outcomes of past plays, and by the outcome of the request."""
    history._replace(past=outcome)  # leak
    return history._replace(past=after(past))


def lose(outputs: Any, batch: Batch, past: PastOutcome, config: Any, sampling: Any) -> None:
    """Compute losses from outcomes, and from what is known."""
    objective(outputs, batch, config, sampling, 0.5, None)
    objective(outputs, batch._replace(outcome=past), config, sampling, 0.5, None)  # leak
