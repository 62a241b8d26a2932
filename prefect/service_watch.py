"""Says when a service that a run needs stops answering: its own client waits in silence."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from prefect.logging import get_run_logger

POLL_SECONDS = 5
SILENT_SECONDS = 15


@contextmanager
def say_what_stops_answering(services: Mapping[str, str]) -> Iterator[None]:
    """Log a warning when a service has not answered for 15 s, and when it is back.

    Args:
        services: URL of each, by the name to call it. One that takes no connection at the
            start, behind a proxy for example, is left out.
    """
    logger, finished = get_run_logger(), threading.Event()

    def watch(name: str, url: str) -> None:
        silent, last_answer = not _accepts_connections(url), time.monotonic()
        if silent:
            return
        while not finished.wait(POLL_SECONDS):
            if _accepts_connections(url):
                if silent:
                    logger.warning("%s (%s) répond de nouveau.", name, url)
                silent, last_answer = False, time.monotonic()
            elif not silent and time.monotonic() - last_answer >= SILENT_SECONDS:
                silent = True
                logger.warning(
                    "%s (%s) ne répond plus depuis %d s : l'exécution l'attend. Démarrez-le de "
                    "nouveau, vérifiez le réseau, ou arrêtez avec Ctrl-C.",
                    *(name, url, time.monotonic() - last_answer),
                )

    for service in services.items():
        threading.Thread(target=watch, args=service, daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def _accepts_connections(url: str) -> bool:
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), POLL_SECONDS).close()
    except OSError:
        return False
    return True
