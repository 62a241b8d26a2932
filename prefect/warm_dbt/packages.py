"""Where a dbt project has its packages."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml


def find_packages_dir(project_dir: Path) -> Path:
    """Return the folder in which `dbt deps` installs the packages of a project.

    If the folder's name is Jinja, which only dbt can read, the project itself is returned.
    """
    folder = read_yaml(project_dir / "dbt_project.yml").get("packages-install-path")
    return project_dir / ("" if "{" in str(folder) else str(folder or "dbt_packages"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, or an empty one: what is wrong with it is dbt's to say."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        # dbt uses CSafeLoader, which takes tabs that SafeLoader refuses: with the latter, a project
        # that dbt can read would count as one without settings.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
        return content if isinstance(content, dict) else {}
    return {}
