"""Keeps the environment's proxies off this machine, and names them where they may be at fault."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

THIS_MACHINE = ("127.0.0.1", "localhost")
# Lower case first, as libraries do, which ignore the other name where both are set: in another
# order, an error would name a proxy that they do not use.
BYPASSES = ("no_proxy", "NO_PROXY")
VARIABLES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def reach_this_machine_directly(env_file: Mapping[str, str | None] | None = None) -> None:
    """Have this process, and those that it starts, use no proxy for 127.0.0.1 and localhost.

    If no_proxy did not name them, libraries would ask http_proxy for the local servers as well. The
    hosts that no_proxy already names stay.

    Args:
        env_file: the variables of a `.env` that is loaded later: it will not override what is
            set here.
    """
    given = [values.get(name) for values in (os.environ, env_file or {}) for name in BYPASSES]
    for name in BYPASSES:
        text = os.environ.get(name) or next(filter(None, given), "")
        hosts = [host.strip() for host in text.split(",") if host.strip()]
        # urllib and requests take `*` for all hosts only if it stands alone: with our names beside
        # it, they would ask the proxy for every other host.
        added = [] if hosts == ["*"] else THIS_MACHINE
        os.environ[name] = ",".join(dict.fromkeys([*hosts, *added]))


def find_proxy(url: str) -> tuple[str, str] | None:
    """Return the proxy through which this address is asked for, and the variable that names it."""
    from urllib.request import proxy_bypass

    address = urlsplit(url)
    if not address.hostname or proxy_bypass(address.hostname):
        return None
    names = [name for name in VARIABLES if name.lower() in (f"{address.scheme}_proxy", "all_proxy")]
    name = next((name for name in names if os.environ.get(name)), None)
    if name is None:
        return None
    proxy = os.environ[name]
    return proxy if "://" in proxy else f"http://{proxy}", name


def parse_host_and_port(url: str) -> tuple[str, int]:
    """Return where a URL has its server; ValueError for a port that is no number."""
    address = urlsplit(url)
    return address.hostname or "", address.port or (443 if address.scheme == "https" else 80)


def describe_proxy(url: str) -> str:
    """Return, in French, through which proxy this address is asked for; empty without one."""
    found = find_proxy(url)
    return f" via le proxy {mask_password(found[0])} (variable {found[1]})" if found else ""


def find_unusable_proxies() -> dict[str, str]:
    """Return the proxies that Prefect's client cannot use, by their variable: those of SOCKS.

    Prefect's client raises when it is made, even if no address is asked for through these.
    """
    given = {name: os.environ.get(name, "") for name in VARIABLES}
    return {name: proxy for name, proxy in given.items() if re.match(r"(?!https?://)\w+://", proxy)}


def mask_password(address: str) -> str:
    """Return an address with its user and its password masked."""
    # A password may contain @: masked up to the first one only, the rest of it would be shown.
    return re.sub(r"://.*@", "://***@", address)
