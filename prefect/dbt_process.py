"""The dbt command line, a second faster: what its imports leave is never garbage.

Python's collector walks through it several times while it comes in and once at the end.
"""

import atexit
import gc
import signal

gc.disable()

import dbt.adapters.bigquery  # noqa: E402, F401
from dbt.cli.main import cli  # noqa: E402

gc.freeze()
gc.enable()
atexit.register(gc.freeze)

if __name__ == "__main__":
    # How the pipeline asks to stop. A shell that starts the pipeline in the background has
    # it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(prog_name="dbt")
