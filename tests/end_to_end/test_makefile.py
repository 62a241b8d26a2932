"""The Makefile: its own doing, with stubs for what takes long."""

import shutil
import subprocess

import pytest

from bi_pipeline.settings import PROJECT_ROOT

# A stand-in for python, copied into .venv too: its `-m venv` makes an environment whose uv is UV.
PYTHON = """#!/bin/sh
test "$2" = venv || exit 0
test "$3" != --clear || rm -rf .venv
mkdir -p .venv/bin
cp python .venv/bin/python
cp uv .venv/bin/uv
"""

# A stand-in for uv that takes a half-linked package for installed, as uv does. If `interrupt` names
# a signal, it links one half and sends that signal to make.
UV = """#!/bin/sh
test ! -e .venv/half || exit 0
test ! -e interrupt || { touch .venv/half; kill -$(cat interrupt) $PPID; exit 1; }
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with the Makefile and the stubs."""
    for name in ("Makefile", "requirements.in", "requirements-dev.txt"):
        shutil.copy(PROJECT_ROOT / name, tmp_path)
    for name, text in (("python", PYTHON), ("uv", UV)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def install(folder):
    """Install in this folder; return the exit code."""
    command = ["make", "PYTHON=./python", ".venv/installed"]
    return subprocess.run(command, cwd=folder, check=False).returncode


@pytest.mark.parametrize("signal", ["INT", "KILL"])
def test_installation_that_was_interrupted_starts_again_from_nothing(folder, signal):
    (folder / "interrupt").write_text(signal)
    assert install(folder) != 0
    (folder / "interrupt").unlink()

    assert install(folder) == 0

    assert not (folder / ".venv" / "half").exists()
    assert (folder / ".venv" / "installed").exists()


def test_change_of_the_lock_is_installed_into_the_same_environment(folder):
    install(folder)
    (folder / ".venv" / "kept").touch()
    (folder / "requirements-dev.txt").touch()

    assert install(folder) == 0

    assert (folder / ".venv" / "kept").exists()


def test_help_has_no_dashboard_once_the_example_is_gone(folder):
    run = subprocess.run(["make"], cwd=folder, capture_output=True, text=True, check=True)

    assert "\ndemo " in run.stdout
    assert "\nreport " not in run.stdout


@pytest.mark.parametrize("example", [True, False])
def test_demo_ends_with_what_to_do_next(folder, example):
    if example:
        dashboard = folder / "dbt" / "dashboard"
        dashboard.mkdir(parents=True)
        shutil.copy(PROJECT_ROOT / "dbt" / "dashboard" / "report.mk", dashboard)
    install(folder)

    run = subprocess.run(
        ["make", "--no-print-directory", "demo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout.splitlines()[-1] == "  make docs     la documentation du projet dbt"
    assert ("données réelles : rien à corriger" in run.stdout) is example
    assert ("make report" in run.stdout) is example
