"""The answers that tell that a service which a run needs is there."""

import socket
import threading

import pytest

from bi_pipeline.lifetime.service_watch import _answers


@pytest.fixture(params=[b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b""])
def proxy(request, monkeypatch):
    """A proxy for everything that gives this answer, or none at all; yields the answer."""
    monkeypatch.setattr("bi_pipeline.lifetime.service_watch.POLL_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(200)
                if request.param:
                    connection.sendall(request.param)
                else:
                    # Waits until the client gives up: if this side closed first, the proxy would
                    # not hang.
                    connection.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield request.param


def test_proxy_that_hangs_is_no_answer_and_one_that_refuses_is(proxy):
    assert _answers("https://example.org") is bool(proxy)
