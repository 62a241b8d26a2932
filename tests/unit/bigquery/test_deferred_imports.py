"""A module that an import leaves out is there when it is used, here in a library of two lines."""

import importlib
import sys

import pytest

from bi_pipeline.bigquery.deferred_imports import defer_imports


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The modules `whole.part`, and `heavy`, whose class it imports, as `whole` does."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").write_text("from heavy import Heavy\nready = True\n")
    (tmp_path / "whole" / "part.py").write_text("from heavy import Heavy\n")
    (tmp_path / "heavy.py").write_text("class Heavy:\n    weight = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("whole", "whole.part", "heavy"):
        sys.modules.pop(name, None)


def test_class_and_package_are_imported_when_they_are_first_used(library):
    with defer_imports(["whole"], ["heavy"]):
        part = importlib.import_module("whole.part")
    imported_at_first = "heavy" in sys.modules
    used = part.Heavy()

    assert not imported_at_first
    assert isinstance(used, sys.modules["heavy"].Heavy)
    assert isinstance(used, part.Heavy)
    assert part.Heavy.weight == 3
    assert importlib.import_module("whole").ready
    assert sys.modules["whole"].Heavy is sys.modules["heavy"].Heavy


def test_module_that_was_imported_before_is_taken_as_it_is(library):
    heavy = importlib.import_module("heavy")

    with defer_imports(["whole"], ["heavy"]):
        part = importlib.import_module("whole.part")

    assert part.Heavy is heavy.Heavy
    assert sys.modules["heavy"] is heavy
