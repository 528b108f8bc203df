"""Training on the titles that were shown, after an imitation on rows without them, and its value."""

import json
from types import SimpleNamespace

from jaxrec.config.schema import Post
from jaxrec.core.ids import TRUTH
from jaxrec.evaluation.evaluator import EvaluationOptions, evaluate
from jaxrec.training import trainer
from tests.data.examples.test_shown_sequences import WIDTH, config_of, datasets  # noqa: F401


def train(config, dataset, workdir, duration):
    config.train.duration, config.train.log_seconds = duration, 1e-6
    trainer.train(config, dataset, workdir, SimpleNamespace(requested=None))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


def test_a_run_learns_from_what_was_shown_after_an_imitation_on_other_rows(datasets, tmp_path):  # noqa: F811
    shown, plain = datasets
    imitation = config_of(plain.directory, 0)
    train(imitation, plain, tmp_path / "imitation", "1 epochs")
    config = config_of(shown.directory, WIDTH)
    config.post, config.start.workdir = Post("wbc", "stars"), str(tmp_path / "imitation")
    losses = [line["loss"] for line in train(config, shown, tmp_path / "shown", "6 epochs")]
    assert losses[-1] < losses[0] - 0.1, losses
    taken = json.loads((tmp_path / "shown/start.json").read_text())
    assert any("title_id/embedding" in name for name in taken["taken"])
    result = evaluate(tmp_path / "shown", EvaluationOptions(lists=(TRUTH,), report_users=0)).result
    assert 0 < result[TRUTH]["model"]["value"] < 1 and result[TRUTH]["queries"] == 64
