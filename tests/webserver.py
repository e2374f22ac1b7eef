"""A real HTTP server on the loopback address, whose answers tests write in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], object]


class Web:
    """``answers`` has a function for each path, ``asked`` the headers of all requests; ``url(path)`` is where it is.

    ``over`` is set when the test ends: who dribbles or waits must look at it.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[dict[str, str]] = []
        self.over = Event()
        self.port = 0

    def url(self, path: str = "/list") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def text(self, body: bytes, path: str = "/list", status: int = 200, **headers: str) -> None:
        """Answers with a body. ``If_None_Match`` and the like are not looked at."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                request.send_header(name.replace("_", "-"), value)
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer


@contextmanager
def web_server() -> Iterator[Web]:
    """Runs one, on a port of its own."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            web.asked.append(dict(self.headers))
            with suppress(OSError):  # the client has gone, which it may
                web.answers[self.path](self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    web.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
