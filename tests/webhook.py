"""A webhook on 127.0.0.1: keeps what is sent to it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Webhook(ThreadingHTTPServer):
    """Answers 204 to every POST of JSON."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        # A webhook's address is its secret: all who know it can write to the channel.
        self.url = f"http://127.0.0.1:{self.server_port}/services/T0/secret-of-the-channel"
        self.received: list[dict[str, str]] = []

    def wait_for(self, matches: Callable[[str], bool], seconds: float) -> str:
        """Return the text of the first message that matches, once it is there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in self.received:
                if matches(message["text"]):
                    return message["text"]
            time.sleep(0.2)
        raise AssertionError(f"nothing of the kind in {self.received}")


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Webhook

    def do_POST(self) -> None:
        self.server.received.append(
            json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        )
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Keep the output of the tests clean."""


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Yield a webhook that answers until the end of the block."""
    with Webhook() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
