"""Says which Prefect this shell is logged in to, and finds what it has of the pipeline."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bi_pipeline.errors import ConfigurationError, InfrastructureError
from bi_pipeline.proxies import describe_proxy

ANSWER_TIMEOUT_SECONDS = 15

# prefect-cloud's deploy ignores @flow(name=…) and names the flow after its function: without the
# second name, its deployments would not be found.
FLOWS = ("pipeline-dbt-complet", "dbt_full_pipeline")
DEPLOYMENT = "pipeline-dbt-complet"

T = TypeVar("T")
P = ParamSpec("P")


def is_prefect_cloud() -> bool:
    """Whether this shell is logged in to Prefect Cloud."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    return (settings.api.url or "").startswith(settings.cloud.api_url)


def describe_prefect(*, must_last: bool = False) -> str:
    """Return, in French, which Prefect this shell uses.

    `must_last` refuses the local database with ConfigurationError: no server stays there to start
    the runs of a deployment or to fire an automation. Raises InfrastructureError when Prefect Cloud
    does not name the workspace.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    api_url = settings.api.url
    if api_url and is_prefect_cloud():
        return f"Prefect Cloud, workspace {_read_cloud_workspace(api_url)}"
    if api_url:
        return f"le serveur Prefect {api_url}"
    if must_last:
        raise ConfigurationError(
            "Ce shell n'est connecté à aucun Prefect qui reste : lancez `uvx prefect-cloud login`, "
            "ou démarrez un serveur (`prefect server start`) et donnez son adresse à "
            "PREFECT_API_URL."
        )
    return f"la base locale de Prefect ({settings.home})"


def parse_deployment_name(text: str) -> str:
    """Return the name of a deployment unchanged; argparse's error if it is not one of ours.

    The name becomes part of a block's name, where Prefect refuses capitals and blanks, and of
    commands that the user pastes.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text):
        raise argparse.ArgumentTypeError(
            f"« {text} » est refusé, un nom de déploiement n'a que des minuscules, des chiffres, "
            "des tirets et des _"
        )
    return text


def find_on_prefect(read: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
    """Return what Prefect answers to this call of its client, None when it has none."""
    from prefect.exceptions import ObjectNotFound

    try:
        return read(*arguments, **options)
    except ObjectNotFound:
        return None


def _read_cloud_workspace(api_url: str) -> str:
    """Return the handle of the workspace at this address, its address if it has none."""
    import asyncio

    import httpx
    from prefect.client.cloud import CloudUnauthorizedError, get_cloud_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    async def find() -> str:
        # If Prefect Cloud is down (503), the client alone retries for two minutes (prefect 3.9.1).
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS), get_cloud_client() as client:
            for workspace in await client.read_workspaces():
                if workspace.api_url() == api_url.rstrip("/"):
                    return workspace.handle
        return api_url

    try:
        return asyncio.run(find())
    except CloudUnauthorizedError:
        raise InfrastructureError(
            "Prefect Cloud refuse la clé de cette connexion : relancez `uvx prefect-cloud login`, "
            "ou vérifiez PREFECT_API_KEY."
        ) from None
    # ValueError: the answer is no JSON, as when a proxy answers with its sign-in page.
    except (httpx.HTTPError, TimeoutError, ObjectNotFound, ValueError) as error:
        raise InfrastructureError(
            f"Prefect Cloud ({get_current_settings().cloud.api_url}) ne répond pas comme il faut "
            f"({type(error).__name__}){describe_proxy(api_url)} : vérifiez PREFECT_API_URL et "
            "le réseau, puis relancez."
        ) from None
