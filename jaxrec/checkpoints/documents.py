"""JSON items of a checkpoint, checked when they are read: the document of `meta`, and the metrics."""

from collections.abc import Mapping
from typing import Any

from jaxrec.core.errors import InputError
from jaxrec.core.json_io import ANY_KEY, check_shape

FORMAT = 1  # version of the layout of meta and arrays
_DOCUMENT = {"arrays": {ANY_KEY: list}, "meta": dict}


def checked_document(document: Any, what: str) -> dict[str, Any]:
    """Return the document of a step, whose format and shape are those of `Checkpointer.save`.

    Raises:
        InputError: The format is another, or a key is missing or of another type.
    """
    version = document.get("format") if isinstance(document, dict) else None
    if version != FORMAT or isinstance(version, bool):
        raise InputError(
            f"{what}: format={version}; allowed: {FORMAT}; read it with the version of jaxrec that wrote it"
        )
    check_shape(document, _DOCUMENT, what)
    for name, spec in document["arrays"].items():
        if len(spec) != 2 or not isinstance(spec[0], str) or not isinstance(spec[1], list):
            raise InputError(f"{what}: arrays: {name} is {spec}; allowed: a dtype and a shape")
    return document


BEST = "best"  # key of a step's metrics: the value that decides which step is the best, larger is better
_OLD_BEST = ("ndcg@10", "ndcg@1")  # that value in steps of before BEST was stored: of all titles, of lists


def checked_metric(metrics: Any, what: str) -> float:
    """Return the value that decides which step is the best.

    It is stored under BEST. Steps of before are of next-item models, whose value is that of NDCG@10 of all
    titles, or of ranking models, whose value is NDCG@1.

    Raises:
        InputError: The metrics of a step are no object, or do not hold the value as a number.
    """
    names = [name for name in (BEST, *_OLD_BEST) if isinstance(metrics, Mapping) and name in metrics]
    name = names[0] if names else _OLD_BEST[-1]
    check_shape(metrics, {name: float}, f"{what}: metrics of a step")
    return metrics[name]
