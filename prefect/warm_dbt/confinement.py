"""Which files dbt's process may open: those of its project and of its packages.

dbt's Jinja is code, that of packages too, and what dbt hands it (tables, nodes, paths) reads and
writes any file: a macro could put a key, or the environment of another process, in a table.

A hook on Python's audit events refuses the known ways out. The hook does not hold Python code that
a macro gets to run, nor libraries in C.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from dbt.adapters.contracts.relation import FakeAPIObject
from dbt_common.contracts.config.base import BaseConfig
from jinja2 import Environment, Template
from jinja2.environment import TemplateModule
from jinja2.sandbox import SandboxedEnvironment

from warm_dbt.packages import find_packages_dir

# System files that Python and its libraries read, on Linux and macOS. If one is missing here, dbt
# fails with PermissionError; if one held a secret, a macro could read it.
SYSTEM = (
    *("/usr/lib", "/usr/lib64", "/usr/share", "/System/Library", "/Library/Frameworks"),
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/pki/tls/certs", "/etc/pki/ca-trust"),
    *("/etc/ssl/openssl.cnf", "/etc/localtime", "/etc/timezone", "/etc/os-release"),
    *("/proc/meminfo", "/proc/stat", "/proc/cpuinfo", os.devnull),
    *mimetypes.knownfiles,
)

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Python's audit events for a change to a file, and how many of the first arguments are paths. By an
# event that is missing here, a macro could change files outside the project.
CHANGES = {
    **dict.fromkeys(("os.chmod", "os.chown", "os.mkdir", "os.truncate", "os.utime"), 1),
    **dict.fromkeys(("os.remove", "os.rmdir", "shutil.rmtree"), 1),
    "os.rename": 2,
}
# These act on a link itself, so the link's own place is checked. Judged by its target, a relative
# link could be moved into target/, from where it leads to another file.
NOT_THROUGH_LINKS = {"os.remove", "os.rename", "shutil.rmtree"}
# By these a macro could leave the confinement: a new program has no audit hook, a link leads
# elsewhere. dbt needs them for `dbt deps` alone, which is not confined.
NEVER = {
    *("os.chdir", "os.link", "os.symlink"),
    *("os.exec", "os.posix_spawn", "os.system", "subprocess.Popen"),
}


def confine(project_dir: Path, written: Collection[str], read: Iterable[str]) -> None:
    """Have this process, for as long as it lives, open no file from outside a dbt project.

    The process may write below `written` alone. It may read there, in the project, its packages,
    `read`, and the libraries. PermissionError where Python code opens or changes anything else.

    Args:
        project_dir: absolute, without links; the folder that dbt works in.
        written, read: files or folders.
    """
    folder = find_packages_dir(project_dir)
    installed = [path for path in folder.glob("*") if (path / "dbt_project.yml").exists()]
    packages = _make_prefixes([folder, *installed])
    # If PYTHONPATH names a folder above the project, a macro could read the `.env` or the key in
    # it; so such a folder is no library.
    libraries = [
        path
        for path in (*SYSTEM, *sys.path)
        if path and not project_dir.is_relative_to(os.path.realpath(path))
    ]
    writable = _make_prefixes([*written, os.devnull])
    readable = (*writable, *_make_prefixes([*libraries, *read, project_dir, *installed]))

    def is_own_link(name: str, folders: Iterable[str | Path]) -> bool:
        """Whether a path leads out of a folder by a link that the team made, not a package."""
        path = project_dir / name
        return (
            any(path.is_relative_to(folder) for folder in folders)
            and ".." not in path.parts
            and not any(_is_below(os.path.realpath(parent), packages) for parent in path.parents)
        )

    def check(name: str, *, writes: bool, through_links: bool) -> None:
        real = os.path.realpath(name)
        if not through_links:
            parent, last = os.path.split(name.rstrip(os.sep))
            real = str(Path(os.path.realpath(parent), last))
        if writes:
            allowed = _is_below(real, writable) or is_own_link(name, written)
        else:
            allowed = _is_below(real, readable) or is_own_link(name, [project_dir])
            if not allowed and not Path(real).exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if not allowed:
            raise PermissionError(
                f"{name} : la pipeline ne laisse dbt lire que le projet et ses packages, et écrire "
                "que dans ses dossiers target et logs."
            )

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NEVER:
            raise PermissionError(f"{event} : la pipeline ne le laisse pas faire à dbt.")
        # shutil.rmtree removes by a name and its folder's descriptor: the name alone would be
        # looked for in the wrong folder, and refused. The folder was checked before.
        if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
            return
        if event == "open" or event in CHANGES:
            writes = event != "open" or arguments[2] & WRITES
            for path in arguments[: CHANGES.get(event, 1)]:
                # open() takes a descriptor too, whose file was checked when it was opened.
                if not isinstance(path, int):
                    through_links = event not in NOT_THROUGH_LINKS
                    check(os.fsdecode(path), writes=bool(writes), through_links=through_links)

    sys.addaudithook(refuse)


def keep_jinja_in_its_sandbox() -> None:
    """Refuse templates Jinja's own compiler, and private attributes of dbt's objects.

    With either, a macro could run Python. Some objects of dbt give private attributes by an index
    or by `get()`, which Jinja's sandbox does not check.
    """
    _hide_private_names()
    is_safe = SandboxedEnvironment.is_safe_attribute
    compilers = (Environment, Template, TemplateModule)

    def is_safe_attribute(self: Any, owner: Any, attribute: str, value: Any) -> bool:
        if isinstance(owner, compilers) or isinstance(value, compilers):
            return False
        return is_safe(self, owner, attribute, value)

    setattr(SandboxedEnvironment, "is_safe_attribute", is_safe_attribute)  # noqa: B010 - for mypy


def _hide_private_names() -> None:
    """Have dbt's relations and configurations give no attribute that starts with `_`."""
    by_index, by_name = FakeAPIObject.__getitem__, BaseConfig.get

    def get_by_index(relation: Any, name: str) -> Any:
        if str(name).startswith("_"):
            raise KeyError(name)
        return by_index(relation, name)

    def get(config: Any, name: str, default: Any = None) -> Any:
        # A team's own setting may start with `_`: dbt keeps those in _extra. Any other such name
        # is an attribute of Python's, and a way out of the sandbox.
        if str(name).startswith("_"):
            return config._extra.get(name, default)
        return by_name(config, name, default)

    setattr(FakeAPIObject, "__getitem__", get_by_index)  # noqa: B010 - for mypy
    setattr(BaseConfig, "get", get)  # noqa: B010


def _make_prefixes(paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    return tuple(_normalize_case(os.path.realpath(path)) + os.sep for path in paths)


def _is_below(real: str, prefixes: tuple[str, ...]) -> bool:
    return (_normalize_case(real) + os.sep).startswith(prefixes)


def _normalize_case(path: str) -> str:
    # macOS ignores case in paths, realpath does not: a file of the project, written in another
    # case, would be refused.
    return path.casefold() if sys.platform == "darwin" else path
