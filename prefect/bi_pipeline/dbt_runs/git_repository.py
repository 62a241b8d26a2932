"""Reads from git the commit that a folder is at, and the files of another commit."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bi_pipeline.errors import ConfigurationError

# A git hook, or a shell, may have set these: git would then read another repository than the
# folder's.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")

NOT_CLONED = "Ce dossier doit venir de `git clone`."


@contextmanager
def check_out_commit(root: Path, reference: str) -> Iterator[Path]:
    """Yield a temporary folder with what `root` was at a commit; the repository is only read.

    Args:
        root: a folder of a git repository.
        reference: a branch, a tag, a SHA… whatever git understands.

    Raises ConfigurationError when there is no git, no repository or no such commit.
    """
    git_dir = run_git(root, "rev-parse", "--absolute-git-dir")
    commit = run_git(
        root,
        *("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}"),
        remedy=f"« {reference} » n'est pas un commit de ce dépôt : vérifiez ce nom. Si le clone "
        "est partiel, lancez `git fetch --unshallow` (GitHub Actions : `fetch-depth: 0`).",
    )
    with tempfile.TemporaryDirectory(prefix="commit-") as temporary:
        files, remedy = Path(temporary, "files"), "Vérifiez la place libre."
        files.mkdir()
        # `git worktree add` would write in the user's repository: so git is given a work tree and
        # an index in the temporary folder.
        place = (f"--git-dir={git_dir}", f"--work-tree={files}")
        index = {"GIT_INDEX_FILE": str(Path(temporary, "index"))}
        tree = run_git(root, "rev-parse", f"{commit}:./", remedy=remedy)
        run_git(files, *place, "read-tree", tree, remedy=remedy, **index)
        run_git(files, *place, "checkout-index", "--all", remedy=remedy, **index)
        yield files


@functools.cache
def read_current_commit(root: Path) -> str:
    """Return the commit that a folder is at, with a `+` if files differ from it; empty if none."""
    try:
        return run_git(root, "describe", "--always", "--dirty=+", "--exclude=*")
    except ConfigurationError:
        return ""


def run_git(folder: Path, *arguments: str, remedy: str = NOT_CLONED, **variables: str) -> str:
    """Return what git prints, in the repository of this folder, whatever the shell names.

    Raises ConfigurationError, with git's words and the remedy, if it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    try:
        run = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError:
        raise ConfigurationError("git est introuvable : installez-le.") from None
    except subprocess.CalledProcessError as error:
        raise ConfigurationError(f"{error.stderr}{remedy}".strip()) from None
    return run.stdout.strip()
