"""A small HTTP service that asks the next one and says who answered.

``GET /…`` gives ``{"answered": ["api@app-1", "db@app-2"]}``: itself, then whoever the next service named. The
path and query go on unchanged. ``GET /healthz`` asks nobody.
"""

import argparse
import http.client
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 5.0


class _Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, listen: tuple[str, int], me: str, following: str) -> None:
        self.me = me
        self.following = following
        super().__init__(listen, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one segment: no wait for a delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        service = self.server
        assert isinstance(service, _Service)
        if self.path == "/healthz":
            self._answer(200, {"service": service.me})
            return
        if not service.following:
            self._answer(200, {"answered": [service.me], "path": self.path})
            return
        try:
            status, body = _ask(service.following, self.path)
        except (OSError, http.client.HTTPException) as error:
            self._answer(502, {"answered": [service.me], "error": f"{type(error).__name__}: {error}"})
            return
        body["answered"] = [service.me, *body.get("answered", [])]
        self._answer(status, body)

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the base class names it
        print(f"{self.client_address[0]} {format % values}", flush=True)


def _ask(base: str, path: str) -> tuple[int, dict[str, Any]]:
    """Ask the next service over a connection of its own."""
    url = urlsplit(base)
    connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = json.loads(response.read())
        return response.status, body if isinstance(body, dict) else {}
    finally:
        connection.close()


def main() -> int:
    """Serve until ended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--name", required=True, help="as in api@app-1")
    arguments.add_argument("--listen", default="127.0.0.1")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--next", default="", help="the base URL of the service to ask")
    given = arguments.parse_args()
    with _Service((given.listen, given.port), given.name, given.next) as service:
        print("serving", flush=True)
        service.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
