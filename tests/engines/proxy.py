"""Forward TCP connections to a server on this machine, and cut them on request:

    python tests/engines/proxy.py PORT SERVER_PORT

SIGUSR1 closes all connections and refuses new ones; SIGUSR2 accepts connections again. Each prints a line.
"""

import asyncio
import signal
import sys


class Proxy:
    """Listener on `port` that forwards to `server_port`."""

    def __init__(self, port: int, server_port: int) -> None:
        self._port, self._server_port = port, server_port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._forward, "localhost", self._port)
        print(f"forwarding {self._port} to {self._server_port}", flush=True)

    def cut(self) -> None:
        """Close all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        connections = len(self._open)
        for writer in self._open:
            writer.transport.abort()
        print(f"cut {connections} connections", flush=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("localhost", self._server_port)
        self._open |= {writer, forth}
        await asyncio.gather(_copy(reader, forth), _copy(back, writer))
        self._open -= {writer, forth}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until either end closes its connection."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError as error:
        print(f"connection ended: {error!r}", flush=True)
    finally:
        writer.close()


async def main(port: int, server_port: int) -> None:
    """Forward until the process is ended."""
    proxy, loop = Proxy(port, server_port), asyncio.get_running_loop()
    tasks = set()
    loop.add_signal_handler(signal.SIGUSR1, proxy.cut)
    loop.add_signal_handler(signal.SIGUSR2, lambda: tasks.add(asyncio.ensure_future(proxy.listen())))
    await proxy.listen()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
