"""A proxy before an S3 server that fails some of the requests, as networks and busy servers do."""

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAYS = ("503 before", "503 after", "cut before", "cut after")
"""A request that is refused or cut off, before the server has it or after it was carried out."""


class FlakyProxy:
    """Passes requests on, and fails a share of them.

    Attributes
    ----------
    url
        Of the proxy.
    failed : Counter of str
        How many requests were failed, by the way.
    passed : int
        How many were passed on and answered.
    """

    def __init__(self, server: str, share: float, seed: int) -> None:
        self._server, self._share = server, share
        self._random, self._lock = random.Random(seed), threading.Lock()
        self.failed: Counter[str] = Counter()
        self.passed = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                proxy.handle(self)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"

    def choose(self) -> str | None:
        """Choose how to fail the next request; None to pass it on."""
        with self._lock:
            way = self._random.choice(WAYS) if self._random.random() < self._share else None
            if way is None:
                self.passed += 1
            else:
                self.failed[way] += 1
            return way

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        way = self.choose()
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if way is None or way.endswith("after"):
            upstream = http.client.HTTPConnection(self._server.removeprefix("http://"), timeout=30)
            with contextlib.closing(upstream):
                # The host stays what the client signed.
                headers = dict(request.headers.items())
                upstream.request(request.command, request.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
        if way is not None and way.startswith("cut"):
            request.close_connection = True
            request.connection.close()
        elif way is not None:
            request.send_response(503)
            request.send_header("Content-Length", "0")
            request.end_headers()
        else:
            request.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    request.send_header(name, value)
            length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(content))
            request.send_header("Content-Length", length or "0")
            request.end_headers()
            request.wfile.write(content)

    @contextlib.contextmanager
    def serving(self) -> Iterator["FlakyProxy"]:
        """Serve for the length of a ``with`` block."""
        thread = threading.Thread(target=self._listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._listener.shutdown()
            self._listener.server_close()
