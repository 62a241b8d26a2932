"""The signals that end the process of a run, and those that do not."""

import subprocess
import sys

import pytest

from bi_pipeline.settings import PROJECT_ROOT

# Prefect ends a task of a team at its time limit by SIGALRM: if that ended the process too, the run
# would be cut off.
CODE = """
import signal, sys, time
sys.path.insert(0, PREFECT)
from bi_pipeline.lifetime import ending as run_ending
run_ending.ENDING_SECONDS = 0.2
run_ending.end_soon_after_a_signal()
for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
signal.raise_signal(signal.SIGALRM)
signal.raise_signal(signal.NUMBER)
time.sleep(1)
print("alive")
""".replace("PREFECT", repr(str(PROJECT_ROOT / "prefect")))


def test_process_ends_soon_even_if_nobody_can_be_told():
    """As on a terminal that is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", CODE.replace("NUMBER", "SIGTERM").replace("sleep(1)", "sleep(30)")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stderr.close()

        assert process.wait(timeout=20) == 143


@pytest.mark.parametrize(
    ("number", "code", "said"), [("SIGUSR1", 0, "alive\n"), ("SIGTERM", 143, "")]
)
def test_process_ends_soon_after_a_signal_that_asks_for_it_and_after_no_other(number, code, said):
    run = subprocess.run(
        [sys.executable, "-c", CODE.replace("NUMBER", number)],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (run.returncode, run.stdout) == (code, said), run.stderr
