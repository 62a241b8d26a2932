"""Names the files of a dbt project that are not UTF-8, which dbt does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

READ_BY_DBT = {".sql", ".yml", ".yaml", ".md", ".csv", ".py"}


def name_undecodable_files(errors: list[str], project_dir: Path) -> list[str]:
    """Return the errors of a command, in which a file that is not UTF-8 is named: dbt does not."""
    if not any("'utf-8' codec can't decode" in error for error in errors):
        return errors
    files = ", ".join(_find_undecodable_files(project_dir))
    said = f"pas en UTF-8 : {files}. Enregistrez-le dans ce codage, celui que dbt lit."
    return [said] if files else errors


def _find_undecodable_files(project_dir: Path) -> Iterator[str]:
    """Yield each file of a dbt project that is not UTF-8, with the line."""
    for path in sorted(project_dir.rglob("*")):
        name = path.relative_to(project_dir)
        if path.suffix in READ_BY_DBT and name.parts[0] not in ("target", "logs"):
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                line = error.object.count(b"\n", 0, error.start) + 1
                yield f"{name} (ligne {line})"
            except OSError:
                continue
