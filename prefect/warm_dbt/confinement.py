"""Which files dbt's process may open: those of its project and of its packages.

dbt's Jinja is code, that of packages too, and what dbt hands it (tables, nodes, the manifest) reads
and writes any file: a macro could put a key, or the environment of another process, in a table.
"""

from __future__ import annotations

import mimetypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from warm_dbt.packages import packages_dir

# What libraries read of the system, on Linux and macOS; no secret is in it.
SYSTEM = (
    *("/usr", "/System", "/Library", "/etc/ssl", "/etc/pki", "/etc/localtime", "/etc/timezone"),
    *("/etc/os-release", "/proc/meminfo", "/proc/stat", "/proc/cpuinfo", os.devnull),
    *mimetypes.knownfiles,
)


def confine(project_dir: Path, written: Iterable[str], read: Iterable[str]) -> None:
    """Have this process, for as long as it lives, open no file from outside a dbt project.

    It may write below `written` alone. It may read that, the project, its packages, `read`, and
    what Python and the system are made of. PermissionError where Python code opens anything else.

    Args:
        project_dir: absolute; the project of the command.
        written, read: files or folders.
    """
    packages = packages_dir(project_dir)
    # A folder of PYTHONPATH may be the one that the project, and the key, are in.
    code = [path for path in sys.path if path and not project_dir.is_relative_to(path)]
    writable = _prefixes([*written, os.devnull])
    readable = _prefixes(
        [*SYSTEM, sys.prefix, sys.base_prefix, *code, *read, project_dir, *packages.glob("*")]
    )

    def is_own_link(name: str) -> bool:
        """Whether the team itself has put this path, by a link, in the project."""
        path = project_dir / name
        return (
            path.is_relative_to(project_dir)
            and ".." not in path.parts
            and not path.is_relative_to(packages)
        )

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        # dbt empties a folder that `asset-paths` names.
        if event not in ("open", "shutil.rmtree") or isinstance(arguments[0], int):
            return
        writes = event != "open" or arguments[2] & ~os.O_CLOEXEC != os.O_RDONLY
        name = os.fsdecode(arguments[0])
        real = os.path.realpath(name)
        if (real + os.sep).startswith(writable):
            return
        if not writes and (
            (real + os.sep).startswith(readable) or is_own_link(name) or not Path(real).exists()
        ):
            return
        raise PermissionError(
            f"{name} : la pipeline ne laisse dbt lire que le projet et ses packages, et écrire que "
            "dans ses dossiers target et logs."
        )

    sys.addaudithook(refuse)


def _prefixes(paths: Iterable[str | Path]) -> tuple[str, ...]:
    return tuple(os.path.realpath(path) + os.sep for path in paths)
