"""Has a process end with the one that started it, even of SIGKILL; on Linux only."""

from __future__ import annotations

import ctypes
import signal
import sys

# Python has no prctl(), so the number of its option is that of Linux's <sys/prctl.h>.
PR_SET_PDEATHSIG = 1


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux to send this signal to this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
