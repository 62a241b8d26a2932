"""The messages to the user, read in the source."""

import re

import pytest

from bi_pipeline.settings import PROJECT_ROOT

SOURCES = sorted(p for f in ("prefect", "utilities") for p in (PROJECT_ROOT / f).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_command_in_a_message_works_without_an_activated_environment(path):
    """Docstrings are for those who read the code; the rest is shown."""
    shown = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text())

    assert re.findall(r"`python [^`]*`", shown) == []
