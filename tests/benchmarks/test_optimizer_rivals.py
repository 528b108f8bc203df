"""The optimizer benchmark: the rows of its gradient and the updates of its rivals."""

import numpy as np

from benchmarks import optimizer


def test_gradient_touches_popular_rows_first():
    grads = optimizer.gradient(titles=5_000, width=3, draws=2_000)
    touched = np.any(grads != 0, axis=1)
    assert grads.shape == (5_000, 3) and grads.dtype == np.float32
    assert not touched[0] and touched[1:20].all()  # padding is never drawn
    assert 300 < touched.sum() < 1_500 and touched[4_000:].any()


def test_rivals_update_touched_rows_alike_and_lazy_keeps_the_other_rows():
    grads = optimizer.gradient(titles=3_000, width=4, draws=1_500)
    touched = np.any(grads != 0, axis=1)
    run = optimizer.rivals(grads)
    for _ in range(2):  # the state is donated: a second update needs the state of the first
        plain, lazy = np.asarray(run["plain"]()), np.asarray(run["lazy"]())
    np.testing.assert_allclose(lazy[touched], plain[touched], rtol=0, atol=1e-6)
    assert np.all(lazy[~touched] == 1) and np.all(plain[~touched] < 1)
    np.testing.assert_allclose(run["floor"](), np.linalg.norm(grads), rtol=1e-5)
