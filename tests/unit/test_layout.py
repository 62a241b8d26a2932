"""The modules of prefect/: which imports which, and that none hides a library."""

import ast
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import bi_pipeline
import support
from bi_pipeline.settings import PROJECT_ROOT

PREFECT = PROJECT_ROOT / "prefect"
# The packages in the order of the drawing in bi_pipeline's docstring, the lowest first.
ROOMS = re.findall(r"^    (\w+)/?  ", bi_pipeline.__doc__, re.MULTILINE)[-2::-1]


def test_prefect_folder_is_no_package():
    # If it were, `import prefect` from the root of the project would find it, not the library.
    assert not (PREFECT / "__init__.py").exists()


def test_prefect_folder_has_the_flow_and_two_packages():
    """dbt imports every top-level module of its path whose name starts with `dbt_`."""
    names = {path.name for path in PREFECT.iterdir() if path.name != "__pycache__"}

    assert names == {"pipeline.py", "bi_pipeline", "warm_dbt"}


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


def imported(path):
    """Return the names of the modules that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}: a relative import"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def rooms_below(room):
    return {room, *ROOMS[: ROOMS.index(room)]}


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_is_drawn_below_it(room):
    place = PREFECT / "bi_pipeline" / room
    files = [*place.rglob("*.py"), *place.parent.glob(f"{room}.py")]

    ours = {name for path in files for name in imported(path) if name.startswith("bi_pipeline")}

    assert files
    assert {name.split(".")[1] for name in ours} <= rooms_below(room)


def test_every_room_is_drawn():
    there = {path.stem for path in (PREFECT / "bi_pipeline").glob("[!_]*")}

    assert there == set(ROOMS)


def test_warm_dbt_imports_nothing_of_ours():
    names = {name for path in (PREFECT / "warm_dbt").glob("*.py") for name in imported(path)}

    assert not [name for name in names if name.split(".")[0] in ("bi_pipeline", "pipeline")]


def test_docstring_of_support_says_what_each_of_its_modules_is_for():
    folder = PROJECT_ROOT / "utilities" / "support"

    described = re.findall(r"^    (\w+)  ", support.__doc__, re.MULTILINE)

    assert sorted(described) == sorted(path.stem for path in folder.glob("[!_]*.py"))
