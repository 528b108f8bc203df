"""Server of the application: sockets, signals and a graceful stop."""

import asyncio
import os
import socket
import sys
from types import FrameType

import uvicorn

from jaxrec.core.errors import InputError
from jaxrec.service.app import Service, make_app
from jaxrec.service.options import ServiceOptions

_BACKLOG = 2048  # connections that wait to be accepted; uvicorn's default
_THREAD_SECONDS = 0.2  # that a stop leaves to the thread which compiles; no result is lost


class _Server(uvicorn.Server):
    """Server that serves on for a while after a stop signal, and then ends with status 0.

    Load balancers read /readyz, so that no request comes once the sockets close.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the stop; a second signal ends the wait."""
        if self._service.is_stopping:
            self.should_exit = True
            return
        self._service.is_stopping = True
        asyncio.get_running_loop().call_later(self._service.options.drain, self._finish)

    def _finish(self) -> None:
        self.should_exit = True


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections, so that a client may connect once its address is printed.

    Args:
        host: Address to listen at.
        port: Port; 0: a free one.

    Raises:
        InputError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise InputError(f"--host={host} --port={port}: {error.strerror}; allowed: a free port") from error
    return listener


def serve(folder: str, options: ServiceOptions, host: str, port: int) -> None:
    """Serve an export until a stop signal.

    Args:
        folder: Folder of the export.
        options: Options.
        host: Address to listen at.
        port: Port; 0: a free one, which is printed.

    Raises:
        InputError: The export cannot be loaded, or the address cannot be used.
    """
    service = Service(folder, options)
    listener = listening_socket(host, port)
    config = uvicorn.Config(
        make_app(service), log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=int(options.timeout) + 1,
    )  # fmt: skip
    print(f"serving {folder} at http://{host}:{listener.getsockname()[1]}", flush=True)
    with listener:
        _Server(config, service).run(sockets=[listener])
    if not service.holder.ends_within(_THREAD_SECONDS):
        # The interpreter would end a thread inside XLA, which aborts the process: status -6 in place of 0.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
