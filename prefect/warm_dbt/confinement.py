"""Which files dbt's process may open: those of its project and of its packages.

dbt's Jinja is code, that of packages too, and what dbt hands it (tables, nodes, paths) reads and
writes any file: a macro could put a key, or the environment of another process, in a table.

The known ways out are refused, by Python itself: nothing here holds Python code that a macro would
bring to run, nor libraries in C.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template
from jinja2.environment import TemplateModule
from jinja2.sandbox import SandboxedEnvironment

from warm_dbt.packages import find_packages_dir

# System files that Python and its libraries read, on Linux and macOS. If one is missing here, dbt
# fails with PermissionError; if one held a secret, a macro could read it.
SYSTEM = (
    *("/usr/lib", "/usr/lib64", "/usr/share", "/System/Library", "/Library/Frameworks"),
    *("/etc/ssl", "/etc/pki", "/etc/localtime", "/etc/timezone", "/etc/os-release"),
    *("/proc/meminfo", "/proc/stat", "/proc/cpuinfo", os.devnull),
    *mimetypes.knownfiles,
)

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Python's events for a change to a file; the first arguments, as many as said, are its paths.
CHANGES = {
    **dict.fromkeys(("os.chmod", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"), 1),
    "shutil.rmtree": 1,
    "os.rename": 2,
}
# dbt does none of these, but for `dbt deps`.
NEVER = {
    *("os.chdir", "os.link", "os.symlink"),
    *("os.exec", "os.posix_spawn", "os.system", "subprocess.Popen"),
}


def confine(project_dir: Path, written: Collection[str], read: Iterable[str]) -> None:
    """Have this process, for as long as it lives, open no file from outside a dbt project.

    It may write below `written` alone. It may read that, the project, its packages, `read`, and
    the libraries. PermissionError where Python code opens or changes anything else.

    Args:
        project_dir: absolute, without links; the folder that dbt works in.
        written, read: files or folders.
    """
    installed = [
        x for x in find_packages_dir(project_dir).glob("*") if (x / "dbt_project.yml").exists()
    ]
    packages = _make_prefixes([find_packages_dir(project_dir), *installed])
    # If PYTHONPATH names the folder that the project is in, the key may be there, too.
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
            and not _is_below(os.path.realpath(path.parent), packages)
        )

    def check(name: str, *, writes: bool) -> None:
        real = os.path.realpath(name)
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
        # shutil.rmtree, whose folder is checked, gives what is in it by a name and a descriptor.
        if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
            return
        if event == "open" or event in CHANGES:
            writes = event != "open" or arguments[2] & WRITES
            for path in arguments[: CHANGES.get(event, 1)]:
                # A descriptor is of a file that was opened before.
                if not isinstance(path, int):
                    check(os.fsdecode(path), writes=bool(writes))

    sys.addaudithook(refuse)


def keep_jinja_in_its_sandbox() -> None:
    """Refuse a template its own compiler, which makes Python of what a macro gives it."""
    is_safe = SandboxedEnvironment.is_safe_attribute
    compilers = (Environment, Template, TemplateModule)

    def is_safe_attribute(self: Any, owner: Any, attribute: str, value: Any) -> bool:
        if isinstance(owner, compilers) or isinstance(value, compilers):
            return False
        return is_safe(self, owner, attribute, value)

    setattr(SandboxedEnvironment, "is_safe_attribute", is_safe_attribute)  # noqa: B010 - for mypy


def _make_prefixes(paths: Iterable[str | Path]) -> tuple[str, ...]:
    return tuple(os.path.realpath(path).casefold() + os.sep for path in paths)


def _is_below(real: str, prefixes: tuple[str, ...]) -> bool:
    # Upper or lower case is the same file on macOS.
    return (real.casefold() + os.sep).startswith(prefixes)
