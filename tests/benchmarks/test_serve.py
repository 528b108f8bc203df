"""The benchmark of the service: its percentiles, and requests that are open-loop."""

import asyncio
import time

import numpy as np

from benchmarks import serve


def test_percentiles_count_failures_as_the_latest():
    seconds = np.arange(1, 99) / 1000  # 1 to 98 ms
    result = serve.summary(seconds, failed=2, duration=2.0)
    assert (result["p50_ms"], result["p90_ms"]) == (50.0, 90.0)
    assert result["p99_ms"] == 10_000.0 and result["requests"] == 100
    assert result["goodput"] == 25.0  # 50 answers within 50 ms, in 2 s


def test_a_slow_answer_does_not_delay_the_next_request():
    arrived = []

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(2)
        arrived.append(time.perf_counter())
        while len(arrived) < 5:  # no answer before the last request has come
            await asyncio.sleep(0.001)
        status = b"503 Busy" if body == b"04" else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def both():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await serve.send(port, [b"%02d" % i for i in range(5)], rate=200.0, seed=0)

    seconds, failed = asyncio.run(both())
    assert (len(seconds), failed) == (4, 1) and min(seconds) > 0
