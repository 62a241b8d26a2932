"""What git knows of the project: the commit that it is at, the files of another one."""

from __future__ import annotations

import functools
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline_errors import ConfigurationError


@contextmanager
def files_of_commit(root: Path, reference: str) -> Iterator[Path]:
    """Yield a temporary folder with what `root` was at a commit; the repository is only read.

    Args:
        root: a folder of a git repository.
        reference: a branch, a tag, a SHA… whatever git understands.

    Raises ConfigurationError when there is no git, no repository or no such commit.
    """
    _git(root, "rev-parse", "--git-dir", remedy="Ce dossier doit venir de `git clone`.")
    commit = _git(
        root,
        *("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}"),
        remedy=f"« {reference} » n'est pas un commit de ce dépôt : vérifiez ce nom. Si le clone "
        "est partiel, lancez `git fetch --unshallow` (GitHub Actions : `fetch-depth: 0`).",
    )
    with tempfile.TemporaryDirectory(prefix="commit-") as temporary:
        archive, files = Path(temporary, "files.tar"), Path(temporary, "files")
        # An archive, where `git worktree` would write in the user's repository.
        _git(root, "archive", f"--output={archive}", commit, remedy="Vérifiez la place libre.")
        with tarfile.open(archive) as content:
            content.extractall(files, filter="data")
        yield files


@functools.cache
def current_commit(root: Path) -> str:
    """Return the commit that a folder is at, with a `+` if files differ from it; empty if none."""
    try:
        return _git(root, "describe", "--always", "--dirty=+", "--exclude=*", remedy="")
    except ConfigurationError:
        return ""


def _git(root: Path, *arguments: str, remedy: str) -> str:
    """Return what git prints; ConfigurationError, with its words and the remedy, if it fails."""
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        raise ConfigurationError("--changed-since a besoin de git : installez-le.") from None
    except subprocess.CalledProcessError as error:
        raise ConfigurationError(f"{error.stderr}{remedy}") from None
    return run.stdout.strip()
