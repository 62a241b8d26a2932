"""A lock on a file, held by this process and those that inherit its descriptor until all end."""

from __future__ import annotations

import errno
from typing import IO

from bi_pipeline.errors import InfrastructureError

try:
    import fcntl
except ImportError:
    raise SystemExit(
        "Windows seul n'est pas pris en charge : installez WSL 2 (`wsl --install`) et lancez "
        "cette commande dans son terminal."
    ) from None


# The errors of flock on network volumes without locks, of which the user is told. Any other error
# goes through: EWOULDBLOCK says that someone has the lock.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def try_lock(file: IO[str]) -> bool:
    """Take the lock unless someone has it; return whether it was taken.

    Raises InfrastructureError on a volume that has no locks.
    """
    try:
        _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO[str]) -> None:
    """Take the lock once nobody has it; InfrastructureError on a volume that has no locks."""
    _lock(file, fcntl.LOCK_EX)


def _lock(file: IO[str], operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InfrastructureError(
            f"{file.name} : ce volume ne sait pas verrouiller un fichier ({error.strerror}), et "
            "deux exécutions pourraient s'y gêner. Mettez ce dossier sur un disque local."
        ) from None
