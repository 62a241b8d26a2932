"""What holds for all the tests."""

import os
import signal
from tempfile import mkdtemp

# Before anything imports Prefect, which would make a ~/.prefect.
os.environ["PREFECT_HOME"] = mkdtemp(prefix="prefect-home-")

# A shell that starts the tests in the background has it ignored, for all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
