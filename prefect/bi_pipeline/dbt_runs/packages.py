"""The packages of a dbt project: whether they are there, and stay in their folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from bi_pipeline.errors import ConfigurationError


def packages_are_missing(project_dir: Path) -> bool:
    """Whether a project declares packages that `dbt deps` has not installed, or not since a change.

    False only if every declared package is locked, every locked one installed, and no file newer
    than dbt_packages/: a changed version keeps the names.
    """
    declarations = [project_dir / name for name in ("packages.yml", "dependencies.yml")]
    declared = [package for path in declarations for package in _packages(path)]
    if not declared:
        return False
    lock, installed = project_dir / "package-lock.yml", _install_path(project_dir)
    locked = _packages(lock)
    if not installed.exists() or not _origins(declared) <= _origins(locked):
        return True
    changed = [path.stat().st_mtime for path in (*declarations, lock) if path.exists()]
    return max(changed) > installed.stat().st_mtime or not all(
        (installed / package.get("name", "")).exists() for package in locked
    )


def refuse_what_reaches_outside(project_dir: Path) -> None:
    """Raise ConfigurationError for a package that reads, or a project that copies, from elsewhere.

    By a link, or a path in its `dbt_project.yml`: dbt would take the file for a node of the package
    or copy it into the project (`asset-paths`), and a macro can then put a key in a table.
    """
    outside = list(_paths_outside(project_dir.resolve(), ("asset-paths",)))
    for package in sorted(_install_path(project_dir).glob("*")):
        root = package.resolve()
        outside += [f"{package.name}/{link}" for link in _links_outside(root)]
        outside += [f"{package.name}, {path}" for path in _paths_outside(root, ("-paths", "-path"))]
    if outside:
        raise ConfigurationError(
            f"Le projet dbt sort de son dossier ({outside[0]}) : une macro pourrait emporter une "
            "clé. Corrigez ce chemin, ou retirez ce package de packages.yml."
        )


def _links_outside(root: Path) -> Iterator[Path]:
    """Yield the links below a folder that lead out of it."""
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                yield path.relative_to(root)


def _paths_outside(root: Path, endings: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of a dbt project, by the endings of their settings, that lead out of it."""
    for name, given in _read_yaml(root / "dbt_project.yml").items():
        for path in given if isinstance(given, list) else [given]:
            # A path with Jinja in it is known to dbt only.
            unknown = "{" in str(path) or not (root / str(path)).resolve().is_relative_to(root)
            if str(name).endswith(endings) and unknown:
                yield f"{name} : {path}"


def _install_path(project_dir: Path) -> Path:
    """Return where `dbt deps` installs the packages of a project."""
    folder = _read_yaml(project_dir / "dbt_project.yml").get("packages-install-path")
    return project_dir / str(folder or "dbt_packages")


def _packages(path: Path) -> list[dict[str, Any]]:
    return _read_yaml(path).get("packages") or []


def _origins(packages: list[dict[str, Any]]) -> set[str]:
    """Return where the packages come from: a name on the hub, a git address, a folder…"""
    kinds = ("package", "git", "local", "tarball", "private")
    return {str(package[kind]) for package in packages for kind in kinds if kind in package}


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, or an empty one: what is wrong with it is dbt's to say."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        # dbt's own loader: the other one refuses a tab that this one takes.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
        return content if isinstance(content, dict) else {}
    return {}
