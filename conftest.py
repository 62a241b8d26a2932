"""Holds for all the tests: those of the project, and those of the dbt project in dbt/."""

import os
import signal
from tempfile import mkdtemp

# pytest imports dbt/example-tests/test_x.py as `dbt.example-tests.test_x`. If the library is not in
# sys.modules by then, pytest puts the folder dbt/ there as `dbt`, and `import dbt.cli` fails.
import dbt  # noqa: F401

# Before anything imports Prefect, which would make a ~/.prefect.
os.environ["PREFECT_HOME"] = mkdtemp(prefix="prefect-home-")

# A shell that starts the tests in the background, or nohup, has them ignored for all that the
# tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# One local BigQuery a worker, whichever tests it has. pytest has a plugin named `fixtures`.
pytest_plugins = ["shared_fixtures"]
