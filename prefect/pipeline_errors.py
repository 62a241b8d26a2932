"""The errors that a user can mend, each with its exit code, and what libraries raise put so."""

from __future__ import annotations

import errno
import signal
import sys

# What a user mends who owns the disk: other errors of files are defects of the program.
OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class PipelineError(Exception):
    """Something that a user can mend: its text is the whole message, in French."""

    exit_code = 1


class ConfigurationError(PipelineError):
    """Settings, a file, a block or a command line to correct."""

    exit_code = 2


class InfrastructureError(PipelineError):
    """A server, the network or the disk that does not do its part."""

    exit_code = 3


class DbtError(PipelineError):
    """A dbt command failed."""


class OutOfTimeError(PipelineError):
    """A run that took longer than it may: it was stopped as by a signal."""

    exit_code = 128 + signal.SIGTERM


class PassingFaultError(InfrastructureError):
    """A dbt command failed, of BigQuery or the network only: it may work later."""


def explain(error: BaseException | None) -> PipelineError | None:
    """Return what the user can do about an error; None for a defect of the program.

    Knows, beside our own errors, those that Prefect's client, google-auth and the BigQuery
    client raise. Nothing of an answer is quoted but its reason: it may hold a secret.
    """
    if isinstance(error, PipelineError) or error is None:
        return error
    if isinstance(error, OSError) and error.filename and error.errno in OF_THE_DISK:
        return InfrastructureError(
            f"{error.filename} : accès impossible ({error.strerror}). Vérifiez ses droits et la "
            "place libre."
        )
    return _explain_prefect(error) or _explain_google(error)


def _explain_prefect(error: BaseException) -> PipelineError | None:
    if "httpx" not in sys.modules:
        # Nobody has called Prefect, and to import it makes a ~/.prefect.
        return None
    import httpx
    from prefect.settings import PREFECT_API_URL

    api_url = PREFECT_API_URL.value()
    if isinstance(error, httpx.TransportError) or "Failed to reach API" in str(error):
        return InfrastructureError(
            f"API Prefect injoignable ({api_url}) : vérifiez PREFECT_API_URL, démarrez ce "
            "serveur (`prefect server start`), ou retirez la variable pour un serveur temporaire."
        )
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
        return InfrastructureError(
            f"API Prefect ({api_url}) : accès refusé. Vérifiez PREFECT_API_KEY, ou relancez "
            "`uvx prefect-cloud login` ; pour un serveur à vous, PREFECT_API_AUTH_STRING."
        )
    if isinstance(error, httpx.HTTPStatusError):
        return InfrastructureError(
            f"API Prefect ({api_url}) : réponse {error.response.status_code}. Vérifiez "
            "PREFECT_API_URL et l'état de ce serveur, puis relancez."
        )
    return None


def _explain_google(error: BaseException) -> PipelineError | None:
    import requests
    from google.api_core.exceptions import GoogleAPICallError, RetryError, ServerError
    from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

    if isinstance(error, DefaultCredentialsError):
        return ConfigurationError(
            "Le block GcpCredentials ne contient pas de clé, et cette machine n'a pas "
            "d'identifiants Google par défaut : lancez `gcloud auth application-default login`, "
            "ou enregistrez une clé avec `.venv/bin/python utilities/create_gcp_block.py`."
        )
    if isinstance(error, RefreshError):
        return ConfigurationError(_explain_refusal(str(error)))
    unreachable = (RetryError, ServerError, TransportError, requests.RequestException)
    if isinstance(error, unreachable):
        return InfrastructureError(
            f"BigQuery injoignable ou en panne ({_first_line(error)}) : vérifiez le réseau, puis "
            "relancez."
        )
    if isinstance(error, GoogleAPICallError) and "quota project" in str(error):
        return ConfigurationError(
            "Vos identifiants Google par défaut ne nomment aucun projet à qui compter les "
            "requêtes : lancez `gcloud auth application-default set-quota-project PROJET`."
        )
    if isinstance(error, GoogleAPICallError):
        return ConfigurationError(
            f"BigQuery refuse : {_first_line(error)}\nVérifiez que le dataset existe "
            "(`make infra`) et que le compte de service y a accès."
        )
    return None


def _explain_refusal(text: str) -> str:
    """Return why Google gives no token, from what google-auth says of it."""
    if "impersonated" in text:
        return (
            "Google refuse d'agir au nom de DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT : ajoutez-"
            "vous à impersonators dans infrastructure/terraform.tfvars et lancez `make infra` "
            "(comptez quelques minutes), ou corrigez ce réglage."
        )
    # A service account signs a JWT; a person has a refresh token.
    if "JWT" in text or "account not found" in text:
        return (
            "Google refuse la clé du compte de service : elle est révoquée, ou son compte est "
            "désactivé. Enregistrez-en une autre avec "
            "`.venv/bin/python utilities/create_gcp_block.py`."
        )
    return (
        "Google refuse les identifiants par défaut de cette machine : ils ont expiré ou sont "
        "révoqués. Lancez `gcloud auth application-default login`."
    )


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0]
