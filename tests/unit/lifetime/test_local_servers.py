"""A server of ours on this machine: its port is never free for somebody else to take."""

import os
import socket
import sys

import pytest

from bi_pipeline.lifetime.local_servers import LocalServer, listen


def test_port_is_held_before_the_server_answers_and_as_long_as_it_runs(tmp_path):
    """Another user who took it meanwhile would be sent the secrets of our clients."""
    with (tmp_path / "log").open("w+b") as log:
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        server = LocalServer("Le serveur", command, dict(os.environ), listen(), "/", log, "")

        taken = []
        for step in (lambda: None, server.start):
            step()
            with socket.socket() as other, pytest.raises(OSError, match="in use") as refused:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", server.port))
                other.listen()
            taken.append(refused.value)
        server.stop()

    assert len(taken) == 2
