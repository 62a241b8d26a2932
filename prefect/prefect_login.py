"""Says which Prefect this shell is logged in to."""

from __future__ import annotations

from pipeline_errors import ConfigurationError, InfrastructureError

ANSWER_TIMEOUT_SECONDS = 15


def is_prefect_cloud() -> bool:
    """Whether this shell is logged in to Prefect Cloud."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    return (settings.api.url or "").startswith(settings.cloud.api_url)


def where_prefect_is() -> str:
    """Return, in French, where what this shell asks of Prefect goes.

    Raises InfrastructureError when that is Prefect Cloud and it does not name the workspace.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    api_url = settings.api.url
    if not api_url:
        return f"la base locale de Prefect ({settings.home})"
    if not is_prefect_cloud():
        return f"le serveur Prefect {api_url}"
    return f"Prefect Cloud, workspace {_cloud_workspace(api_url)}"


def require_lasting_prefect() -> str:
    """Return what where_prefect_is() does; ConfigurationError when that is no server of its own.

    A deployment or an automation is of no use in a database that nothing watches.
    """
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        raise ConfigurationError(
            "Ce shell n'est connecté à aucun Prefect qui reste : lancez `uvx prefect-cloud login`, "
            "ou démarrez un serveur (`prefect server start`) et donnez son adresse à "
            "PREFECT_API_URL."
        )
    return where_prefect_is()


def _cloud_workspace(api_url: str) -> str:
    """Return the handle of the workspace at this address, its address if it has none."""
    import asyncio

    import httpx
    from prefect.client.cloud import CloudUnauthorizedError, get_cloud_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    async def find() -> str:
        # The client itself goes on for minutes.
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
    # ValueError: an answer that is not Prefect Cloud's.
    except (httpx.HTTPError, TimeoutError, ObjectNotFound, ValueError) as error:
        raise InfrastructureError(
            f"Prefect Cloud ({get_current_settings().cloud.api_url}) ne répond pas comme il faut "
            f"({type(error).__name__}) : vérifiez PREFECT_API_URL et le réseau, puis relancez."
        ) from None
