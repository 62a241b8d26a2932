"""The dbt command line, with Python's garbage collector kept off its imports.

They leave hundreds of thousands of objects that live as long as the process. Scanning them,
while they come in and once more at the end, takes a fifth of a short run.
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
    # The pipeline stops dbt with SIGINT, which `command &` leaves ignored in all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(prog_name="dbt")
