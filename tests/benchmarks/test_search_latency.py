"""Searches of the benchmark of latency: names typed letter by letter, on the path of searches."""

import asyncio
import json

import numpy as np

from benchmarks import search_latency, serve


def test_a_name_is_typed_from_the_second_letter_to_the_eighth(tmp_path):
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays/title_key.npy", np.arange(3))
    np.save(tmp_path / "arrays/title_names.npy", np.array(["bari", "a", "", "lebo ru fake"]))
    columns = {role: {"column": role} for role in ("title", "time", "seconds")}
    (tmp_path / "manifest.json").write_text(json.dumps({"columns": {"plays": columns}}))
    bodies = [json.loads(body) for body in search_latency.search_bodies(str(tmp_path), 4, 40, seed=1)]
    assert len(bodies) == 40 and len({body["user"] for body in bodies}) == 40
    assert {len(body["history"]) for body in bodies} == {4}
    starts = [i for i, body in enumerate(bodies) if len(body["query"]) == 2]
    typed = [
        [body["query"] for body in bodies[i:j]] for i, j in zip(starts, [*starts[1:], None], strict=True)
    ]
    words = {"ba": ["ba", "bar", "bari"], "le": ["lebo ru "[:n] for n in range(2, 9)]}
    assert {name[0] for name in typed} == {*words}
    assert all(name == words[name[0]] for name in typed[:-1])


def test_requests_are_sent_to_the_path():
    paths = []

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        paths.append(head.split(b" ", 2)[1])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def both():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return [await serve.send(port, [b"{}"], 100.0, 0, *path) for path in ((), (search_latency.PATH,))]

    assert [failed for _, failed in asyncio.run(both())] == [0, 0]
    assert paths == [b"/v1/recommend", b"/v1/search"]
