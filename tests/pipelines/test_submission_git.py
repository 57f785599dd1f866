"""What a submission says of the commit of a folder, without running what the folder names."""

import shutil
import subprocess

import pytest

from stx.pipelines.submit.git import commit_of

pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(shutil.which("git") is None, reason="there is no git"),
]


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "spec.yaml").write_text("a: 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


@pytest.fixture
def trap(tmp_path):
    """A program that notes that it ran."""
    program = tmp_path / "trap"
    program.write_text(f"#!/bin/sh\necho $0 >> {tmp_path / 'ran'}\ncat\n")
    program.chmod(0o755)
    return program


def test_the_commit_of_a_folder_says_whether_files_differ(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert commit_of(str(repository)) == commit

    (repository / "new.yaml").write_text("not tracked")
    assert commit_of(str(repository)) == commit

    (repository / "spec.yaml").write_text("a: 2\n")
    assert commit_of(str(repository)) == f"{commit}-dirty"


def test_a_folder_outside_of_git_has_no_commit(tmp_path):
    assert commit_of(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("key", "attributes"),
    [
        ("core.fsmonitor", ""),
        ("core.hooksPath", ""),
        ("filter.x.clean", "*.yaml filter=x"),
        ("filter.x.process", "*.yaml filter=x"),
        ("filter.A=b.c.clean", "*.yaml filter=A=b.c"),
        ("diff.x.textconv", "*.yaml diff=x"),
        ("diff.external", ""),
        ("core.pager", ""),
    ],
)
def test_programs_that_a_repository_names_do_not_run(repository, trap, tmp_path, key, attributes):
    git(repository, "config", key, str(trap))
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "attributes").write_text(attributes)
    if key == "core.hooksPath":
        git(repository, "config", "--unset", key)
        hooks = repository / ".git" / "hooks"
        hooks.mkdir(exist_ok=True)
        (hooks / "post-index-change").symlink_to(trap)
    # Another time and the same size: git has to look into it.
    (repository / "spec.yaml").write_text("a: 2\n")

    answer = commit_of(str(repository))

    assert answer is not None
    assert answer.endswith("-dirty")
    assert not (tmp_path / "ran").exists()


def test_submodules_are_not_entered(repository, trap, tmp_path):
    inner = repository / "inner"
    inner.mkdir()
    git(inner, "init", "--quiet")
    (inner / "a").write_text("a")
    git(inner, "add", ".")
    git(inner, "commit", "--quiet", "--message", "one")
    git(repository, "add", "inner")
    git(repository, "commit", "--quiet", "--message", "two")
    git(inner, "config", "core.fsmonitor", str(trap))

    assert commit_of(str(repository)) == git(repository, "rev-parse", "HEAD")
    assert not (tmp_path / "ran").exists()


def test_missing_objects_of_a_partial_clone_are_not_fetched(repository, trap, tmp_path):
    git(repository, "config", "remote.origin.url", "ssh://nowhere.invalid/x")
    git(repository, "config", "remote.origin.promisor", "true")
    git(repository, "config", "core.sshCommand", str(trap))
    git(repository, "config", "core.repositoryFormatVersion", "1")
    git(repository, "config", "extensions.partialClone", "origin")
    tree = git(repository, "rev-parse", "HEAD^{tree}")
    (repository / ".git" / "objects" / tree[:2] / tree[2:]).unlink()

    assert commit_of(str(repository)) is None
    assert not (tmp_path / "ran").exists()
