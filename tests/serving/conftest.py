"""Share the tiny run's checkpoint, and a correction of its scores."""

import numpy as np
import pytest

from jaxrec.models.outputs import Correction
from jaxrec.tasks.loading import load_checkpoint


@pytest.fixture(scope="module")
def loaded(tiny_run):
    return load_checkpoint(tiny_run / "run", "best")


@pytest.fixture(scope="module")
def correction(loaded):
    log_q = np.random.default_rng(0).normal(size=loaded.task.layout.num_titles).astype(np.float32)
    return Correction("ctr", 0.5, log_q)
