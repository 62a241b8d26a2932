"""Proxies: what is on this machine is reached without, whatever the shell says."""

import os

import httpx
import pytest
import requests.utils

from bi_pipeline.command_line import say_errors
from bi_pipeline.proxies import BYPASSES, VARIABLES, reach_this_machine_directly

OURS = "127.0.0.1,localhost"


@pytest.fixture(autouse=True)
def proxy(monkeypatch):
    """A shell with a proxy for everything and no exception; what is set meanwhile goes away."""
    for name in (*VARIABLES, *BYPASSES):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    return monkeypatch


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, (OURS, OURS)),
        ({"no_proxy": "a.example, b.example"}, (f"a.example,b.example,{OURS}",) * 2),
        ({"NO_PROXY": "a.example"}, (f"a.example,{OURS}",) * 2),
        ({"no_proxy": "a", "NO_PROXY": "b"}, (f"a,{OURS}", f"b,{OURS}")),
        ({"no_proxy": "localhost,127.0.0.1"}, ("localhost,127.0.0.1",) * 2),
        ({"no_proxy": "*"}, ("*", "*")),
        ({"no_proxy": "a,*"}, (f"a,*,{OURS}",) * 2),
        ({"NO_PROXY": "*"}, ("*", "*")),
    ],
)
def test_this_machine_is_added_to_what_goes_through_no_proxy(given, kept, proxy):
    for name, value in given.items():
        proxy.setenv(name, value)

    for _ in range(2):
        reach_this_machine_directly()

    assert tuple(os.environ[name] for name in BYPASSES) == kept
    for host in ("127.0.0.1", "localhost"):
        assert requests.utils.get_environ_proxies(f"http://{host}:80", None) == {}
        with httpx.Client() as client:
            assert client._transport_for_url(httpx.URL(f"http://{host}:80")) is client._transport


def test_tool_keeps_the_exceptions_of_an_env_file_that_it_loads_later(proxy, tmp_path):
    (tmp_path / ".env").write_text("no_proxy=a.example\n")
    proxy.setattr("bi_pipeline.command_line.ENV_FILE", tmp_path / ".env")

    say_errors(lambda _: 0)([])

    assert os.environ["no_proxy"] == f"a.example,{OURS}"
