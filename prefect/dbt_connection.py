"""Turns the GcpCredentials block and the settings into what dbt connects with.

The dbt profile holds references only; the key itself travels in the environment of the
dbt process, under names that dbt keeps out of its logs.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline_errors import ConfigurationError
from pipeline_settings import PipelineSettings

if TYPE_CHECKING:
    from prefect_dbt.cli import DbtCliProfile
    from prefect_gcp import GcpCredentials

# What a new key of the same account changes. The rest of the profile stays the same from
# one key to the next, so dbt's partial parse survives a rotation.
SECRET_VARIABLES = {
    "private_key": "DBT_ENV_SECRET_GCP_PRIVATE_KEY",
    "private_key_id": "DBT_ENV_SECRET_GCP_PRIVATE_KEY_ID",
}

# prefect_gcp imports it if it is there, for a block of its own: two seconds and 150 MB.
UNUSED_LIBRARY = "google.cloud.aiplatform"


@dataclass(frozen=True)
class DbtConnection:
    """How dbt reaches BigQuery: the GCP project, a profile without a secret, and the secrets."""

    project: str
    profile: DbtCliProfile
    secret_environment: dict[str, str] = field(repr=False)


def credentials_block_class() -> type[GcpCredentials]:
    """Return GcpCredentials, imported without Vertex AI's library.

    In this process, `GcpCredentials.get_job_service_client()`, which is Vertex AI's, is not there;
    the clients of BigQuery, Cloud Storage and Secret Manager are.
    """
    hide = UNUSED_LIBRARY not in sys.modules
    if hide:
        # `import` then raises ModuleNotFoundError, which prefect_gcp takes for not installed.
        sys.modules[UNUSED_LIBRARY] = None  # type: ignore[assignment]
    try:
        from prefect_gcp import GcpCredentials
    finally:
        if hide:
            del sys.modules[UNUSED_LIBRARY]
    return GcpCredentials


def import_libraries() -> None:
    """Import what a run needs, so that it is there when the run asks for it."""
    credentials_block_class()
    _import_prefect_dbt()


def _import_prefect_dbt() -> None:
    with warnings.catch_warnings():
        # prefect_dbt.cli says that it is deprecated. It is pinned, and what we were asked to use.
        warnings.simplefilter("ignore")
        import prefect_dbt.cli  # noqa: F401


def load_credentials(block_name: str) -> GcpCredentials:
    """Return the GcpCredentials block of that name.

    Raises ConfigurationError when the block is missing or holds a key that does not parse,
    google-auth's DefaultCredentialsError when it holds none and neither does this machine.
    """

    try:
        return credentials_block_class().load(block_name)
    except (ValueError, RuntimeError) as error:
        # Prefect has no exception of its own for a block that is missing or does not validate.
        if "Unable to find block document" in str(error):
            raise ConfigurationError(
                f"Block GcpCredentials « {block_name} » introuvable dans Prefect : créez-le "
                "avec `.venv/bin/python utilities/create_gcp_block.py`, ou corrigez "
                "PREFECT_GCP_CREDENTIALS_BLOCK."
            ) from None
        # The text of any other error may quote what the block holds.
        raise ConfigurationError(
            f"Le block GcpCredentials « {block_name} » ne contient pas une clé valable : "
            "recréez-le avec `.venv/bin/python utilities/create_gcp_block.py`."
        ) from None


def build_connection(credentials: GcpCredentials, settings: PipelineSettings) -> DbtConnection:
    """Return the connection of the settings' target, with the credentials of the block.

    Raises ConfigurationError when neither the settings nor the block name a project.
    """
    _import_prefect_dbt()
    from prefect_dbt.cli import BigQueryTargetConfigs, DbtCliProfile
    from prefect_dbt.cli.configs import TargetConfigs

    project = settings.project_id or credentials.project
    if not project:
        raise ConfigurationError(
            f"Projet BigQuery inconnu : le block « {settings.credentials_block} » n'en nomme "
            "aucun, définissez GCP_PROJECT_ID."
        )
    common: dict[str, Any] = {"schema": settings.dataset, "threads": settings.threads}
    extras = _bigquery_keys(settings)
    target_configs: TargetConfigs | BigQueryTargetConfigs
    secrets: dict[str, str] = {}
    if credentials.service_account_info or credentials.service_account_file:
        references, secrets = _hide_secrets(credentials)
        target_configs = BigQueryTargetConfigs(
            credentials=references, project=project, extras=extras, **common
        )
    else:
        target_configs = TargetConfigs(
            type="bigquery", extras={"method": "oauth", "project": project} | extras, **common
        )
    profile = DbtCliProfile(
        name=settings.profile_name, target=settings.target, target_configs=target_configs
    )
    return DbtConnection(project, profile, secrets)


def _hide_secrets(credentials: GcpCredentials) -> tuple[GcpCredentials, dict[str, str]]:
    """Return a copy whose secrets are references, and the variables they refer to."""
    from prefect.types import SecretDict

    copy = credentials.model_copy()
    if not credentials.service_account_info:
        return copy, {}
    info = credentials.service_account_info.get_secret_value()
    hidden = {key: name for key, name in SECRET_VARIABLES.items() if key in info}
    references = {key: f"{{{{ env_var('{name}') }}}}" for key, name in hidden.items()}
    copy.service_account_info = SecretDict(info | references)
    return copy, _maskable({name: info[key] for key, name in hidden.items()})


def _maskable(secrets: dict[str, str]) -> dict[str, str]:
    """Return the variables, and others that have dbt mask the secrets once they are escaped.

    dbt masks in a log line the exact text of each DBT_ENV_SECRET variable. The line breaks
    of a key are escaped in a JSON line or in the text of a dictionary, and twice when one
    is in the other.
    """
    once = {f"{name}_ESCAPED": json.dumps(value)[1:-1] for name, value in secrets.items()}
    twice = {f"{name}_TWICE": json.dumps(value)[1:-1] for name, value in once.items()}
    return secrets | once | twice


def _bigquery_keys(settings: PipelineSettings) -> dict[str, Any]:
    """Return the keys of dbt's BigQuery profile that the settings give."""
    keys = {
        "location": settings.region,
        "maximum_bytes_billed": settings.maximum_bytes_billed,
        "job_execution_timeout_seconds": settings.job_timeout_seconds,
        "job_retries": settings.retries,
        "api_endpoint": settings.endpoint,
    }
    return {key: value for key, value in keys.items() if value is not None}
