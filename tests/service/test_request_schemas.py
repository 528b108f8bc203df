"""Schemas of requests: signals that are interaction features are optional columns of the plays."""

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from jaxrec.config.schema import Feature, KuaiRand, Signal
from jaxrec.data.events.history_columns import HistoryColumns
from jaxrec.service.answers.columns import raw_column
from jaxrec.service.app import _refusal
from jaxrec.service.options import ServiceOptions
from jaxrec.service.schemas import request_schemas
from jaxrec.sources.histories import columns_to_json

SIGNALS = (Signal("like", column="is_like"), Signal("stay", "seconds", column="profile_stay_time"))
FEATURES = tuple(Feature(signal.name, "number", "interaction", 4) for signal in SIGNALS)
COLUMNS = columns_to_json(KuaiRand(), FEATURES, SIGNALS)
PLAY = {"video_id": 3, "time_ms": 1_650_000_000_000, "play_time_ms": 4000.0}


def plays_of(*plays):
    """Return the parsed plays of a request, as a service makes them."""
    schemas = request_schemas(COLUMNS, [3, 5], ServiceOptions())
    request = schemas.recommend.model_validate({"history": [*plays]})
    values = {c.name: raw_column(c, [getattr(play, c.attribute) for play in request.history])
              for c in schemas.plays}  # fmt: skip
    known = {name: column for name, column in values.items() if column is not None}
    parser = HistoryColumns(COLUMNS, np.array([3, 5]), np.ones(2))
    return parser.plays(known | {"user_id": np.zeros(len(plays), np.int64)})


@pytest.mark.parametrize(
    "like, event", [(True, 1), (1, 1), ("1", 1), (False, 0), (0, 0), ("false", 0), (None, 0)]
)
def test_a_signal_is_an_optional_column_of_a_play(like, event):
    plays = plays_of(PLAY | {"like": like, "stay": 2.5}, PLAY | {"like": True})
    assert plays.context["like"].tolist() == [event, 1]
    np.testing.assert_array_equal(plays.context["stay"], [2.5, np.nan])


def test_a_request_without_signals_has_none_of_their_columns():
    assert plays_of(PLAY).context == {}


def test_a_value_of_another_type_is_refused():
    with pytest.raises(ValidationError):
        plays_of(PLAY | {"stay": "long"})
    with pytest.raises(ValidationError):
        plays_of(PLAY | {"follow": 1})


def numbers_of(schema, path=""):
    """Yield the name and the JSON Schema of every number of a schema."""
    for name, inner in schema.get("properties", {}).items():
        yield from numbers_of(inner, f"{path}.{name}")
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        yield from numbers_of(inner, path)
    if schema.get("type") in ("integer", "number"):
        yield path, schema


@pytest.mark.parametrize("name", ["recommend", "score", "similar"])
def test_the_json_schema_has_the_limits_of_every_number(name):
    """A client that obeys the description is not refused."""
    whole = getattr(request_schemas(COLUMNS, [3, 5], ServiceOptions()), name).model_json_schema()
    numbers = [item for part in (whole, *whole.get("$defs", {}).values()) for item in numbers_of(part)]
    assert len(numbers) >= 2
    for path, schema in numbers:
        assert {"minimum", "exclusiveMinimum"} & set(schema), path
        assert {"maximum", "exclusiveMaximum"} & set(schema), path
    k = whole["properties"].get("k", {"maximum": 100})
    assert k["maximum"] == ServiceOptions().max_k


def test_a_request_without_k_is_within_the_limit_of_a_small_export():
    schemas = request_schemas(COLUMNS, [3, 5], ServiceOptions(max_k=4))
    assert schemas.recommend().k == 4 and schemas.similar(title=3).k == 4


def test_the_json_schema_has_the_limit_of_titles_with_reasons():
    options = ServiceOptions()
    whole = request_schemas(COLUMNS, [3, 5], options).recommend.model_json_schema()
    schema = {key: whole[key] for key in ("if", "then")}
    jsonschema.validate({"explain": True, "k": options.explained_titles}, schema)
    jsonschema.validate({"k": options.max_k}, schema)  # without reasons
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"explain": True, "k": options.explained_titles + 1}, schema)


@pytest.mark.parametrize(
    "body, message",
    [
        ({"k": 5000}, "k=5000: Input should be less than or equal to 100"),
        ({"history": [PLAY | {"time_ms": 10**20}]}, f"history.0.time_ms={10**20}: Input should be less than"),
        ({"user": [1]}, "user=[1]: Input should be a valid integer"),
    ],
)
def test_a_refusal_names_the_field_and_no_type_of_pydantic(body, message):
    schemas = request_schemas(COLUMNS, [3, 5], ServiceOptions())
    with pytest.raises(ValidationError) as refused:
        schemas.recommend.model_validate(body)
    assert _refusal(refused.value).message.startswith(message)
