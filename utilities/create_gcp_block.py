"""Saves the GcpCredentials block that the pipeline loads: a key, or none.

A block without a key stands for the default credentials of the machine that loads it.
Rotating a key is running this again: nothing else has to change. The block of another account is
left alone.
"""

from __future__ import annotations

import argparse
import json
import stat
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bi_pipeline.bigquery.connection import import_credentials_block_class, load_credentials
from bi_pipeline.command_line import make_french_parser, parse_block_name, say_errors
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.lifetime.local_servers import ensure_prefect_server
from bi_pipeline.settings import PROJECT_ROOT, load_settings
from support.bigquery_access import make_bigquery_client
from support.diagnosis import Diagnosis, check_datasets
from support.prefect_login import describe_prefect, find_on_prefect

# The holder of a block whose content is no key that this tool can read. It differs from that of any
# key: the block counts as another account's, and is not overwritten without --replace.
UNREADABLE = "un contenu illisible"
REQUIRED_FIELDS = ("project_id", "private_key_id", "private_key", "client_email", "token_uri")


def read_key(path: Path) -> dict[str, Any]:
    """Return the key of a service account, checked.

    Raises ConfigurationError, which says what is wrong and never quotes the file.
    """
    from google.oauth2.service_account import Credentials

    try:
        info = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"Fichier {path} introuvable : passez-vous de clé avec --adc, ou mettez `create_key = "
            "true` dans infrastructure/terraform.tfvars et relancez `make infra`."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"Fichier {path} illisible ({error.strerror}).") from None
    except ValueError:
        raise ConfigurationError(f"Le fichier {path} n'est pas du JSON.") from None
    if not isinstance(info, dict) or info.get("type") != "service_account":
        raise ConfigurationError(
            f"Le fichier {path} n'est pas la clé d'un compte de service : il y faut "
            '"type": "service_account".'
        )
    missing = [name for name in REQUIRED_FIELDS if not isinstance(info.get(name), str)]
    if missing:
        raise ConfigurationError(
            f"Dans {path}, il manque {', '.join(missing)} : téléchargez la clé de nouveau."
        )
    try:
        Credentials.from_service_account_info(info)
    except ValueError:
        raise ConfigurationError(
            f"Dans {path}, private_key n'est pas une clé privée valable : téléchargez la clé de "
            "nouveau."
        ) from None
    return info


def warn_if_others_can_read(path: Path) -> None:
    """Say so on stderr when the key is readable by other users of the machine."""
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        print(
            f"Attention : d'autres utilisateurs peuvent lire {path}. Lancez `chmod 600 {path}`.",
            file=sys.stderr,
        )


def describe_holder(info: Any) -> str:
    """Return, in French, whose the content of a block is, never the content."""
    if not info:
        return "aucune clé (--adc)"
    email = info.get("client_email") if isinstance(info, dict) else None
    return f"la clé de {email}" if isinstance(email, str) else UNREADABLE


def find_holder(name: str, slug: str) -> str | None:
    """Return, in French, whose the block on Prefect is, None if there is none."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        block = find_on_prefect(client.read_block_document_by_name, name, slug)
    if block is None:
        return None
    # A block made in the interface may hold the path of a key on another machine. Without this
    # line it would count as a block without a key, and --adc would overwrite it.
    if block.data.get("service_account_file"):
        return UNREADABLE
    return describe_holder(block.data.get("service_account_info"))


def save_block(info: dict[str, Any] | None, name: str, where: str, *, replace: bool) -> str:
    """Save the key, or none, under this name; return what was done, in French.

    Raises ConfigurationError, unless told to `replace` it, if the block is another account's, and
    google-auth's DefaultCredentialsError without a key where this machine has no default
    credentials.
    """
    from prefect.types import SecretDict

    block_class = import_credentials_block_class()
    before, after = find_holder(name, block_class.get_block_type_slug()), describe_holder(info)
    if before not in (None, after) and not replace:
        raise ConfigurationError(
            f"Le block « {name} », dans {where}, contient {before} ; le vôtre aurait {after}. "
            "Donnez-lui un autre nom (--block-name NOM, et PREFECT_GCP_CREDENTIALS_BLOCK=NOM dans "
            ".env), ou prenez sa place avec --replace."
        )
    key = {"service_account_info": SecretDict(info)} if info else {}
    block_class(**key).save(name, overwrite=True)
    return "remplacé" if before else "créé"


def check_block(name: str) -> int:
    """Load the block, and say of the datasets what the doctor says; return the exit code."""
    settings = load_settings()
    diagnosis = Diagnosis(errors=sys.stderr)
    check_datasets(diagnosis, settings, make_bigquery_client(load_credentials(name), settings))
    return int(diagnosis.failed)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_french_parser(
        "create_gcp_block.py",
        "Enregistre un block GcpCredentials dans Prefect : la clé d'un compte de service, ou rien "
        "avec --adc. Pour changer de clé, relancez-le.",
    )
    parser.add_argument(
        "--adc",
        action="store_true",
        help="aucune clé : la pipeline prendra les identifiants Google par défaut de la machine "
        "où elle tourne (`gcloud auth application-default login`, compte attaché, fédération)",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        default=PROJECT_ROOT / ".secrets" / "sa_key.json",
        help="clé du compte de service (par défaut : .secrets/sa_key.json)",
    )
    parser.add_argument(
        "--block-name",
        type=parse_block_name,
        default="sa-key",
        help="nom du block (par défaut : sa-key)",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="prendre la place du block de ce nom, même s'il contient la clé d'un autre compte",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="ne rien enregistrer : charger le block et chercher les datasets dans BigQuery",
    )
    return parser.parse_args(argv)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Save or check the block; return the exit code."""
    arguments = parse_arguments(argv)
    if arguments.check:
        ensure_prefect_server(while_it_boots=import_credentials_block_class)
        return check_block(arguments.block_name)
    info = None
    if not arguments.adc:
        info = read_key(arguments.key_file)
        warn_if_others_can_read(arguments.key_file)
    where = describe_prefect()
    ensure_prefect_server(while_it_boots=import_credentials_block_class)
    done = save_block(info, arguments.block_name, where, replace=arguments.replace)
    print(f"Block « {arguments.block_name} » {done} dans {where}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
