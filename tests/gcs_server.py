"""Google Storage JSON API server for TensorStore, over the objects of bucket.GS.

Only the requests of TensorStore's gcs driver are implemented. Orbax accesses a gs:// path in two ways:
through epath and fsspec, and through this driver.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from bucket import GS

_LOCK = Lock()


def _file(bucket: str, name: str) -> Path:
    return GS._folder() / quote(f"{bucket}/{name}", safe="")


def _generation(file: Path) -> str:
    return str(file.stat().st_mtime_ns) if file.exists() else "0"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _respond(self, status, data=b"{}", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _parse_path(self):
        """Return the bucket, the object name and the query of the request."""
        url = urlsplit(self.path)
        bucket, _, rest = url.path.partition("/b/")[2].partition("/o")
        return bucket, unquote(rest.removeprefix("/")), dict(parse_qsl(url.query))

    def _meta(self, name, file):
        return {"name": name, "generation": _generation(file), "size": str(file.stat().st_size)}

    def do_GET(self):
        bucket, name, query = self._parse_path()
        self.server.requests.append(("GET", name))
        if not name:
            start = f"{bucket}/{query.get('prefix', '')}"
            names = [key.removeprefix(f"{bucket}/") for key in GS.objects() if key.startswith(start)]
            items = [self._meta(name, _file(bucket, name)) for name in names]
            return self._respond(200, json.dumps({"items": items}).encode())
        file = _file(bucket, name)
        if not file.exists():
            return self._respond(404)
        generation, data = _generation(file), file.read_bytes()
        if query.get("ifGenerationNotMatch") == generation:
            return self._respond(304, b"")
        if "Range" not in self.headers:
            return self._respond(200, data, x_goog_generation=generation)
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, len(data) - int(last))
        end = min(len(data), int(last) + 1) if first and last else len(data)
        span = f"bytes {begin}-{end - 1}/{len(data)}"
        return self._respond(206, data[begin:end], x_goog_generation=generation, Content_Range=span)

    def do_POST(self):
        bucket, _, query = self._parse_path()
        data, name = self.rfile.read(int(self.headers["Content-Length"])), query["name"]
        self.server.requests.append(("POST", name))
        file = _file(bucket, name)
        with _LOCK:
            if query.get("ifGenerationMatch", _generation(file)) != _generation(file):
                return self._respond(412)
            GS().store(f"{bucket}/{name}", data)
        return self._respond(200, json.dumps(self._meta(name, file)).encode())

    def do_DELETE(self):
        bucket, name, _ = self._parse_path()
        _file(bucket, name).unlink()
        self._respond(204, b"")


def serve() -> ThreadingHTTPServer:
    """Serve in a background thread.

    Returns:
        The running server. `requests` lists (method, object name); the caller calls `shutdown`.
    """
    server = ThreadingHTTPServer(("localhost", 0), _Handler)
    server.requests = []
    Thread(target=server.serve_forever, daemon=True).start()
    return server
