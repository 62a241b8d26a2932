"""Google's tokens, from the pipeline, which has the credentials, to dbt, which has none.

They go through a socket without a name, which only the two processes hold. A key, or
whatever else lasts, stays in the pipeline's process.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError, RefreshError
from google.auth.transport.requests import Request


def read_token(credentials: Credentials) -> str:
    """Return a token of these credentials, asking Google only if the last one has expired.

    Raises google-auth's RefreshError when Google refuses, its TransportError without network.
    """
    if not credentials.valid:
        credentials.refresh(Request())
    return credentials.token


@contextmanager
def serve_tokens(credentials: Credentials) -> Iterator[socket.socket]:
    """Yield the socket of the process that is to have tokens; answer it until it is closed."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=_answer_requests, args=(ours, credentials), daemon=True).start()
    with theirs:
        yield theirs


def _answer_requests(channel: socket.socket, credentials: Credentials) -> None:
    """Answer each line of the channel with a line of JSON: a token, or why there is none."""
    # If dbt is killed, its end of the socket closes: the answer raises, and this thread would end
    # in a traceback on the user's terminal.
    with suppress(OSError), channel, channel.makefile("rw") as lines:
        for _ in lines:
            try:
                answer = {
                    "token": read_token(credentials),
                    "expiry": credentials.expiry and credentials.expiry.isoformat(),
                    "universe_domain": credentials.universe_domain,
                    "quota_project": getattr(credentials, "quota_project_id", None),
                }
            except GoogleAuthError as error:
                answer = {"error": str(error)}
            except Exception as error:
                # If this thread ended, dbt would take the closed socket for the pipeline's death.
                answer = {"error": f"{type(error).__name__}: {error}"}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


class PipelineCredentials(Credentials):  # type: ignore[misc]
    """Google credentials that ask the pipeline for their tokens, for all threads of dbt."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        self._lines, self._lock = channel.makefile("rw"), threading.Lock()

    @property
    def universe_domain(self) -> str:
        """The universe of the token: asked for before the first request of each client."""
        if not self.token:
            self.refresh(None)
        return self._universe_domain

    def refresh(self, _request: object) -> None:
        """Take the token of the pipeline; RefreshError, with Google's reason, without one."""
        with self._lock:
            self._lines.write("\n")
            self._lines.flush()
            answer = json.loads(self._lines.readline() or '{"error": "the pipeline has ended"}')
        if "error" in answer:
            raise RefreshError(answer["error"])
        self.expiry = answer["expiry"] and datetime.fromisoformat(answer["expiry"])
        self._universe_domain = answer["universe_domain"]
        self._quota_project_id = answer["quota_project"]
        # Set the token last: other threads test it to know that the rest is valid.
        self.token = answer["token"]
