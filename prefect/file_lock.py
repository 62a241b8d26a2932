"""A lock on a file, held by this process and those that inherit its descriptor until all end."""

from __future__ import annotations

from typing import IO

try:
    import fcntl
except ImportError:
    raise SystemExit(
        "Windows seul n'est pas pris en charge : installez WSL 2 (`wsl --install`) et lancez "
        "cette commande dans son terminal."
    ) from None


def try_lock(file: IO[str]) -> bool:
    """Take the lock unless someone has it; return whether it was taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO[str]) -> None:
    """Take the lock once nobody has it."""
    fcntl.flock(file, fcntl.LOCK_EX)
