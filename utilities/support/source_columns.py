"""The columns of the sources, which `make types` keeps in the dbt project for `make check`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import DBT_PROJECT_DIR

FILE_NAME = "source_columns.yml"
HEADER = """\
# Les colonnes des sources et leurs types, que `make types` demande à BigQuery. `make check` les
# prend pour toute source dont le YAML ne donne pas le type de chaque colonne. À committer tel quel.
"""

# A table's columns, in its order, and their types as GoogleSQL writes them; and the columns of each
# source, by its name. Datasets are not part of the name: a source is elsewhere in dev and in prod.
ColumnTypes = dict[str, str]
SourceColumns = dict[str, ColumnTypes]


def name_source(source: Any, project_name: str) -> str:
    """Return the name of a source in the file: `source.table`, after a package that is not ours."""
    name = f"{source.source_name}.{source.name}"
    return name if source.package_name == project_name else f"{source.package_name}.{name}"


def can_be_asked(source: Any) -> bool:
    """Return whether BigQuery shows the columns of a source: its own views are no tables to it."""
    return "INFORMATION_SCHEMA" not in source.relation_name.upper()


def name_command(folder: Path) -> str:
    """Return the command that keeps the columns of the project in this folder."""
    if folder.resolve() == DBT_PROJECT_DIR:
        return "make types"
    return f".venv/bin/python utilities/record_sources.py --project-dir {shlex.quote(str(folder))}"


def read_source_columns(folder: Path) -> SourceColumns | None:
    """Return what the dbt project in this folder keeps, None if it has no such file.

    Raises ConfigurationError, with the remedy, for a file that is not what `make types` writes.
    """
    path = folder / FILE_NAME
    try:
        # A hundred sources are thousands of lines: PyYAML's own loader takes a second for them.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
        return TypeAdapter(SourceColumns).validate_python(content)
    except FileNotFoundError:
        return None
    except (ValueError, yaml.YAMLError):
        raise ConfigurationError(
            f"{path} n'a pas la forme attendue (un conflit de git, peut-être) : supprimez-le, puis "
            f"relancez `{name_command(folder)}`."
        ) from None


def write_source_columns(folder: Path, sources: SourceColumns) -> None:
    """Replace, in one step, what the dbt project in this folder keeps."""
    # Without resolve(), a file that is a symbolic link would become a file of its own, and the one
    # that it leads to would stay as it was.
    path = (folder / FILE_NAME).resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(render_source_columns(sources))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def render_source_columns(sources: SourceColumns) -> str:
    """Return the text of the file: sources by name, columns in the order of their table."""
    return HEADER + dump_yaml(dict(sorted(sources.items())))


def dump_yaml(content: dict[str, Any]) -> str:
    """Return this content as YAML, in its order, each type on its line."""
    # PyYAML would fold the type of a nested column over several lines.
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=float("inf"))
