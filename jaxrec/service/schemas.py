"""Schemas of requests: strict pydantic models in the columns of an export."""

from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from jaxrec.core.tables import REGION, TIME
from jaxrec.service.options import ServiceOptions

_INT64 = 2**63
_MOST_TIME = {"s": 10**11, "ms": 10**14, "us": 10**17, "ns": 9 * 10**18}  # by unit: year 5138; 2255
_MOST_TEXT = 200  # characters of a key or of a category
_MOST_FREE_TEXT = 2**16  # characters of a text feature, of which the first are read
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _as_whole(value: Any) -> Any:
    """Return a number without a fraction as an int: in JSON Schema `1.0` is a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole(least: int, most: int, description: str | None = None) -> Any:
    """Return the type of a whole number, whose limits are in its JSON Schema: they are those of the int."""
    limits = Field(ge=least, le=most, description=description)
    return Annotated[int, limits, BeforeValidator(_as_whole)]


Whole = Annotated[int, Field(ge=-_INT64, lt=_INT64), BeforeValidator(_as_whole)]
Text = Annotated[str, Field(max_length=_MOST_TEXT)]
Key = Whole | Text
Number = Annotated[float, Field(ge=-1e15, le=1e15)]


class Column(NamedTuple):
    """Column of a request: the attribute of its schema, its name for the caller, its kind."""

    attribute: str
    name: str
    kind: str  # as in `core.tables.Titles`, and "decimal time"
    role: str  # title, time or seconds; another name: a feature


class RequestSchemas(NamedTuple):
    """Schemas of the requests of an export, and the columns of their plays and features."""

    recommend: type[BaseModel]
    search: type[BaseModel]
    score: type[BaseModel]
    similar: type[BaseModel]
    plays: tuple[Column, ...]
    features: tuple[Column, ...]


def request_schemas(columns: dict[str, Any], titles: list[Any], options: ServiceOptions) -> RequestSchemas:
    """Return the schemas of the requests of an export.

    Args:
        columns: Columns of the manifest.
        titles: A few titles, for the examples.
        options: Limits.
    """
    unit = columns["time_unit"]
    roles = {role: spec for role, spec in columns["plays"].items() if role != "user"}
    plays = _columns("play_", roles | columns["context"] | columns.get("signals", {}))
    declared = {n: s for n, s in columns["user"].items() if n not in (REGION, TIME)}
    features = _columns("feature_", columns["context"] | declared)
    required = {spec.name for spec in _columns("", roles)}
    play_fields: dict[str, Any] = {c.attribute: _field(c, unit, c.name in required) for c in plays}
    feature_fields: dict[str, Any] = {c.attribute: _field(c, unit, False) for c in features}
    play = create_model(
        "Play", __config__=_STRICT, __doc__="One play, in the columns of the config.",
        **play_fields,
    )  # fmt: skip
    of_user = create_model(
        "Features", __config__=_STRICT,
        __doc__="Features of the user, and context of the request; without a value: unknown.",
        **feature_fields,
    )  # fmt: skip
    most = options.max_titles
    listed = Annotated[list[Key], Field(max_length=most)]
    history: Any = Annotated[list[play], Field(max_length=options.max_plays)]  # type: ignore[valid-type]
    user_fields: dict[str, Any] = {
        "user": (Key | None, Field(None, description="Returned, and part of the key of the cache.")),
        "history": (history, Field([], description="Plays in any order.")),
        "features": (of_user | None, None),
        "time": (
            _time(unit) | None,
            Field(None, description="Of the request; null: just after the last play."),
        ),
    }
    example = _example(plays, titles, columns)
    recommend, search = _list_requests(user_fields, example, listed, options)
    score = create_model(
        "ScoreRequest", __config__=_with_example(example | {"titles": titles[:2]}), **user_fields,
        titles=(Annotated[list[Key], Field(min_length=1, max_length=most)], ...),
    )  # fmt: skip
    similar = create_model(
        "SimilarRequest", __config__=_with_example({"title": titles[0], "k": 5}), title=(Key, ...),
        k=(_whole(1, options.max_k), min(10, options.max_k)),
    )  # fmt: skip
    return RequestSchemas(recommend, search, score, similar, plays, features)


def _list_requests(
    user_fields: dict[str, Any], example: dict[str, Any], listed: Any, options: ServiceOptions
) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the schemas of requests of lists: recommendations and searches.

    Args:
        user_fields: Fields of the user and of the request.
        example: Values of these fields.
        listed: Type of a list of titles.
        options: Limits.
    """
    with_reasons = {
        "if": {"properties": {"explain": {"const": True}}, "required": ["explain"]},
        "then": {"properties": {"k": {"maximum": options.explained_titles}}},
    }
    of_list: dict[str, Any] = {
        "k": (_whole(1, options.max_k), min(20, options.max_k)),
        "allow": (listed | None, Field(None, description="The only titles to recommend.")),
        "deny": (listed, Field([], description="Titles to leave out.")),
        "explain": (
            bool,
            Field(False, description=f"Give reasons; k up to {options.explained_titles} then."),
        ),
    }
    recommend = create_model(
        "RecommendRequest", __config__=_with_example(example | {"k": 5}, with_reasons),
        **user_fields, **of_list,
        filter_watched=(bool, True), filter_abandoned=(bool, True),
    )  # fmt: skip
    text = Field(max_length=_MOST_FREE_TEXT, description="Any text; a prefix of a name is enough.")
    search = create_model(
        "SearchRequest", __config__=_with_example(example | {"query": "ba", "k": 5}, with_reasons),
        query=(Annotated[str, text], ...), **user_fields, **of_list,
        filter_watched=(bool, False), filter_abandoned=(bool, False),
        matches_first=(bool, Field(True, description="List titles whose name matches the query first.")),
    )  # fmt: skip
    return recommend, search


def _columns(prefix: str, specs: dict[str, Any]) -> tuple[Column, ...]:
    """Return the columns of specs of the manifest; of names separated by "|" the first is taken."""
    return tuple(
        Column(f"{prefix}{i}", spec["column"].split("|")[0], spec["kind"], role)
        for i, (role, spec) in enumerate(specs.items())
    )


def _field(column: Column, unit: str, required: bool) -> tuple[Any, Any]:
    times = {"time": _time(unit), "decimal time": _time(unit) | Number}
    text = Annotated[str, Field(max_length=_MOST_FREE_TEXT)]
    types: dict[str, Any] = {
        "free text": text,
        "key": Key,
        "number": Number,
        "whole": Whole,
        "flag": bool | Key,
        **times,
    }
    kind = types.get(column.kind, Key)
    if required:
        return kind, Field(alias=column.name)
    return kind | None, Field(None, alias=column.name)


def _time(unit: str) -> Any:
    most = _MOST_TIME[unit]
    whole = _whole(-most, most, f"{unit} since 1970")
    text = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
    return whole | text


def _with_example(example: dict[str, Any], conditions: dict[str, Any] | None = None) -> ConfigDict:
    """Return the config of a request, with an example and conditions on several fields in its JSON Schema."""
    return ConfigDict(**_STRICT, json_schema_extra={"examples": [example]} | (conditions or {}))


def watch_times(columns: dict[str, Any]) -> tuple[float, float]:
    """Return watch times of a title watched for long and of a title that was abandoned, in the log's unit.

    Args:
        columns: Columns of the manifest.
    """
    long, short = (0.95, 0.01) if columns["fractions"] else (5000.0, 40.0)
    return round(long / columns["seconds"], 6), round(short / columns["seconds"], 6)


def _example(plays: tuple[Column, ...], titles: list[Any], columns: dict[str, Any]) -> dict[str, Any]:
    """Return a user with two plays, the second abandoned."""
    history: list[dict[str, Any]] = [{}, {}]
    times = "2025-01-01T20:00:00Z", "2025-01-02T21:30:00Z"
    values = {"title": (titles[0], titles[-1]), "time": times, "seconds": watch_times(columns)}
    for column in plays:
        for play, value in zip(history, values.get(column.role, ()), strict=False):
            play[column.name] = value
    return {"user": "ann", "history": history}
