"""Says when a service that a run needs stops answering: its own client waits in silence."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from bi_pipeline.proxies import describe_proxy, find_proxy, parse_host_and_port
from bi_pipeline.settings import GOOGLE_ENDPOINT, PipelineSettings
from warm_dbt import SILENT_SECONDS

POLL_SECONDS = 5


@contextmanager
def say_what_stops_answering(settings: PipelineSettings) -> Iterator[None]:
    """Log a warning when Prefect or BigQuery has not answered for 15 s, and when it is back.

    A service that takes no connection at the start is not watched. Where a service is behind a
    proxy, the proxy is asked.
    """
    services = {
        "L'API Prefect": PREFECT_API_URL.value() or "",
        "BigQuery": settings.endpoint or GOOGLE_ENDPOINT,
    }
    logger, finished = get_run_logger(), threading.Event()

    def watch(name: str, url: str) -> None:
        if not find_proxy(url) and not _answers(url):
            return
        silent, last_answer = False, time.monotonic()
        while not finished.wait(POLL_SECONDS):
            if _answers(url):
                if silent:
                    logger.warning("%s (%s)%s répond de nouveau.", name, url, describe_proxy(url))
                silent, last_answer = False, time.monotonic()
            elif not silent and time.monotonic() - last_answer >= SILENT_SECONDS:
                silent = True
                logger.warning(
                    "%s (%s)%s ne répond plus depuis %d s : l'exécution l'attend. Démarrez-le de "
                    "nouveau, vérifiez le réseau, ou arrêtez avec Ctrl-C.",
                    *(name, url, describe_proxy(url), time.monotonic() - last_answer),
                )

    for service in services.items():
        threading.Thread(target=watch, args=service, daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def _answers(url: str) -> bool:
    """Return whether the service takes a connection, or its proxy answers for it."""
    proxy = find_proxy(url)
    asked = proxy[0] if proxy else url
    try:
        with socket.create_connection(parse_host_and_port(asked), POLL_SECONDS) as connection:
            if not proxy or not asked.startswith("http://"):
                return True
            # The kernel takes connections for a proxy that hangs, too: so ask it for something. Any
            # answer of the proxy will do, even a refusal.
            host, port = parse_host_and_port(url)
            request = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
            connection.sendall(request.encode())
            return bool(connection.recv(1))
    except OSError:
        return False
