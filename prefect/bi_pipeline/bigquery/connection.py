"""Turns the GcpCredentials block and the settings into what dbt connects with.

The key stays in this process: dbt gets tokens, and its profile refers to one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bi_pipeline.bigquery.deferred_imports import defer_imports
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from prefect_dbt.cli import DbtCliProfile
    from prefect_gcp import GcpCredentials

# dbt-bigquery's own scopes: without `drive`, BigQuery refuses tables over Google Sheets.
SCOPES = [
    f"https://www.googleapis.com/auth/{scope}"
    for scope in ("bigquery", "cloud-platform", "drive", "userinfo.email")
]

# dbt scrubs the values of DBT_ENV_SECRET_… from its logs, and keeps them out of its partial parse;
# under another name, the token could stay on the disk.
TOKEN_VARIABLE = "DBT_ENV_SECRET_GCP_TOKEN"  # noqa: S105 - a variable's name

# prefect_gcp and prefect_dbt import these, for three seconds in all, and a run never uses them; so
# they are imported when they are first used. Packages, then modules.
UNUSED_BY_PREFECT_GCP = (
    ["prefect_gcp"],
    [
        "google.cloud.aiplatform.gapic",
        "google.cloud.bigquery",
        "google.cloud.secretmanager",
        "google.cloud.storage",
    ],
)
UNUSED_BY_PREFECT_DBT = (
    ["prefect_dbt", "prefect_dbt.core"],
    ["dbt.artifacts.schemas.run.v5.run", "dbt.cli.main", "dbt.contracts.results"],
)


@dataclass(frozen=True)
class DbtConnection:
    """How dbt reaches BigQuery: the GCP project, a profile without a secret, who it is."""

    project: str
    profile: DbtCliProfile
    credentials: Credentials = field(repr=False)


def import_credentials_block_class() -> type[GcpCredentials]:
    """Return GcpCredentials, imported without the clients that it can make."""
    with defer_imports(*UNUSED_BY_PREFECT_GCP):
        from prefect_gcp.credentials import GcpCredentials
    return GcpCredentials


def import_libraries() -> None:
    """Import what a run needs, so that it is there when the run asks for it."""
    import_credentials_block_class()
    with defer_imports(*UNUSED_BY_PREFECT_DBT), warnings.catch_warnings():
        # prefect_dbt.cli warns that it is deprecated. We keep it on purpose, pinned: users can do
        # nothing about the warning.
        warnings.simplefilter("ignore")
        import prefect_dbt.cli  # noqa: F401


def load_credentials(block_name: str) -> GcpCredentials:
    """Return the GcpCredentials block of that name.

    Raises ConfigurationError when the block is missing or holds a key that does not parse,
    google-auth's DefaultCredentialsError when it holds none and neither does this machine.
    """

    try:
        return import_credentials_block_class().load(block_name)
    except (ValueError, RuntimeError) as error:
        # Prefect has no exception of its own for a missing block (ValueError), nor for one that
        # does not validate (RuntimeError): the text alone tells which it is.
        if "Unable to find block document" in str(error):
            raise ConfigurationError(
                f"Block GcpCredentials « {block_name} » introuvable dans Prefect : créez-le "
                "avec `.venv/bin/python utilities/create_gcp_block.py`, ou corrigez "
                "PREFECT_GCP_CREDENTIALS_BLOCK."
            ) from None
        # Neither quote nor chain this error: pydantic's, its cause, may show the private key.
        raise ConfigurationError(
            f"Le block GcpCredentials « {block_name} » ne contient pas une clé valable : "
            "recréez-le avec `.venv/bin/python utilities/create_gcp_block.py`."
        ) from None


def make_google_credentials(block: GcpCredentials, settings: PipelineSettings) -> Credentials:
    """Return who Google takes us for: the one place that chooses how to authenticate.

    The credentials are the key of the block or, when the block has none, the default credentials
    of this machine (`gcloud auth application-default login`, an attached account, federation);
    and on top of either, the account that the settings say to act as.
    """
    from google.auth import impersonated_credentials
    from google.auth.credentials import Scoped

    credentials = block.get_credentials_from_service_account()
    if isinstance(credentials, Scoped):
        credentials = credentials.with_scopes(SCOPES)
    if not settings.impersonate_service_account:
        return credentials
    return impersonated_credentials.Credentials(
        source_credentials=credentials,
        target_principal=settings.impersonate_service_account,
        target_scopes=SCOPES,
    )


def choose_project(block: GcpCredentials, settings: PipelineSettings) -> str:
    """Return the project that is asked and billed: of the settings, or of the block.

    Raises ConfigurationError when neither names one.
    """
    project = settings.project_id or block.project
    if not project:
        raise ConfigurationError(
            f"Projet BigQuery inconnu : le block « {settings.credentials_block} » n'en nomme "
            "aucun, définissez GCP_PROJECT_ID."
        )
    return project


def make_connection(block: GcpCredentials, settings: PipelineSettings) -> DbtConnection:
    """Return the connection of the settings' target, with the credentials of the block.

    Raises ConfigurationError when neither the settings nor the block name a project.
    """
    project = choose_project(block, settings)
    profile = make_profile(project, settings)
    return DbtConnection(project, profile, make_google_credentials(block, settings))


def make_profile(project: str, settings: PipelineSettings) -> DbtCliProfile:
    """Return the profile of the settings' target in a GCP project, without a secret in it."""
    import_libraries()
    from prefect_dbt.cli import DbtCliProfile
    from prefect_dbt.cli.configs import TargetConfigs

    target_configs = TargetConfigs(
        type="bigquery",
        schema=settings.dataset,
        threads=settings.threads,
        # Settings that nobody gave stay None: TargetConfigs then leaves them out of profiles.yml.
        # With a default of ours in their place, dbt's own would no longer hold.
        extras={
            "method": "oauth-secrets",
            "token": f"{{{{ env_var('{TOKEN_VARIABLE}') }}}}",
            "project": project,
            "location": settings.region,
            "maximum_bytes_billed": settings.maximum_bytes_billed,
            "job_execution_timeout_seconds": settings.job_timeout_seconds,
            "job_retries": settings.retries,
            "api_endpoint": settings.endpoint,
        },
    )
    return DbtCliProfile(
        name=settings.profile_name, target=settings.target, target_configs=target_configs
    )
