"""Limits of a request before it is parsed: token, bytes and time of the body, and the header of a stop."""

import asyncio
import hmac
import json
from collections.abc import Callable
from typing import Any

from jaxrec.service.options import ServiceError, ServiceOptions


def error_body(message: str) -> bytes:
    """Return the body of an error."""
    return json.dumps({"error": message}).encode()


class RequestLimits:
    """ASGI middleware that reads the body within the limits and checks the token of /v1.

    Args:
        app: Application.
        options: Limits.
        is_stopping: Returns True after a stop signal; answers close their connection then, so that no client
            sends a request on a connection that is about to end.
    """

    def __init__(self, app: Any, options: ServiceOptions, is_stopping: Callable[[], bool]) -> None:
        self._app, self._options, self._is_stopping = app, options, is_stopping

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start" and self._is_stopping():
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        try:
            headers = dict(scope["headers"])
            if scope["path"].startswith("/v1/"):
                self._check_token(headers)
            body = await self._read(headers, receive)
        except ServiceError as error:
            await _send_error(error, send)
            return
        sent = False

        async def replay() -> Any:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send_with_headers)

    def _check_token(self, headers: dict[bytes, bytes]) -> None:
        expected = f"Bearer {self._options.token}".encode()
        if self._options.token and not hmac.compare_digest(headers.get(b"authorization", b""), expected):
            raise ServiceError(401, "the token is missing or wrong; send Authorization: Bearer TOKEN")

    async def _read(self, headers: dict[bytes, bytes], receive: Any) -> bytes:
        """Return the body; raise ServiceError above the limit of bytes or of time."""
        most = self._options.max_body
        too_large = ServiceError(413, f"the body is too large; allowed: {most} bytes")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._options.timeout):
                while True:
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise ServiceError(
                408, f"the body did not arrive within {self._options.timeout:g} s; send it again"
            ) from None


async def _send_error(error: ServiceError, send: Any) -> None:
    """Send an error, and close the connection: the rest of the body is not read."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error_body(error.message)})
