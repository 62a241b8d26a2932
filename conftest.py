"""Holds for all the tests: those of the project, and those of the dbt project in dbt/."""

import os
import signal
from tempfile import mkdtemp

# pytest imports dbt/example-tests/test_x.py as `dbt.example-tests.test_x`. If the library is not in
# sys.modules by then, pytest puts the folder dbt/ there as `dbt`, and `import dbt.cli` fails.
import dbt  # noqa: F401

# Importing Prefect creates PREFECT_HOME: if it were set later, the user would get a ~/.prefect.
os.environ["PREFECT_HOME"] = mkdtemp(prefix="prefect-home-")

# Started in the background or by nohup, the tests ignore SIGINT or SIGHUP, and so would all that
# they start: the tests that send these signals would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Loaded here, the fixtures serve the tests of dbt/ as well: one local BigQuery a worker. The name
# `fixtures` would be that of a plugin of pytest.
pytest_plugins = ["shared_fixtures"]
