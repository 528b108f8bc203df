"""The next-item task with block-local attention: `model.attention_span`."""

from dataclasses import replace

import numpy as np
import pytest
from test_next_item_task import batch, make_task, run_on_devices

from jaxrec.checkpoints.state_tree import slashed_leaves
from jaxrec.config.schema import Sampling
from jaxrec.training.train_state import StateInit
from jaxrec.training.train_step import TrainStep


def gradients(stochastic_length, span):
    p = make_task("hstu", sampling=Sampling(id_dropout=0.0, stochastic_length=stochastic_length))
    p = replace(p, config=replace(p.config, model=replace(p.config.model, attention_span=span)))
    return run_on_devices(1, TrainStep(p).gradients, StateInit(p).init(), batch())


@pytest.mark.parametrize("stochastic_length", [0.0, 1.5])
def test_a_step_trains_the_summaries(stochastic_length):
    """Windows of 8 positions in chunks of 2, and of 5 positions by stochastic length, no multiple of 2."""
    trained, sums = gradients(stochastic_length, 2)
    assert float(sums["loss"][1]) > 0
    sizes = {path: float(np.abs(np.asarray(x)).max()) for path, x in slashed_leaves(trained).items()}
    queries = [size for path, size in sizes.items() if path.endswith("summary_0/query")]
    assert len(queries) == 1 and queries[0] > 0
    assert np.isfinite(list(sizes.values())).all()


def test_a_span_of_the_window_is_dense_attention():
    (dense, sums), (spanned, other) = gradients(0.0, 0), gradients(0.0, 8)
    assert float(sums["loss"][0]) == float(other["loss"][0])
    assert slashed_leaves(dense).keys() == slashed_leaves(spanned).keys()
