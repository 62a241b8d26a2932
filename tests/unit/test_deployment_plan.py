"""The owner of a deployment: which addresses are of one repository."""

import pytest

from support.deployment_plan import is_same_repository


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/Equipe/Projet",
        "https://github.com/equipe/projet.git/",
        "http://x:token@github.com/equipe/projet.git",
        "git@github.com:equipe/projet.git",
        "ssh://git@github.com/equipe/projet",
        "ssh://git@github.com:22/equipe/projet.git",
    ],
)
def test_address_of_the_same_repository_is_recognized(url):
    assert is_same_repository(url, "https://github.com/equipe/projet.git")


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/autre/projet.git",
        "https://gitlab.com/equipe/projet.git",
        "https://github.com/equipe/projet.github",
        "/srv/equipe/projet.git",
    ],
)
def test_address_of_another_repository_is_not(url):
    assert not is_same_repository(url, "https://github.com/equipe/projet.git")


def test_team_whose_name_is_a_number_is_no_port():
    assert is_same_repository("git@github.com:123/projet.git", "https://github.com/123/projet")
    assert not is_same_repository("git@github.com:123/projet.git", "https://github.com/projet")


def test_folders_are_told_apart():
    assert is_same_repository("/srv/a.git", "file:///srv/a")
    assert not is_same_repository("/srv/a.git", "/srv/b.git")
