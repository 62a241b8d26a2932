"""Says what the pipeline needs and lacks, one line each, with the remedy; changes nothing."""

from __future__ import annotations

import csv
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

REINSTALL = "`rm -rf .venv`, puis `make doctor`"

try:
    from packaging.requirements import Requirement

    from bi_pipeline.bigquery.connection import import_credentials_block_class, load_credentials
    from bi_pipeline.command_line import make_french_parser
    from bi_pipeline.errors import ConfigurationError
    from bi_pipeline.explanations import explain
    from bi_pipeline.lifetime.local_servers import ensure_prefect_server
    from bi_pipeline.settings import (
        PROJECT_ROOT,
        PipelineSettings,
        find_misspelt_variables,
        load_environment,
        load_settings,
    )
    from support.bigquery_access import make_bigquery_client
    from support.diagnosis import Diagnosis, check_datasets
except (ImportError, AttributeError) as error:
    # An interrupted install leaves packages without some of their files: these imports then fail
    # before check_python_packages could say so.
    print(f"✗ Dépendances : {error}\n    → {REINSTALL}")
    raise SystemExit(1) from None

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

LOCK = PROJECT_ROOT / "requirements.txt"


def check_python_packages(diagnosis: Diagnosis) -> bool:
    """Return whether the installed packages are those of the lock, with all their files; say so."""
    site_packages = Path(sysconfig.get_path("purelib"))
    wrong = list(find_incomplete_packages(site_packages)) or list(_find_differing_packages())
    if not wrong:
        diagnosis.say_ready("Dépendances : celles de requirements.txt")
        return True
    shown = ", ".join(wrong[:3]) + (" …" if len(wrong) > 3 else "")
    diagnosis.say_missing(f"Dépendances : {len(wrong)} à réinstaller ({shown})", REINSTALL)
    return False


def find_incomplete_packages(site_packages: Path) -> Iterator[str]:
    """Yield the packages that miss a file which their RECORD lists, or RECORD itself.

    Compiled files are left aside: Python makes them again.
    """
    for folder in site_packages.glob("*.dist-info"):
        try:
            with (folder / "RECORD").open(encoding="utf-8", newline="") as record:
                files = [row[0] for row in csv.reader(record) if not row[0].endswith(".pyc")]
        except FileNotFoundError:
            files = ["RECORD"]
        if not all((site_packages / file).exists() for file in files):
            yield f"{folder.name.split('-')[0]} incomplet"


def _find_differing_packages() -> Iterator[str]:
    """Yield the packages that are missing, or that have another version than the lock's."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith((" ", "#")):
            continue
        requirement = Requirement(line.rstrip(" \\"))
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} absent"
            continue
        if version not in requirement.specifier:
            yield f"{requirement.name} {version}"


def prefect_is_new() -> bool:
    """Return whether this user has never used Prefect: asking it would make a ~/.prefect."""
    names = ("PREFECT_API_URL", "PREFECT_HOME")
    return (
        not any(name in load_environment() for name in names)
        and not (Path.home() / ".prefect").exists()
    )


def check_settings(diagnosis: Diagnosis) -> PipelineSettings | None:
    """Return the settings, None if one is missing or wrong; say which."""
    try:
        if prefect_is_new():
            settings = PipelineSettings.from_mapping(load_environment())
        else:
            ensure_prefect_server(while_it_boots=import_credentials_block_class)
            settings = load_settings()
    except ConfigurationError as error:
        diagnosis.say_missing(
            str(error), "corrigez .env, ou lancez `.venv/bin/python utilities/generate_env.py`"
        )
        return None
    for line in find_misspelt_variables():
        diagnosis.say_doubtful(line)
    env_file = ".env" if (PROJECT_ROOT / ".env").exists() else "sans .env"
    diagnosis.say_ready(
        f"Réglages ({env_file}) : cible {settings.target}, dataset {settings.dataset}"
    )
    return settings


def check_block(diagnosis: Diagnosis, settings: PipelineSettings) -> Client | None:
    """Return a client once Google gives a token for the block, None if it does not; say why."""
    from google.auth.exceptions import GoogleAuthError

    if prefect_is_new():
        diagnosis.say_missing(
            "Block : Prefect n'en a encore aucun",
            "`.venv/bin/python utilities/create_gcp_block.py`, avec --adc si vous êtes sans clé",
        )
        return None
    try:
        client = make_bigquery_client(load_credentials(settings.credentials_block), settings)
    except (ConfigurationError, GoogleAuthError) as error:
        diagnosis.say_missing(f"Block : {explain(error)}")
        return None
    diagnosis.say_ready(f"Block {settings.credentials_block}")
    return client


def check_dbt_project(diagnosis: Diagnosis, settings: PipelineSettings) -> None:
    """Say whether the dbt project parses. dbt writes in a temporary folder, not in `dbt/`."""
    from support.dbt_offline import parse_project

    # No environment variable holds a setting that comes from a Prefect Variable or a default: in
    # the project, env_var() of it would fail. Nothing after this check reads the environment.
    os.environ |= settings.to_mapping()
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
            parse_project(PROJECT_ROOT / "dbt", [], Path(folder))
    except ConfigurationError as error:
        diagnosis.say_missing(str(error))
    else:
        diagnosis.say_ready("Projet dbt")


def diagnose() -> Diagnosis:
    """Go through all that the pipeline needs; a check that needs another waits for it."""
    diagnosis = Diagnosis()
    diagnosis.say_ready(f"Python {sys.version.split()[0]}")
    if not check_python_packages(diagnosis):
        return diagnosis
    settings = check_settings(diagnosis)
    if settings:
        client = check_block(diagnosis, settings)
        if client:
            check_datasets(diagnosis, settings, client)
        check_dbt_project(diagnosis, settings)
    return diagnosis


def main(argv: list[str] | None = None) -> int:
    """Say what is ready and what is missing; return 1 if the pipeline would fail."""
    make_french_parser(
        "doctor.py", "Dit ce qui est prêt et ce qui manque, sans rien changer."
    ).parse_args(argv)
    try:
        return int(diagnose().failed)
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        print(f"✗ {known}")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
