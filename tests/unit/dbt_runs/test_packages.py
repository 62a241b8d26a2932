"""When the packages of the dbt project are installed again, and which are refused."""

import os
from pathlib import Path

import pytest

from bi_pipeline.dbt_runs.packages import packages_are_missing, refuse_what_reaches_outside
from bi_pipeline.errors import ConfigurationError


@pytest.fixture
def dbt_dir(tmp_path):
    """A dbt project whose one package is installed."""
    declare(tmp_path, "packages:\n  - package: a/utils\n    version: 1.0.0\n", moment=1)
    write(
        tmp_path / "package-lock.yml",
        "packages:\n  - name: utils\n    package: a/utils\n",
        moment=2,
    )
    (tmp_path / "dbt_packages" / "utils").mkdir(parents=True)
    os.utime(tmp_path / "dbt_packages", (3, 3))
    return tmp_path


def write(path: Path, text: str, *, moment: int) -> None:
    path.write_text(text)
    os.utime(path, (moment, moment))


def declare(folder: Path, text: str, *, moment: int) -> None:
    write(folder / "packages.yml", text, moment=moment)


def remove_installed(folder: Path) -> None:
    (folder / "dbt_packages" / "utils").rmdir()
    os.utime(folder / "dbt_packages", (3, 3))


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda _: None, False),
        (lambda d: declare(d, "packages:\n  - package: b/other\n", moment=4), True),
        (lambda d: declare(d, "packages:\n  - package: b/other\n", moment=1), True),
        (lambda d: declare(d, "packages:\n  - package: a/utils\n", moment=4), True),
        (lambda d: write(d / "package-lock.yml", "packages: []\n", moment=4), True),
        (lambda d: write(d / "package-lock.yml", "packages:\n", moment=4), True),
        (lambda d: (d / "package-lock.yml").unlink(), True),
        (remove_installed, True),
        (lambda d: declare(d, "packages:\n", moment=4), False),
        (lambda d: declare(d, "packages: [", moment=4), False),
        (lambda d: (d / "packages.yml").unlink(), False),
        (lambda d: (d / "packages.yml").rename(d / "dependencies.yml"), False),
    ],
    ids=["installed", "swapped", "swapped by an older file", "other version",
         "new lock", "empty lock", "no lock", "removed", "declared empty",
         "not YAML", "none declared", "other file"],
)  # fmt: skip
def test_packages_are_installed_when_they_are_not_those_declared(change, missing, dbt_dir):
    change(dbt_dir)

    assert packages_are_missing(dbt_dir) is missing


def test_packages_are_looked_for_where_the_project_installs_them(dbt_dir):
    (dbt_dir / "dbt_project.yml").write_text("packages-install-path: vendored")

    missing_there = packages_are_missing(dbt_dir)
    (dbt_dir / "dbt_packages").rename(dbt_dir / "vendored")

    assert missing_there
    assert not packages_are_missing(dbt_dir)


@pytest.fixture
def project(tmp_path):
    """A dbt project with an installed package, beside a key."""
    (tmp_path / "key.json").write_text("{}")
    (tmp_path / "dbt" / "dbt_packages" / "utils" / "macros").mkdir(parents=True)
    (tmp_path / "dbt" / "dbt_project.yml").write_text("{name: a, asset-paths: [assets]}")
    (tmp_path / "dbt" / "dbt_packages" / "utils" / "dbt_project.yml").write_text(
        "{name: utils, macro-paths: [macros]}"
    )
    (tmp_path / "dbt" / "dbt_packages" / "utils" / "link").symlink_to("macros")
    # `dbt deps` makes a link of a local package.
    (tmp_path / "local").mkdir()
    (tmp_path / "dbt" / "dbt_packages" / "local").symlink_to(tmp_path / "local")
    return tmp_path / "dbt"


def test_package_that_stays_in_its_folder_is_taken(project):
    refuse_what_reaches_outside(project)


OUTSIDE = {
    "a link to a file": lambda utils: (utils / "key.sql").symlink_to("../../../key.json"),
    "a link to a folder": lambda utils: (utils / "macros" / "x").symlink_to("../../../.."),
    "a link in a local package": lambda utils: (utils.parent / "local" / "x").symlink_to("/etc"),
    "a path": lambda utils: (utils / "dbt_project.yml").write_text("{seed-paths: [../../..]}"),
    "a path with Jinja": lambda utils: (utils / "dbt_project.yml").write_text(
        """docs-paths: ["{{ '..' ~ '/..' }}"]"""
    ),
    "a path after a tab": lambda utils: (utils / "dbt_project.yml").write_text(
        "name: utils\t\nseed-paths: [../../..]\n"
    ),
    "assets of the project": lambda utils: (utils / "../../dbt_project.yml").write_text(
        "asset-paths: ['../../.ssh']"
    ),
}


@pytest.mark.parametrize("change", OUTSIDE.values(), ids=OUTSIDE)
def test_what_dbt_would_read_or_copy_from_elsewhere_is_refused(change, project):
    """A macro of the package could then put it in a table."""
    change(project / "dbt_packages" / "utils")

    with pytest.raises(ConfigurationError, match="sort de son dossier"):
        refuse_what_reaches_outside(project)
