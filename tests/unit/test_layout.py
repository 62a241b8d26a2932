"""The names in the folders that Python looks modules up in: none hides a library."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from pipeline_settings import PROJECT_ROOT


def test_prefect_folder_is_no_package():
    # If it were, `import prefect` from the root of the project would find it, not the library.
    assert not (PROJECT_ROOT / "prefect" / "__init__.py").exists()


@pytest.mark.parametrize("name", ["prefect", "utilities"])
def test_no_file_hides_a_library(name):
    folder = PROJECT_ROOT / name
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != folder]
    modules = {path.stem for path in folder.glob("[!_]*") if path.suffix == ".py" or path.is_dir()}

    hidden = {
        module
        for module in modules
        if module in sys.stdlib_module_names or PathFinder.find_spec(module, elsewhere)
    }

    assert hidden == set()
