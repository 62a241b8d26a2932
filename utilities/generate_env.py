"""Turns `infrastructure/terraform-outputs.json` into `.env`.

Source: `terraform output -json` or `tofu output -json`, an object of
`{"name": {"value": …}}`.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from dotenv.parser import Binding, parse_stream

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bi_pipeline.command_line import make_french_parser, parse_block_name, say_errors
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PROJECT_ROOT, PipelineSettings

REQUIRED_OUTPUTS = {
    "bq_dev_dataset_id": "DBT_BIGQUERY_DATASET_DEV",
    "bq_prod_dataset_id": "DBT_BIGQUERY_DATASET_PROD",
}
# A Terraform state made before these outputs existed lacks some of them.
OPTIONAL_OUTPUTS = {
    "bq_raw_dataset_id": "DBT_BIGQUERY_DATASET_RAW",
    "project_id": "GCP_PROJECT_ID",
    "region": "GCP_REGION",
    "impersonated_service_account": "DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT",
    "dbt_artifacts_dir": "DBT_ARTIFACTS_DIR",
}
OUTPUTS = REQUIRED_OUTPUTS | OPTIONAL_OUTPUTS
# Set by hand before Terraform made a bucket: with another address, the results kept there would no
# longer be found.
KEPT_IF_SET = ("DBT_ARTIFACTS_DIR",)

CORRECT_AND_REDO = "Corrigez infrastructure/ puis relancez `make infra` et `make outputs`."


def read_outputs(path: Path) -> dict[str, Any]:
    """Return the value of each output in the file, without those that are null.

    Takes UTF-8, with or without BOM, and UTF-16 (what `>` of PowerShell writes): json finds out.
    Raises ConfigurationError when the file is not there, or is not what it should be.
    """
    try:
        outputs = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"Fichier {path} introuvable : lancez d'abord `make outputs`."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"Fichier {path} illisible ({error.strerror}).") from None
    except ValueError:
        outputs = None
    if isinstance(outputs, dict):
        wrong = [
            f"l'output {name}"
            for name, output in outputs.items()
            if not isinstance(output, dict) or "value" not in output
        ]
    else:
        wrong = ["le contenu"]
    if wrong:
        raise ConfigurationError(
            f"Dans {path}, {wrong[0]} n'a pas la forme attendue, du JSON "
            '{"nom": {"value": …}} : relancez `make outputs`.'
        )
    # `terraform output` leaves out an output that is null, but a file written by hand may have one.
    # If it did not count as absent, an optional output that is null would be refused.
    return {
        name: output["value"] for name, output in outputs.items() if output["value"] is not None
    }


def make_own_variables(outputs: dict[str, Any], path: Path, block: str) -> dict[str, str]:
    """Return the variables that this tool writes, in the order of the file.

    Raises ConfigurationError, which names the file, the output and the remedy.
    """
    missing = [name for name in REQUIRED_OUTPUTS if name not in outputs]
    if missing:
        raise ConfigurationError(
            f"Dans {path}, il manque {', '.join(missing)} (absent ou null) ; outputs présents : "
            f"{', '.join(outputs) or 'aucun'}. Lancez `make infra` puis `make outputs`."
        )
    values = {
        variable: _check_text(name, outputs[name], path)
        for name, variable in OUTPUTS.items()
        if name in outputs
    }
    values |= {
        "PREFECT_GCP_CREDENTIALS_BLOCK": block,
        "DBT_TARGET": "dev",
        "DBT_PROFILE_NAME": "projet_m2_bi",
    }
    try:
        PipelineSettings.from_mapping(values)
    except ConfigurationError as error:
        problems = str(error)
        for name, variable in OUTPUTS.items():
            problems = problems.replace(variable, f"{name} ({variable})")
        raise ConfigurationError(f"Dans {path} : {problems}\n{CORRECT_AND_REDO}") from None
    return {name: values[name] for name in PipelineSettings.list_variables() if name in values}


def _check_text(name: str, value: object, path: Path) -> str:
    """Return the value of an output; ConfigurationError unless it is text without blanks around."""
    if not isinstance(value, str) or not value or value != value.strip():
        raise ConfigurationError(
            f"Dans {path}, l'output {name} vaut {json.dumps(value, ensure_ascii=False)} : il faut "
            "une chaîne de caractères, ni vide, ni entourée de blancs. " + CORRECT_AND_REDO
        )
    return value


def find_kept_values(current: str, values: dict[str, str]) -> dict[str, str]:
    """Return the variables that `.env` sets otherwise than `values`, and that stay as they are."""
    before = {binding.key: binding.value for binding in parse_stream(io.StringIO(current))}
    return {
        name: value
        for name in KEPT_IF_SET
        if name in values and (value := before.get(name)) and value != values[name]
    }


def render_env(current: str, values: dict[str, str]) -> str:
    """Return `current` with these variables set, and all the rest as it is, in place.

    A variable that is already there is changed where it stands; the others are added at
    the end, each under its comment.
    """
    newline = "\r\n" if "\r\n" in current else "\n"
    bindings = list(parse_stream(io.StringIO(current, newline="")))
    text = "".join(_render_binding(binding, values) for binding in bindings)
    present = {binding.key for binding in bindings}
    comments = {field.alias: field.description for field in PipelineSettings.model_fields.values()}
    for name, value in values.items():
        if name not in present:
            if text:
                text += newline if text.endswith("\n") else newline * 2
            text += f"# {comments[name]}{newline}{name}={value}{newline}"
    return text


def _render_binding(binding: Binding, values: dict[str, str]) -> str:
    """Return the text of one line of `.env`, with its new value if it is one of `values`."""
    line = binding.original.string
    if binding.key not in values or binding.value == values[binding.key]:
        return line
    # If a `#` in quotes counted as a comment, the end of the old value would follow the new one.
    # [^\S\r\n], not \s, which would take the line break: the next line would be glued to this one.
    match = re.fullmatch(
        rf"(?P<name>\s*(?:export[^\S\r\n]+)?'?{binding.key}'?)"
        r"""[^\S\r\n]*(?:=[^\S\r\n]*(?:'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|.*?))?"""
        r"(?P<comment>[^\S\r\n]+#[^\r\n]*)?[^\S\r\n]*(?P<end>\r?\n|\r)?",
        line,
        re.DOTALL,
    )
    assert match
    return f"{match['name']}={values[binding.key]}{match['comment'] or ''}{match['end'] or ''}"


def read_env(path: Path) -> str:
    """Return the text of `.env`, its line ends untouched; empty when there is none."""
    if path.exists() and not path.is_file():
        # Reading a pipe would wait for a writer, perhaps for ever, and write_env would put a file
        # in the place of a device.
        raise ConfigurationError(f"{path} n'est pas un fichier : donnez-en un à --output.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"Fichier {path} illisible ({error}) : corrigez-le ou déplacez-le."
        ) from None


def write_env(path: Path, text: str) -> None:
    """Replace the file by the text in one step, mode 600, through a link if it is one."""
    destination = path.resolve()
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=destination.parent, prefix=".env-")
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(destination)
    except OSError as error:
        with suppress(OSError):
            Path(temporary).unlink()
        raise ConfigurationError(
            f"Impossible d'écrire {path} ({error.strerror}) : vérifiez le dossier et ses droits."
        ) from None


def mask_env(text: str, values: dict[str, str]) -> str:
    """Return the text of `.env` with every value hidden that this tool does not write.

    A comment, or a line that dotenv does not understand, is hidden: it may hold a secret too.
    """
    lines = []
    known = {f"# {field.description}" for field in PipelineSettings.model_fields.values()}
    for binding in parse_stream(io.StringIO(text, newline="")):
        line = binding.original.string
        if binding.key in values or not line.strip() or line.strip() in known:
            lines.append(line)
        elif binding.key and binding.value is not None:
            lines.append(f"{binding.key}=***\n")
        else:
            lines.append("# …\n" if line.lstrip().startswith("#") else "***\n")
    return "".join(lines)


def list_changes(current: str, text: str, values: dict[str, str]) -> list[str]:
    """Return the lines that differ, as a diff shows them."""
    before, after = mask_env(current, values).splitlines(), mask_env(text, values).splitlines()
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    return [line for line in lines if line.startswith(("+", "-"))]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_french_parser(
        "generate_env.py",
        "Écrit .env à partir des outputs de Terraform. Ce que vous y avez ajouté reste en place.",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="montrer ce qui serait écrit, sans rien écrire"
    )
    parser.add_argument(
        "--outputs-json",
        type=Path,
        default=PROJECT_ROOT / "infrastructure" / "terraform-outputs.json",
        help="outputs de Terraform (par défaut : infrastructure/terraform-outputs.json)",
    )
    parser.add_argument(
        "--block-name",
        type=parse_block_name,
        default="sa-key",
        help="nom du block GcpCredentials (par défaut : sa-key)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=PROJECT_ROOT / ".env",
        help="fichier à écrire (par défaut : .env à la racine)",
    )
    return parser.parse_args(argv)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Write `.env`, or show what it would be; return the exit code."""
    arguments = parse_arguments(argv)
    outputs = read_outputs(arguments.outputs_json)
    wanted = make_own_variables(outputs, arguments.outputs_json, arguments.block_name)
    current = read_env(arguments.output)
    kept = find_kept_values(current, wanted)
    text = render_env(current, {name: wanted[name] for name in wanted if name not in kept})
    if arguments.dry_run:
        print(mask_env(text, wanted), end="")
        print("\nDifférence avec le fichier actuel :")
    else:
        write_env(arguments.output, text)
        print(f"{arguments.output} est à jour.")
    for line in list_changes(current, text, wanted) or ["aucune"]:
        print(f"  {line}")
    for name, variable in OPTIONAL_OUTPUTS.items():
        if name not in outputs:
            print(f"  {variable} laissé de côté : pas d'output {name}.")
    for name, value in kept.items():
        print(
            f"  {name} reste {value}, comme dans {arguments.output}. Terraform donne "
            f"{wanted[name]} : pour la prendre, retirez cette ligne et relancez."
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
