"""HTTP application: routes, errors and their OpenAPI description."""

import contextlib
import re
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from jaxrec.core.errors import InputError
from jaxrec.service import answer_schemas, schemas
from jaxrec.service.answers.cache import AnswerCache, cache_key
from jaxrec.service.answers.columns import to_bytes
from jaxrec.service.answers.model import ServedModel
from jaxrec.service.batching import Batcher
from jaxrec.service.limits import RequestLimits, error_body
from jaxrec.service.live.routes import add_live
from jaxrec.service.live.slates import LiveSlates
from jaxrec.service.live.stream import LiveStream
from jaxrec.service.metrics import Metrics, RequestMetrics
from jaxrec.service.openapi import ERRORS, describe
from jaxrec.service.options import ServiceError, ServiceOptions
from jaxrec.service.reloading import ModelHolder

_MOST_TEXT = 200  # characters of a search
_MOST_FOUND = 50  # titles of a search
_HIDDEN = ("files", "config", "layout")  # of the manifest: long


class Service:
    """Service of an export: the model, the queue, the cache and the metrics.

    Args:
        folder: Folder of the export.
        options: Options.

    Raises:
        InputError: As for `ExportedRecommender.load`.
    """

    def __init__(self, folder: str, options: ServiceOptions) -> None:
        self.options, self.metrics = options, Metrics()
        self.holder = ModelHolder(folder, options, self.metrics)
        self.batcher = Batcher(options, self.metrics)
        self.cache = AnswerCache(options.cache_entries)
        self.is_stopping = False
        self.slates = LiveSlates(options.slates, options.slate_max_age) if options.slates else None
        self.stream: LiveStream | None = None
        if options.live_log:
            limits = options.max_streams, options.heartbeat
            self.stream = LiveStream(options.live_log, *limits, lambda: self.is_stopping)

    def start(self) -> None:
        """Start the threads."""
        self.batcher.start()
        self.holder.start()

    def stop(self) -> None:
        """Answer what waits and end the threads."""
        self.holder.stop()
        self.batcher.stop()

    @property
    def state(self) -> str:
        """Return "ready", or the reason why requests are not served."""
        if self.is_stopping:
            return "stopping"
        return "ready" if self.holder.is_compiled else "compiling"

    def parse(self, body: bytes, name: str) -> tuple[ServedModel, Any]:
        """Return the model and the request of a body.

        Args:
            body: JSON.
            name: Name of the schema in `RequestSchemas`.

        Raises:
            ServiceError: The service is not ready, or the body does not fit its schema.
        """
        if not self.holder.is_compiled:
            raise ServiceError(503, "the model is being compiled; send the request again", retry_after=5)
        model = self.holder.model
        schema: type[BaseModel] = getattr(model.schemas, name)
        try:
            return model, schema.model_validate_json(body)
        except ValidationError as error:
            raise _refusal(error) from None

    async def cached(
        self, model: ServedModel, route: str, request: BaseModel, compute: Callable[[], Awaitable[Any]]
    ) -> Response:
        """Return the answer of the cache, or compute it."""
        if not self.options.cache_entries:
            return _json(to_bytes(await compute()))
        canonical = request.model_dump_json(by_alias=True).encode()
        key = cache_key(model.fingerprint, route, canonical)
        answer = self.cache.get(key)
        self.metrics.cache.labels("miss" if answer is None else "hit").inc()
        if answer is None:
            answer = to_bytes(await compute())
            self.cache.put(key, answer)
            self.metrics.cached.set(len(self.cache))
        return _json(answer)


def make_app(service: Service) -> FastAPI:
    """Return the application of a service."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGHUP, lambda *_: service.holder.request_reload())
        if service.stream is not None:
            service.stream.start()
        yield
        if service.stream is not None:
            await service.stream.stop()
        service.stop()

    app = FastAPI(
        title="jaxrec", version="1", lifespan=lifespan, responses={}, redoc_url=None,
        description="Recommendations, searches, scores and similar titles of an exported model.",
    )  # fmt: skip
    app.add_middleware(RequestLimits, options=service.options, is_stopping=lambda: service.is_stopping)
    _add_errors(app)
    _add_recommendations(app, service)
    _add_catalogue(app, service)
    _add_operations(app, service)
    add_live(app, service.slates, service.stream)
    app.add_middleware(RequestMetrics, metrics=service.metrics)
    describe(app, service.holder.model.schemas, bool(service.options.token))
    return app


def _add_recommendations(app: FastAPI, service: Service) -> None:
    @app.post("/v1/recommend", response_model=answer_schemas.RecommendAnswer, responses=ERRORS["body"])
    async def recommend(request: Request) -> Response:
        """Recommend titles to a user."""
        model, wanted = service.parse(await request.body(), "recommend")
        job = model.recommend_job(wanted)
        return await service.cached(model, "recommend", wanted, lambda: service.batcher.submit(job))

    @app.post("/v1/search", response_model=answer_schemas.SearchAnswer, responses=ERRORS["body"])
    async def search(request: Request) -> Response:
        """Search titles by a query, for a user or for nobody."""
        model, wanted = service.parse(await request.body(), "search")
        job = model.search_job(wanted)
        return await service.cached(model, "search", wanted, lambda: service.batcher.submit(job))

    @app.post("/v1/score", response_model=answer_schemas.ScoreAnswer, responses=ERRORS["titles"])
    async def score(request: Request) -> Response:
        """Score titles for a user."""
        model, wanted = service.parse(await request.body(), "score")
        job = model.score_job(wanted)
        return await service.cached(model, "score", wanted, lambda: service.batcher.submit(job))

    @app.post("/v1/similar", response_model=answer_schemas.SimilarAnswer, responses=ERRORS["titles"])
    async def similar(request: Request) -> Response:
        """List the titles that are most similar to a title."""
        model, wanted = service.parse(await request.body(), "similar")
        most = min(model.max_k, len(model.titles) - 1)
        if wanted.k > most:
            raise ServiceError(422, f"k={wanted.k}; allowed: 1 to {most}")
        model.ids([wanted.title])

        def compute() -> Any:
            return service.batcher.submit(lambda: model.similar(wanted.title, wanted.k))

        return await service.cached(model, "similar", wanted, compute)


def _add_catalogue(app: FastAPI, service: Service) -> None:
    @app.get("/v1/titles", response_model=answer_schemas.TitlesAnswer, responses=ERRORS["query"])
    def titles(
        text: Annotated[str, Query(max_length=_MOST_TEXT)] = "",
        limit: Annotated[int, Query(ge=1, le=_MOST_FOUND)] = 10,
    ) -> Response:
        """Find titles by name or key, the most popular first."""
        return _json(to_bytes({"titles": service.holder.model.find_titles(text, limit)}))

    @app.get("/v1/manifest", response_model=answer_schemas.ManifestAnswer, responses=ERRORS["get"])
    def manifest() -> Response:
        """Return the manifest of the export, without its files and its config."""
        model = service.holder.model
        kept = {k: v for k, v in model.recommender.manifest.items() if k not in _HIDDEN}
        columns: dict[str, Any] = {c.role: {"name": c.name, "kind": c.kind} for c in model.schemas.plays}
        if "seconds" in columns:
            columns["seconds"]["examples"] = schemas.watch_times(model.recommender.manifest["columns"])
        return _json(to_bytes({"model": model.fingerprint, "columns": columns, "manifest": kept}))


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=answer_schemas.HealthAnswer, responses=ERRORS["health"])
    async def health() -> Response:
        """Report that the process runs: 503 where the first model cannot be compiled."""
        failure = service.holder.failure
        return _json(to_bytes({"status": failure or "alive"}), 503 if failure else 200)

    @app.get("/readyz", response_model=answer_schemas.HealthAnswer, responses=ERRORS["health"])
    async def ready() -> Response:
        """Report if requests are served: 503 while the model is compiled, and after a stop signal."""
        state = service.state
        service.metrics.ready.set(state == "ready")
        answer = {
            "status": state, "model": service.holder.model.fingerprint, "reload_error": service.holder.error
        }  # fmt: skip
        return _json(to_bytes(answer), 200 if state == "ready" else 503)

    @app.get("/metrics", response_class=Response, responses=ERRORS["metrics"])
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    page = resources.files("jaxrec.service").joinpath("page.html").read_text("utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def demo() -> HTMLResponse:
        """Return the demo page."""
        return HTMLResponse(page)


# ---------------------------------------------------------------- errors


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def refused(_: Request, error: ServiceError) -> Response:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return _json(error_body(error.message), error.status, headers)

    @app.exception_handler(InputError)
    async def wrong_input(_: Request, error: InputError) -> Response:
        return _json(error_body(" ".join(str(error).split())), 422)

    @app.exception_handler(RequestValidationError)
    async def wrong_query(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _json(error_body(f"{where}: {first['msg']}"), 422)

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, error: HTTPException) -> Response:
        return _json(error_body(str(error.detail)), error.status_code, error.headers)


def _refusal(error: ValidationError) -> ServiceError:
    """Return the error of a body, in one line: where, what, and the value."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return ServiceError(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    # Of a value of several types pydantic names the type too: "constrained-int", "function-before[...]".
    parts = [str(part) for part in first["loc"]]
    where = ".".join(p for p in parts if not re.fullmatch(r"(constrained-)?(int|str|float|bool)|.*\[.*", p))
    where = where or "body"
    value = repr(first["input"])
    value = f"={value}" if len(value) <= 60 and first["type"] != "missing" else ""
    return ServiceError(422, f"{where}{value}: {first['msg']}")


def _json(body: bytes, status: int = 200, headers: Any = None) -> Response:
    return Response(body, status, headers, "application/json")
