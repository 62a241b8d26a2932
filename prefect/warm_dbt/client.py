"""Has the dbt server run a command, passes signals on to dbt, and ends with dbt's exit code.

Started in the place of dbt, as `python -I -S client.py SERVER LOCK TOKENS ARGUMENT…`, the first
three being descriptors. The client imports next to nothing, and is there in 15 ms. Without a server
it becomes a plain dbt process.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

KILLED = 128 + signal.SIGKILL


def main() -> int:
    """Return the exit code of the command, 137 when dbt was killed."""
    server, lock, tokens, *arguments = sys.argv[1:]
    with socket.socket(fileno=int(server)) as connection, connection.makefile() as answers:
        request = json.dumps([arguments, os.getcwd(), dict(os.environ)])  # noqa: PTH109
        pid = ""
        with suppress(OSError):
            # sendmsg may send only a part of a long request. So the descriptors go with one byte,
            # and sendall sends the rest.
            socket.send_fds(connection, [b"\n"], [0, 1, 2, int(lock), int(tokens)])
            connection.sendall(request.encode() + b"\n")
            pid = answers.readline()
        if not pid:
            plain = os.path.join(os.path.dirname(__file__), "process.py")  # noqa: PTH118, PTH120
            # /proc/self/environ shows what a process was started with, whatever it removes later:
            # code in dbt that reads it must not find PREFECT_API_KEY.
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
            command = [sys.executable, "-P", plain, tokens, *arguments]
            os.execve(sys.executable, command, environment)  # noqa: S606
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: pass_on(number, int(pid)))
        return int(answers.readline() or KILLED)


def pass_on(number: int, pid: int) -> None:
    """Send the signal to dbt, unless it has just ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
