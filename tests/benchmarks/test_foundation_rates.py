"""The benchmark of long windows: both forms run, and wrong flags are refused."""

import pytest

from benchmarks import foundation
from jaxrec.config.schema import Expert
from jaxrec.core.errors import InputError


def test_both_forms_give_gradients_of_one_shape_and_block_local_needs_less_memory():
    calls, memory = foundation.rivals_of(Expert(64, 1, 1, 1.0, 0.0, "sasrec"), 4, 8, 2)
    (dense, x), (local, x_local) = (calls[name]() for name in (foundation.DENSE, foundation.LOCAL))
    assert x.shape == x_local.shape == (2, 64, 8)
    assert set(local) - set(dense) == {"summary_0"}
    assert memory[foundation.LOCAL] < memory[foundation.DENSE]


@pytest.mark.parametrize("span", [0, 4])
def test_one_position_more_gives_the_output_of_the_whole_window(span):
    calls = foundation.cached_rivals(Expert(16, 1, 1, 1.0, 0.0, "hstu"), span, 8, 2)
    output, (other, cache) = calls[foundation.WHOLE](), calls[foundation.CACHED]()
    assert output.shape == (2, 8) and other.shape == (2, 1, 8) and int(cache.length) == 16


@pytest.mark.parametrize(
    ("expert", "text"),
    [
        (Expert(10, 1, 1, 1.0, 0.0, "sasrec"), "--windows=10; allowed: multiples of --span=4"),
        (Expert(8, 1, 1, 1.0, 0.0, "gru4rec"), "--encoders=gru4rec; allowed: sasrec, hstu, ligr"),
    ],
)
def test_windows_without_whole_chunks_are_refused(expert, text):
    with pytest.raises(InputError, match=text):
        foundation.rivals_of(expert, 4, 8, 2)
