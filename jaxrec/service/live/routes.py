"""Routes of live events: slates by segment, and the stream of messages."""

from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from jaxrec.core.json_io import dumps
from jaxrec.service.answer_schemas import SlateAnswer, SlatesAnswer
from jaxrec.service.live.slates import LiveSlates
from jaxrec.service.live.stream import LiveStream
from jaxrec.service.openapi import ERRORS
from jaxrec.service.options import ServiceError

_TEXT = Query(max_length=200)


def add_live(app: FastAPI, slates: LiveSlates | None, stream: LiveStream | None) -> None:
    """Add the routes of live events that have a folder of slates or a log.

    Args:
        app: Application.
        slates: Slates; None: no route of slates.
        stream: Stream of messages; None: no stream, and no content is withheld.
    """
    if slates is not None:
        _add_slates(app, slates, stream)
    if stream is not None:
        _add_stream(app, stream)
    if slates is not None and stream is not None:
        _add_page(app)


def _add_slates(app: FastAPI, slates: LiveSlates, stream: LiveStream | None) -> None:
    @app.get("/v1/slates", response_model=SlatesAnswer, responses=ERRORS["get"])
    async def events() -> Response:
        """List the events by precedence, the stages and regions of their slates, and the segments."""
        kept = {name: slates.manifest[name] for name in ("model", "titles", "spare", "regions", "events")}
        kept["segments"] = slates.manifest["segments"]["by"]
        return Response(dumps(kept), 200, media_type="application/json")

    @app.get("/v1/slates/{segment}", response_model=SlateAnswer, responses=ERRORS["slates"])
    async def slate(
        segment: str,
        event: Annotated[str, _TEXT],
        stage: Annotated[str, _TEXT],
        region: Annotated[str, _TEXT] = "",
        if_none_match: Annotated[str, Header()] = "",
    ) -> Response:
        """Return the slate of a segment in a stage of an event; its ETag is the hash of its content."""
        name, content = slates.find(segment, event, stage, region)
        if stream is not None and stream.is_withheld(event, stage):
            raise ServiceError(
                404, f"stage={stage!r} of {event} is withheld until a message that states it is in force"
            )
        headers = slates.headers(name)
        if headers["ETag"] in if_none_match:
            return Response(status_code=304, headers=headers)
        return Response(content, 200, headers, "application/json")


def _add_stream(app: FastAPI, stream: LiveStream) -> None:
    more: dict[int | str, Any] = {200: {"content": {"text/event-stream": {}}}}

    @app.get("/v1/live", response_class=Response, responses=ERRORS["stream"] | more)
    async def live(last_event_id: Annotated[str, Header()] = "") -> Response:
        """Stream the messages of live events: first those after Last-Event-ID, or all, then new ones."""
        stream.check_room()
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            stream.events(last_event_id), headers=headers, media_type="text/event-stream"
        )


def _add_page(app: FastAPI) -> None:
    page = resources.files("jaxrec.service").joinpath("live.html").read_text("utf-8")

    @app.get("/live", response_class=HTMLResponse, include_in_schema=False)
    async def demo() -> HTMLResponse:
        """Return the page of a device, the reference client."""
        return HTMLResponse(page)
