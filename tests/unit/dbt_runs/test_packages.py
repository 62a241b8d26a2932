"""When the packages of the dbt project are installed again."""

import os
from pathlib import Path

import pytest

from bi_pipeline.dbt_runs.packages import packages_are_missing


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
