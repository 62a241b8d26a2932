"""The packages of a dbt project: whether they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warm_dbt.packages import find_packages_dir, read_yaml


def packages_are_missing(project_dir: Path) -> bool:
    """Whether a project declares packages that `dbt deps` has not installed, or not since a change.

    False only if every declared package is locked, every locked one installed, and no declaration
    or lock is newer than dbt_packages/: a package keeps its name when its version changes.
    """
    declarations = [project_dir / name for name in ("packages.yml", "dependencies.yml")]
    declared = [package for path in declarations for package in _read_packages(path)]
    if not declared:
        return False
    lock, installed = project_dir / "package-lock.yml", find_packages_dir(project_dir)
    locked = _read_packages(lock)
    if not installed.exists() or not _list_origins(declared) <= _list_origins(locked):
        return True
    changed = [path.stat().st_mtime for path in (*declarations, lock) if path.exists()]
    return max(changed) > installed.stat().st_mtime or not all(
        (installed / package.get("name", "")).exists() for package in locked
    )


def _read_packages(path: Path) -> list[dict[str, Any]]:
    return read_yaml(path).get("packages") or []


def _list_origins(packages: list[dict[str, Any]]) -> set[str]:
    """Return where the packages come from: a name on the hub, a git address, a folder…"""
    kinds = ("package", "git", "local", "tarball", "private")
    return {str(package[kind]) for package in packages for kind in kinds if kind in package}
