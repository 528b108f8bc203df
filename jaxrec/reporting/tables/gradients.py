"""Table of the cosines of the heads' gradients."""

from collections.abc import Mapping
from typing import Any

from jaxrec.reporting.tables.labels import finite

_NAME, _NORM, _WIDTH = 18, 10, 8  # characters
_COLUMNS = 8  # heads of a block of the matrix, for under 100 columns


def gradient_lines(gradients: Mapping[str, Any]) -> list[str]:
    """Return the lines of the norms and the matrix: cosines below its diagonal, their standard errors above.

    A head is a column by its number.

    Args:
        gradients: `gradients` of a result.
    """
    heads, cosine, error = gradients["heads"], gradients["cosine"], gradients["cosine_error"]
    lines = [
        f"Gradients of shared parameters: means over {gradients['batches']} batches of "
        f"{gradients['batch_size']:,} {gradients['split']} rows",
        "below the diagonal cosines of two heads, above it their standard errors",
    ]
    for first in range(0, len(heads), _COLUMNS):
        columns = range(first, min(first + _COLUMNS, len(heads)))
        lines.append(f"{'':<{_NAME}}{'norm':>{_NORM}}" + "".join(f"{j + 1:>{_WIDTH}}" for j in columns))
        for i, head in enumerate(heads):
            cells = (_cell((error if i < j else cosine)[i][j], ".3f") for j in columns)
            label = f"{i + 1} {head}"[: _NAME - 1]
            norm = _cell(gradients["norm"][i], "#.3g")
            lines.append(f"{label:<{_NAME}}{norm:>{_NORM}}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells))
    return lines


def _cell(value: float | None, form: str) -> str:
    return f"{value:{form}}" if finite(value) else "-"
