"""Reads the settings of the pipeline into one frozen object, or says all that is wrong.

Precedence: explicit value, environment, `.env`, Prefect Variable (same name in lower
case), default. An empty value counts as not set.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from dotenv import dotenv_values, load_dotenv
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.proxies import mask_password, reach_this_machine_directly

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ENV_FILE = PROJECT_ROOT / ".env"
DBT_PROJECT_DIR = PROJECT_ROOT / "dbt"
# The dbt server parses a tiny project here while the pipeline starts: otherwise each command would
# build dbt's lazy code again, for 0.7 s.
REHEARSAL_DIR = DBT_PROJECT_DIR / "target" / "rehearsal"

GOOGLE_ENDPOINT = "https://bigquery.googleapis.com"
LOCALHOST = "127.0.0.1"
ENDPOINT = "DBT_BIGQUERY_API_ENDPOINT"

# Upper bounds: more threads exhaust the machine, more seconds overflow threading.Timer, more rows
# make a page that browsers are slow to show.
MAXIMUM_THREADS = 256
MAXIMUM_RUN_SECONDS = 30 * 24 * 3600
MAXIMUM_FAILING_ROWS = 100

Target = Literal["dev", "prod"]


def _make_check(pattern: str, reason: str) -> Callable[[str], str]:
    """Return a check that gives a text back; ValueError, with the reason, if it does not match."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(reason)
        return text

    return check


check_block_name = _make_check(
    r"[a-z0-9-]+", "un nom de block n'a que des minuscules, des chiffres et des tirets"
)
_check_dataset_name = _make_check(
    r"[A-Za-z0-9_]{1,1024}",
    "un nom de dataset n'a que des lettres sans accent, des chiffres et des _",
)
_check_project_id = _make_check(
    r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "ce n'est pas un identifiant de projet GCP"
)
_check_region = _make_check(r"[A-Za-z0-9-]+", "ce n'est pas une région de BigQuery")
_check_service_account = _make_check(
    r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com",
    "ce n'est pas l'adresse d'un compte de service (…@….gserviceaccount.com)",
)
# dbt takes a `config` in profiles.yml for flags, not for a profile, and refuses it beside the
# `flags:` of dbt_project.yml (dbt 1.12).
_check_profile_name = _make_check(
    r"(?!config$)[A-Za-z0-9_-]+",
    "un nom de profil n'a que des lettres, des chiffres, des _ et des -",
)


def _check_endpoint(address: HttpUrl) -> HttpUrl:
    """Return the address unchanged; ValueError if tokens of Google would go to it unprotected."""
    if address.username or address.password:
        raise ValueError("une adresse n'a ni utilisateur ni mot de passe")
    if address.scheme != "https" and address.host != LOCALHOST:
        raise ValueError(f"il faut https://, sauf pour {LOCALHOST}")
    return address


def _check_dbt_artifacts_dir(value: str) -> str:
    """Return a bucket address unchanged, a folder from the root; ValueError for anything else."""
    if value.startswith("gs://"):
        if not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?", value):
            raise ValueError("ce n'est pas une adresse gs://bucket/préfixe")
        return value
    if "://" in value:
        raise ValueError("il faut un dossier, ou gs://bucket/préfixe")
    try:
        return str(PROJECT_ROOT / Path(value).expanduser())
    except RuntimeError:
        raise ValueError("cette machine n'a pas d'utilisateur de ce nom") from None


BlockName = Annotated[str, AfterValidator(check_block_name)]
DatasetName = Annotated[str, AfterValidator(_check_dataset_name)]
ServiceAccount = Annotated[str, AfterValidator(_check_service_account)]


class PipelineSettings(BaseModel):
    """All that the pipeline can be told; field aliases are the environment variables.

    The descriptions, in French, are the comments of `.env.example`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    credentials_block: BlockName = Field(
        "sa-key",
        alias="PREFECT_GCP_CREDENTIALS_BLOCK",
        description="Nom du block GcpCredentials de Prefect. Facultatif.",
    )
    target: Target = Field(
        "dev",
        alias="DBT_TARGET",
        description="Cible : dev ou prod ; choisit le dataset. Facultatif.",
    )
    dataset_dev: DatasetName = Field(
        alias="DBT_BIGQUERY_DATASET_DEV",
        description="Dataset de dev. Obligatoire, donné par Terraform (bq_dev_dataset_id).",
    )
    dataset_prod: DatasetName = Field(
        alias="DBT_BIGQUERY_DATASET_PROD",
        description="Dataset de prod. Obligatoire, donné par Terraform (bq_prod_dataset_id).",
    )
    profile_name: Annotated[str, AfterValidator(_check_profile_name)] = Field(
        "projet_m2_bi",
        alias="DBT_PROFILE_NAME",
        description="Nom du profil dbt. Facultatif.",
    )
    dataset_raw: DatasetName = Field(
        "raw",
        validate_default=True,
        alias="DBT_BIGQUERY_DATASET_RAW",
        description="Dataset des données sources. Facultatif, donné par Terraform.",
    )
    project_id: Annotated[str, AfterValidator(_check_project_id)] | None = Field(
        None,
        alias="GCP_PROJECT_ID",
        description="Projet BigQuery. Facultatif : le projet de la clé par défaut.",
    )
    region: Annotated[str, AfterValidator(_check_region)] | None = Field(
        None,
        alias="GCP_REGION",
        description="Région des datasets, par exemple EU. Facultatif, donnée par Terraform.",
    )
    impersonate_service_account: ServiceAccount | None = Field(
        None,
        alias="DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT",
        description="Compte de service au nom duquel agir. Facultatif, donné par Terraform.",
    )
    threads: int = Field(
        8,
        ge=1,
        le=MAXIMUM_THREADS,
        alias="DBT_THREADS",
        description="Nombre de modèles que dbt construit en même temps. Facultatif.",
    )
    maximum_bytes_billed: PositiveInt | None = Field(
        None,
        alias="DBT_BIGQUERY_MAXIMUM_BYTES_BILLED",
        description="Plafond de coût d'une requête, en octets facturés. Facultatif.",
    )
    job_timeout_seconds: PositiveInt | None = Field(
        None,
        alias="DBT_BIGQUERY_JOB_TIMEOUT_SECONDS",
        description="Durée maximale d'une requête, en secondes. Facultatif.",
    )
    run_timeout_seconds: PositiveInt | None = Field(
        None,
        le=MAXIMUM_RUN_SECONDS,
        alias="DBT_RUN_TIMEOUT_SECONDS",
        description="Durée maximale d'une exécution, en secondes. Facultatif.",
    )
    run_maximum_bytes_billed: PositiveInt | None = Field(
        None,
        alias="DBT_RUN_MAXIMUM_BYTES_BILLED",
        description="Budget d'une exécution, en octets facturés. Facultatif.",
    )
    retries: int = Field(
        2,
        ge=0,
        le=10,
        alias="DBT_RETRIES",
        description="Nouveaux essais après une panne passagère de BigQuery. Facultatif.",
    )
    show_failing_rows: PositiveInt | None = Field(
        None,
        le=MAXIMUM_FAILING_ROWS,
        alias="DBT_SHOW_FAILING_ROWS",
        description="Lignes fautives à montrer dans Prefect, par test. Facultatif : aucune.",
    )
    dbt_artifacts_dir: Annotated[str, AfterValidator(_check_dbt_artifacts_dir)] | None = Field(
        None,
        alias="DBT_ARTIFACTS_DIR",
        description="Dossier ou gs://… des résultats de dbt. Facultatif, donné par Terraform.",
    )
    api_endpoint: Annotated[HttpUrl, AfterValidator(_check_endpoint)] | None = Field(
        None,
        alias="DBT_BIGQUERY_API_ENDPOINT",
        description="Autre adresse de l'API BigQuery : privée (https), ou locale. Facultatif.",
    )

    @field_validator("dataset_prod", "dataset_raw")
    @classmethod
    def _keep_datasets_apart(cls, value: str, info: ValidationInfo) -> str:
        for other in ("dataset_dev", "dataset_prod"):
            if value == info.data.get(other):
                raise ValueError(
                    f"c'est aussi {cls.model_fields[other].alias} : donnez un dataset à chacun"
                )
        return value

    @property
    def dataset(self) -> str:
        """The dataset of the target: where dbt writes."""
        return self.dataset_prod if self.target == "prod" else self.dataset_dev

    @property
    def datasets(self) -> tuple[str, str]:
        """The datasets of the target: where dbt reads the sources, and where it writes."""
        return self.dataset_raw, self.dataset

    @property
    def target_is_a_default(self) -> bool:
        """Whether nothing has set the target."""
        return "target" not in self.model_fields_set

    @property
    def endpoint(self) -> str | None:
        """The address of the BigQuery API if it is not Google's, with no slash at its end."""
        return str(self.api_endpoint).rstrip("/") if self.api_endpoint else None

    @property
    def is_local(self) -> bool:
        """Whether BigQuery is one on this machine."""
        return self.api_endpoint is not None and self.api_endpoint.host == LOCALHOST

    def to_mapping(self) -> dict[str, str]:
        """Return what `from_mapping` reads: each setting that has a value, by its variable."""
        values = self.model_dump(by_alias=True, mode="json", exclude_none=True)
        return {name: str(value) for name, value in values.items()}

    @classmethod
    def list_variables(cls) -> Iterator[str]:
        """Yield the environment variable of each setting, in the order of `.env.example`."""
        for field in cls.model_fields.values():
            assert field.alias is not None
            yield field.alias

    @classmethod
    def from_mapping(cls, values: Mapping[str, str]) -> Self:
        """Return the settings that `values` gives, one entry an environment variable.

        Raises ConfigurationError, with one line for each problem found.
        """
        given = {name: values[name].strip() for name in cls.list_variables() if name in values}
        try:
            return cls.model_validate({k: v for k, v in given.items() if v})
        except ValidationError as error:
            problems = [_describe_problem(problem) for problem in error.errors()]
            raise ConfigurationError(
                "Configuration incorrecte :\n" + "\n".join(f"  - {problem}" for problem in problems)
            ) from None


def check_env_file(path: Path) -> None:
    """Raise ConfigurationError when this `.env` is there and cannot be read."""
    try:
        # UTF-16 without a BOM decodes as UTF-8, with a NUL after each letter: no setting would be
        # found, and nobody told why.
        if "\0" in path.read_text(encoding="utf-8"):
            raise ValueError
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "ce n'est pas de l'UTF-8"
        raise ConfigurationError(
            f"Fichier {path} illisible ({reason}) : enregistrez-le en UTF-8, ou déplacez-le et "
            "recréez-le avec `.venv/bin/python utilities/generate_env.py`."
        ) from None


def load_environment() -> dict[str, str]:
    """Return the environment, once `.env` has filled in the variables it lacks.

    Raises ConfigurationError when `.env` is there and cannot be read.
    """
    check_env_file(ENV_FILE)
    load_dotenv(ENV_FILE)
    # Our tools have called this at their start. In a deployment Prefect's engine runs the flow, and
    # has not: the run would ask the proxy for 127.0.0.1.
    reach_this_machine_directly()
    return {name: value for name, value in os.environ.items() if value.strip()}


def read_bigquery_address() -> str:
    """Return the address of BigQuery in this process's environment, Google's by default."""
    return os.environ.get(ENDPOINT, "").strip() or GOOGLE_ENDPOINT


def find_misspelt_variables() -> list[str]:
    """Return one French line for each name in `.env` that looks like a setting and is none."""
    settings = list(PipelineSettings.list_variables())
    lines = []
    for name in dotenv_values(ENV_FILE):
        meant = difflib.get_close_matches(name, settings, n=1, cutoff=0.9)
        if meant and name not in settings:
            lines.append(f"{name}, dans .env, n'est pas un réglage : écrivez {meant[0]} ?")
    return lines


def load_settings(target: Target | None = None) -> PipelineSettings:
    """Return the settings of this process: `target`, environment, `.env`, Prefect Variables.

    Raises ConfigurationError with all that is wrong, or when `.env` cannot be read.
    """
    environment = load_environment()
    variables = _read_variables()
    if variables.get(ENDPOINT, "").strip() and ENDPOINT not in environment:
        # Anyone on this Prefect can write a Variable: Google's tokens would go to their address.
        raise ConfigurationError(
            f"La Variable Prefect {ENDPOINT.lower()} n'est pas un réglage : l'adresse de BigQuery "
            "reçoit les jetons Google. Mettez-la dans .env, ou dans l'environnement, sous le nom "
            f"{ENDPOINT}, et effacez la Variable (`prefect variable unset {ENDPOINT.lower()}`)."
        )
    explicit = {"DBT_TARGET": target} if target else {}
    return PipelineSettings.from_mapping(variables | environment | explicit)


def _read_variables() -> dict[str, str]:
    """Return the Prefect Variables that have the name of a setting, by its variable.

    Asked for by name: of all Variables, `client.read_variables()` gives the first 200.
    """
    from prefect import get_client

    names = [name.lower() for name in PipelineSettings.list_variables()]
    with get_client(sync_client=True) as client:
        answer = client.request(
            "POST", "/variables/filter", json={"variables": {"name": {"any_": names}}}
        )
    return {variable["name"].upper(): str(variable["value"]) for variable in answer.json()}


def _describe_problem(problem: ErrorDetails) -> str:
    """Return one French line for a problem that pydantic found."""
    name, kind, context = problem["loc"][0], problem["type"], problem.get("ctx", {})
    if field := PipelineSettings.model_fields.get(str(name)):
        # When a default is at fault, pydantic gives the name of the field, not its alias: users
        # would look for a variable that does not exist.
        name = field.alias or name
    if kind == "missing":
        return (
            f"{name} n'est défini ni dans l'environnement, ni dans .env, ni en Variable "
            f"Prefect ({str(name).lower()}) : lancez "
            "`.venv/bin/python utilities/generate_env.py`, ou ajoutez-le à .env"
        )
    choices = str(context.get("expected")).replace("'", "").replace(" or ", " et ")
    reasons = {
        "literal_error": f"les valeurs possibles sont {choices}",
        "int_parsing": "il faut un nombre entier",
        "greater_than": f"il faut un nombre supérieur à {context.get('gt')}",
        "greater_than_equal": f"il faut {context.get('ge')} ou plus",
        "less_than_equal": f"il faut {context.get('le')} au plus",
        "url_parsing": "il faut une adresse http:// ou https://",
        "url_scheme": "il faut une adresse http:// ou https://",
        "value_error": str(context.get("error")),
    }
    reason = reasons.get(kind, f"ce n'est pas une valeur possible ({kind})")
    return f"{name} : « {mask_password(str(problem['input']))} » est refusé, {reason}"
