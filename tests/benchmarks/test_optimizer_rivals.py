"""The optimizer benchmark: its gradient touches what it says, and its rivals do the same to those rows."""

import numpy as np

from benchmarks import optimizer


def test_the_gradient_is_of_some_rows_and_popular_ones_first():
    found = optimizer.gradient(titles=5_000, width=3, draws=2_000)
    touched = np.any(found != 0, axis=1)
    assert found.shape == (5_000, 3) and found.dtype == np.float32
    assert not touched[0] and touched[1:20].all()  # padding is drawn by nobody
    assert 300 < touched.sum() < 1_500 and touched[4_000:].any()


def test_rivals_update_touched_rows_alike_and_lazy_leaves_the_rest():
    found = optimizer.gradient(titles=3_000, width=4, draws=1_500)
    touched = np.any(found != 0, axis=1)
    run = optimizer.rivals(found)
    for _ in range(2):  # its state was donated: a second update needs the first one's
        plain, lazy = np.asarray(run["plain"]()), np.asarray(run["lazy"]())
    np.testing.assert_allclose(lazy[touched], plain[touched], rtol=0, atol=1e-6)
    assert np.all(lazy[~touched] == 1) and np.all(plain[~touched] < 1)
    np.testing.assert_allclose(run["floor"](), np.linalg.norm(found), rtol=1e-5)
