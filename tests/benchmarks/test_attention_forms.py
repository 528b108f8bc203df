"""The attention benchmark times all available implementations on packed rows."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import attention
from jaxrec.core.errors import InputError
from jaxrec.models.layers.attention import allowed_forms


def flags(**changes):
    defaults = {"shapes": ["3x5"], "heads": 2, "width": 8, "dtype": "float32", "forms": [], "rounds": 1}
    return SimpleNamespace(**(defaults | changes))


def test_every_form_is_timed_forward_and_with_gradient():
    report = attention.main(flags())
    figures = report.figures["shapes"]["3x5"]
    for direction in ("forward", "with gradient"):
        assert (*figures[direction],) == allowed_forms("cpu", "float32", 8)
        assert figures[direction]["einsum"]["gain"]["median"] == 1.0
    assert (
        len(report.rows) == 2 * len(allowed_forms("cpu", "float32", 8))
        and figures["auto"] in figures["forward"]
    )


def test_rows_hold_several_histories_and_padding():
    qkv, mask = attention.inputs(attention.Shape(50, 20), 3, 8, "bfloat16")
    assert qkv.shape == (50, 20, 3 * 3 * 8) and qkv.dtype == "bfloat16"
    kinds = [len(np.unique(row, axis=0)) for row in np.asarray(mask)]
    assert min(kinds) >= 2 and 3 <= np.mean(kinds) <= 8


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shapes": ["3"]}, "--shapes=3: allowed: rows x positions, as 105x20"),
        ({"shapes": ["0x5"]}, "--shapes=0x5: allowed"),
        ({"forms": ["pallas"]}, "--forms=pallas: allowed: einsum, dot_product$"),
    ],
)
def test_invalid_flags_are_named(changes, message):
    with pytest.raises(InputError, match=f"^{message}"):
        attention.main(flags(**changes))
