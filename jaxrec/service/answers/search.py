"""Searches: the features of a request that has a query, in the columns of an export."""

from typing import Any

from jaxrec.service.options import ServiceError
from jaxrec.service.schemas import Column

CANVAS, SEARCH = "canvas", "search"  # name of the context of the page, and its value on a search


class SearchColumns:
    """Columns that a search fills: the first text of the context, and the canvas where the model has it.

    Args:
        features: Columns of the features of a request.
        canvases: Values of the context `canvas` in training; empty without it.
    """

    def __init__(self, features: tuple[Column, ...], canvases: list[Any]) -> None:
        self.query = next((c.name for c in features if c.kind == "free text"), "")
        of_canvas = [c.name for c in features if c.role == CANVAS]
        self._canvas = {name: [SEARCH] for name in of_canvas if SEARCH in canvases}

    def fill(self, features: dict[str, Any], query: str) -> dict[str, Any]:
        """Return the features of a request with its query; the canvas of the request comes first.

        Raises:
            ServiceError: The model reads no query.
        """
        if not self.query:
            allowed = "a model with a feature of kind 'text' of the context"
            raise ServiceError(422, f"query={query[:60]!r}: this model reads no query; allowed: {allowed}")
        return {**self._canvas, **features, self.query: [query]}
