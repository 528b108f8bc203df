"""OpenAPI description: bodies, answers and errors of every route."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from jaxrec.service.answer_schemas import ErrorAnswer, HealthAnswer
from jaxrec.service.schemas import RequestSchemas

_REASONS = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    404: "A title is unknown.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "A value is not allowed; the message names it and what is allowed.",
    503: "The model is being compiled, or too many requests wait; Retry-After gives seconds.",
    504: "No answer in time; Retry-After gives seconds.",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": _REASONS[status]} for status in statuses}


ERRORS: dict[str, dict[int | str, dict[str, Any]]] = {
    "body": _errors(400, 401, 408, 413, 422, 503, 504),
    "titles": _errors(400, 401, 404, 408, 413, 422, 503, 504),
    "query": _errors(401, 408, 413, 422),
    "get": _errors(401, 408, 413),
    "slates": _errors(401, 404, 408, 413, 422) | {304: {"description": "The device has this slate."}},
    "stream": _errors(401, 408, 413, 503),
    "health": _errors(408, 413) | {503: {"model": HealthAnswer}},
    "metrics": _errors(408, 413) | {200: {"content": {"text/plain": {}}}},
}


def describe(app: FastAPI, schemas: RequestSchemas, has_token: bool) -> None:
    """Add the bodies of requests to the OpenAPI description of an application.

    The routes parse their bodies themselves, in one pass, so that FastAPI cannot derive them.

    Args:
        app: Application with its routes.
        schemas: Schemas of the requests.
        has_token: The routes of /v1 need a token.
    """
    bodies = {
        "/v1/recommend": schemas.recommend, "/v1/search": schemas.search, "/v1/score": schemas.score,
        "/v1/similar": schemas.similar,
    }  # fmt: skip
    _, definitions = models_json_schema(
        [(body, "validation") for body in bodies.values()], ref_template="#/components/schemas/{model}"
    )
    made = app.openapi()
    made["components"]["schemas"] |= definitions["$defs"]
    for path, body in bodies.items():
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        examples = definitions["$defs"][body.__name__].get("examples", [])
        if examples:
            content["application/json"]["example"] = examples[0]
        made["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    if has_token:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in made["paths"].items():
            for method in methods.values() if path.startswith("/v1/") else ():
                method["security"] = [{"token": []}]
    app.openapi_schema = made
