"""Puts errors of libraries in the words of our own: what happened, and the remedy."""

from __future__ import annotations

import errno
import re
import sys
import tempfile
from urllib.parse import urlsplit

from bi_pipeline.errors import ConfigurationError, InfrastructureError, PipelineError
from bi_pipeline.proxies import (
    describe_proxy,
    find_unusable_proxies,
    mask_password,
    parse_host_and_port,
)
from bi_pipeline.settings import read_bigquery_address

# errno values that a user can fix; any other OSError is a bug of ours, and keeps its traceback.
OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# A write raises these without the name of the file: were a name asked for, as with the others, a
# full disk would pass for a bug.
OF_A_WRITE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def explain(error: BaseException | None) -> PipelineError | None:
    """Return what the user can do about an error; None for a defect of the program.

    Knows, beside our own errors, those that Prefect's client, google-auth and the BigQuery
    client raise. An HTTP client's error counts if it asked Prefect or BigQuery: that of a task
    which calls another API keeps its own words. An answer is quoted by its reason alone: the rest
    may hold a secret.
    """
    if isinstance(error, PipelineError) or error is None:
        return error
    return (
        _explain_disk(error)
        or _explain_proxy(error)
        or _explain_prefect(error)
        or _explain_google(error)
    )


def _explain_disk(error: BaseException) -> PipelineError | None:
    if not isinstance(error, OSError):
        return None
    if error.filename and error.errno in OF_THE_DISK:
        return InfrastructureError(
            f"{error.filename} : accès impossible ({error.strerror}). Vérifiez ses droits et la "
            "place libre."
        )
    if error.errno in OF_A_WRITE:
        return InfrastructureError(
            f"Écriture impossible ({error.strerror}) : libérez de la place sur le disque du projet "
            f"et sur celui des fichiers temporaires ({tempfile.gettempdir()}), puis relancez."
        )
    return None


def _explain_proxy(error: BaseException) -> PipelineError | None:
    proxies = find_unusable_proxies()
    if not (proxies and re.search("proxy|SOCKS", str(error))):
        return None
    named = ", ".join(f"{name}={mask_password(proxy)}" for name, proxy in proxies.items())
    return ConfigurationError(
        f"Prefect ne sait pas se servir de ce proxy ({named}) : donnez-en un en http:// à "
        f"https_proxy, et retirez cette variable (`unset {' '.join(proxies)}`)."
    )


def _explain_prefect(error: BaseException) -> PipelineError | None:
    if "httpx" not in sys.modules:
        # Without httpx, nobody has called Prefect: the error is another's, and to import Prefect's
        # settings for it would create a ~/.prefect.
        return None
    import httpx
    from prefect.settings import PREFECT_API_URL, PREFECT_CLOUD_API_URL

    api_url = PREFECT_API_URL.value()
    # When a flow starts, Prefect asks the API for its version, and raises this in the place of
    # httpx's error: no request tells that Prefect was asked.
    unreachable = isinstance(error, RuntimeError) and "Failed to reach API at" in str(error)
    if not unreachable:
        addresses = filter(None, (api_url, PREFECT_CLOUD_API_URL.value()))
        asked = _find_address_asked(error) if isinstance(error, httpx.HTTPError) else ""
        if not any(_is_under(asked, address) for address in addresses):
            return None
    if unreachable or isinstance(error, httpx.TransportError):
        return InfrastructureError(
            f"API Prefect injoignable ({api_url}){describe_proxy(api_url or '')} : vérifiez "
            "PREFECT_API_URL, démarrez ce serveur (`prefect server start`), ou retirez la variable "
            "pour un serveur temporaire."
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
    asked = _find_address_asked(error) or _find_address_asked(error.__cause__)
    # An error is BigQuery's by the address that was asked. Two have none, and would be taken for
    # bugs: that of a failed job, without a response, and TransportError, of a request for a token.
    of_a_job = isinstance(error, GoogleAPICallError) and error.response is None and error.errors
    if not (of_a_job or isinstance(error, TransportError) or _is_bigquery(asked)):
        return None
    unreachable = (RetryError, ServerError, TransportError, requests.RequestException)
    if isinstance(error, unreachable):
        return InfrastructureError(
            f"BigQuery injoignable ou en panne ({_take_first_line(error)})"
            f"{describe_proxy(asked)} : vérifiez le réseau, puis relancez."
        )
    if isinstance(error, GoogleAPICallError) and "quota project" in str(error):
        return ConfigurationError(
            "Vos identifiants Google par défaut ne nomment aucun projet à qui compter les "
            "requêtes : lancez `gcloud auth application-default set-quota-project PROJET`."
        )
    if isinstance(error, GoogleAPICallError):
        return ConfigurationError(
            f"BigQuery refuse : {_take_first_line(error)}\nVérifiez que le dataset existe "
            "(`make infra`) et que le compte de service y a accès."
        )
    return None


def _find_address_asked(error: BaseException | None) -> str:
    """Return the address that an HTTP client asked when this happened; empty if it is not said."""
    try:
        request = getattr(error, "request", None)
    except RuntimeError:
        # httpx raises this for an error made without a request: the error to explain would be lost.
        return ""
    request = request or getattr(getattr(error, "response", None), "request", None)
    return str(getattr(request, "url", ""))


def _is_under(asked: str, address: str) -> bool:
    """Return whether what was asked is a path of the API at this address."""
    path = urlsplit(address).path.rstrip("/") + "/"
    try:
        return parse_host_and_port(asked) == parse_host_and_port(address) and (
            urlsplit(asked).path.startswith(path)
        )
    except ValueError:
        # With a port that is no number, nothing can have been asked. Raised from here, this error
        # would take the place of the one to explain.
        return False


def _is_bigquery(asked: str) -> bool:
    """Return whether what was asked is BigQuery: Google's, or that of the settings."""
    return "bigquery" in (urlsplit(asked).hostname or "") or _is_under(
        asked, read_bigquery_address()
    )


def _explain_refusal(text: str) -> str:
    """Return why Google gives no token, from what google-auth says of it."""
    if "impersonated" in text:
        return (
            "Google refuse d'agir au nom de DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT : ajoutez-"
            "vous à impersonators dans infrastructure/terraform.tfvars et lancez `make infra` "
            "(comptez quelques minutes), ou corrigez ce réglage."
        )
    # The text alone tells whose credentials Google refused, and the remedies differ: a service
    # account signs a JWT, a person has a refresh token.
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


def _take_first_line(error: BaseException) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0]
