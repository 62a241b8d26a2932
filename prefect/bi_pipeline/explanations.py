"""Puts errors of libraries in the words of our own: what happened, and the remedy."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from urllib.parse import urlsplit

from bi_pipeline.errors import ConfigurationError, InfrastructureError, PipelineError
from bi_pipeline.proxies import (
    describe_proxy,
    find_proxy,
    find_unusable_proxies,
    mask_password,
    parse_host_and_port,
)
from bi_pipeline.settings import PipelineSettings, read_bigquery_address

# errno values that a user can fix; any other OSError is a bug of ours, and keeps its traceback.
OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# A write raises these without the name of the file: were a name asked for, as with the others, a
# full disk would pass for a bug.
OF_A_WRITE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)

CONSOLE_QUOTAS = "console Google Cloud, « IAM et administration », « Quotas »"
NOT_FOUND = "est introuvable : réseau, DNS ou proxy"

# Messages of BigQuery, dbt 1.12 and urllib3 -> what they mean and the remedy, with the groups of
# the pattern. The first that matches counts: dbt's hub before any host that DNS does not know, and
# a quota with a remedy of its own before the others.
KNOWN_MESSAGES = {
    r"exceeded quota for free query bytes scanned": (
        "quota gratuit de BigQuery épuisé (1 Tio par mois) : activez la facturation du projet, ou "
        "attendez le mois prochain"
    ),
    r"Custom quota exceeded(?:.*custom quota for (?P<what>\w+))?": (
        "quota BigQuery fixé par votre administrateur épuisé ({what}) : relevez-le ("
        f"{CONSOLE_QUOTAS}), ou attendez minuit, heure du Pacifique"
    ),
    r"(?i:exceeded rate limits|rateLimitExceeded)(?:: (?P<what>[^.\n]+))?": (
        "limite de débit de BigQuery atteinte ({what}) : baissez DBT_THREADS, ou relancez plus tard"
    ),
    r"(?i:quota exceeded|quotaExceeded)(?::(?:.*exceeded quota for)? (?P<what>[^.\n]+))?": (
        "quota BigQuery épuisé ({what}) : attendez qu'il se libère, un jour au plus, ou demandez-"
        f"en un plus grand ({CONSOLE_QUOTAS})"
    ),
    r"(?s)External connection exception occurred: .*?host='(?P<what>[^']+)'": (
        "{what}, d'où dbt prend ses packages, est injoignable : réseau, DNS ou proxy. Sans réseau, "
        "apportez dbt/dbt_packages/ et dbt/package-lock.yml d'une machine qui en a"
    ),
    r"(?:Failed to resolve '|[Nn]ame ?[Rr]esolution.*host=')(?P<what>[^']+)'": (
        "{what} " + NOT_FOUND
    ),
    r"(?s)This version of dbt is not supported with the '(?P<what>[^']+)' package.*"
    r"Installed version of dbt: =?(?P<installed>\S+).*Required version of dbt for '[^']+': "
    r"(?P<required>[^\n]+)": (
        "{what} refuse dbt {installed} (require-dbt-version : {required}) : prenez-en une autre "
        "version, ou mettez `flags: {{version_check: false}}` dans dbt_project.yml"
    ),
}
# google-auth says these of the file of GOOGLE_APPLICATION_CREDENTIALS.
CREDENTIALS_FILE_FAULTS = {
    "was not found": "ce fichier n'existe pas",
    "is not a valid json file": "ce fichier n'est pas du JSON",
    "does not have a valid type": "ce fichier n'a pas d'identifiants Google",
    "Failed to load": "ce fichier n'a pas d'identifiants valables",
}
# Where infrastructure/ writes it.
PROD_KEY = ".secrets/sa_key_prod.json"

# Linux, macOS and Windows each say in their words that DNS does not know a host.
UNRESOLVED = re.compile(
    r"Failed to resolve|Name or service not known|Temporary failure in name resolution"
    r"|No address associated with hostname|nodename nor servname|getaddrinfo failed"
)


def explain_message(text: str) -> str:
    """Return what a message of BigQuery or dbt means, and the remedy; empty for an unknown one."""
    for pattern, meaning in KNOWN_MESSAGES.items():
        if match := re.search(pattern, text):
            groups = {name: group or "" for name, group in match.groupdict().items()}
            return meaning.format(**groups).replace(" ()", "")
    return ""


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

    api_url = PREFECT_API_URL.value() or ""
    # When a flow starts, Prefect asks the API for its version, and raises this in the place of
    # httpx's error: no request tells that Prefect was asked.
    unreachable = isinstance(error, RuntimeError) and "Failed to reach API at" in str(error)
    if not unreachable:
        addresses = filter(None, (api_url, PREFECT_CLOUD_API_URL.value()))
        asked = _find_address_asked(error) if isinstance(error, httpx.HTTPError) else ""
        if not any(_is_under(asked, address) for address in addresses):
            return None
    said_nothing = unreachable or isinstance(error, httpx.UnsupportedProtocol)
    if (said_nothing or _is_not_found(error)) and (wrong := _describe_wrong_url(api_url)):
        return ConfigurationError(wrong)
    if unreachable or isinstance(error, httpx.TransportError):
        return InfrastructureError(
            f"API Prefect injoignable ({api_url}){describe_proxy(api_url)} : "
            f"{_describe_unresolved(error, api_url)}vérifiez "
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


def _describe_wrong_url(api_url: str) -> str:
    """Return, in French, what PREFECT_API_URL lacks; empty if nothing."""
    if not re.match("https?://", api_url):
        return (
            f"PREFECT_API_URL ({api_url}) n'est pas une adresse : il y manque http:// ou https:// "
            "au début."
        )
    if "api" not in urlsplit(api_url).path.split("/"):
        return f"PREFECT_API_URL ({api_url}) : il y manque /api à la fin."
    return ""


def _is_not_found(error: BaseException) -> bool:
    return getattr(getattr(error, "response", None), "status_code", None) == 404


def _describe_unresolved(error: BaseException | None, url: str) -> str:
    """Return that DNS does not know the host of this URL, if that is the error; empty if not."""
    # Behind a proxy, the host that this machine has to find is the proxy's.
    proxy = find_proxy(url)
    host = urlsplit(proxy[0] if proxy else url).hostname or "le serveur"
    while error is not None:
        if UNRESOLVED.search(str(error)):
            return f"{host} {NOT_FOUND} ; "
        error = error.__cause__ or error.__context__
    return ""


def _explain_google(error: BaseException) -> PipelineError | None:
    import requests
    from google.api_core.exceptions import GoogleAPICallError, RetryError, ServerError
    from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

    if isinstance(error, DefaultCredentialsError):
        return _explain_credentials_file(error) or ConfigurationError(
            "Le block GcpCredentials ne contient pas de clé, et cette machine n'a pas "
            "d'identifiants Google par défaut : lancez `gcloud auth application-default login`, "
            "ou enregistrez une clé avec `.venv/bin/python utilities/create_gcp_block.py`."
        )
    if isinstance(error, RefreshError):
        return ConfigurationError(explain_refusal(str(error)))
    asked = _find_address_asked(error) or _find_address_asked(error.__cause__)
    # An error is BigQuery's by the address that was asked. Two have none, and would be taken for
    # bugs: that of a failed job, without a response, and TransportError, of a request for a token.
    of_a_job = isinstance(error, GoogleAPICallError) and error.response is None and error.errors
    if not (of_a_job or isinstance(error, TransportError) or _is_bigquery(asked)):
        return None
    unreachable = (RetryError, ServerError, TransportError, requests.RequestException)
    if isinstance(error, unreachable):
        if unresolved := _describe_unresolved(error, asked):
            return InfrastructureError(
                f"BigQuery injoignable{describe_proxy(asked)} : {unresolved}relancez ensuite."
            )
        return InfrastructureError(
            f"BigQuery injoignable ou en panne ({_take_first_line(error)})"
            f"{describe_proxy(asked)} : vérifiez le réseau, puis relancez."
        )
    return _explain_answer(error) if isinstance(error, GoogleAPICallError) else None


def _explain_answer(error: BaseException) -> PipelineError:
    """Return why BigQuery has refused what it was asked."""
    if "quota project" in str(error):
        return ConfigurationError(
            "Vos identifiants Google par défaut ne nomment aucun projet à qui compter les "
            "requêtes : lancez `gcloud auth application-default set-quota-project PROJET`."
        )
    if meaning := explain_message(str(error)):
        return ConfigurationError(f"BigQuery refuse : {meaning}.")
    return ConfigurationError(
        f"BigQuery refuse : {_take_first_line(error)}\nVérifiez que le dataset existe "
        "(`make infra`) et que le compte de service y a accès."
    )


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


def _explain_credentials_file(error: BaseException) -> PipelineError | None:
    """Return what is wrong with the file of GOOGLE_APPLICATION_CREDENTIALS; None if unset."""
    path = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not path:
        return None
    # Do not quote the error: of a key that does not parse, it may hold a part.
    faults = CREDENTIALS_FILE_FAULTS.items()
    reason = next((reason for words, reason in faults if words in str(error)), "fichier refusé")
    return ConfigurationError(
        f"GOOGLE_APPLICATION_CREDENTIALS est inutilisable ({reason}) : {path}. "
        "Corrigez cette variable, ou retirez-la (`unset GOOGLE_APPLICATION_CREDENTIALS`) et lancez "
        "`gcloud auth application-default login`."
    )


def explain_refusal(text: str, settings: PipelineSettings | None = None, prefect: str = "") -> str:
    """Return why Google gives no token, from what google-auth says of it.

    With `settings`, and the address of `prefect` in a deployment, says where to put another key.
    """
    if "impersonated" in text:
        return (
            "Google refuse d'agir au nom de DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT : ajoutez-"
            "vous à impersonators dans infrastructure/terraform.tfvars et lancez `make infra` "
            "(comptez quelques minutes), ou corrigez ce réglage."
        )
    # The text alone tells whose credentials Google refused, and the remedies differ: a service
    # account signs a JWT, a person has a refresh token.
    if "JWT" in text or "account not found" in text:
        block = settings.credentials_block if settings else ""
        options = f" --block-name {block}" if block not in ("", "sa-key") else ""
        options += f" --key-file {PROD_KEY}" if settings and settings.target == "prod" else ""
        whose = f" du block « {block} », cible {settings.target}" if settings else ""
        where = f", connecté au Prefect de ce déploiement ({prefect})" if prefect else ""
        return (
            f"Google refuse la clé du compte de service{whose} : elle est révoquée, ou son compte "
            "est désactivé. Enregistrez-en une autre avec "
            f"`.venv/bin/python utilities/create_gcp_block.py{options}`{where}."
        )
    return (
        "Google refuse les identifiants par défaut de cette machine : ils ont expiré ou sont "
        "révoqués. Lancez `gcloud auth application-default login`."
    )


def _take_first_line(error: BaseException) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0]
