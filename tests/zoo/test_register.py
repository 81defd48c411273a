"""Registration: what it makes, what it leaves alone, and that it can be taken back; git runs on local folders only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kipoi_door import make_home

from kipoi_seq2exp.errors import ConfigError, OutputError
from kipoi_seq2exp.zoo import register
from kipoi_seq2exp.zoo.registry import GROUP_ENTRIES


def git(*command: str, folder: Path) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if (path.is_file() or path.is_symlink()) and ".git" not in path.parts
    }


@pytest.fixture
def group(tmp_path, monkeypatch):
    folder = tmp_path / "group"
    for name in GROUP_ENTRIES:
        if "." in name:
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(f"the {name}")
        else:
            (folder / name).mkdir(parents=True)
            (folder / name / "file").write_text(name)
    monkeypatch.setattr(register, "group_dir", lambda: folder)
    return folder


@pytest.fixture
def remote(tmp_path):
    """Stand in for the model zoo: a repository with one model on master."""
    work = tmp_path / "upstream"
    (work / "Other").mkdir(parents=True)
    (work / "Other" / "model.yaml").write_text("other")
    git("init", "--quiet", folder=work)
    git("symbolic-ref", "HEAD", "refs/heads/master", folder=work)
    git("add", ".", folder=work)
    git("commit", "-qm", "zoo", folder=work)
    return work


def test_offline_registration_is_a_repository_of_its_own(tmp_path, group):
    home = make_home(tmp_path / "home")
    git("init", "--quiet", folder=home)  # a home under version control must not be what 'git pull' updates
    done = register.register(home)
    models = home / ".kipoi" / "models"
    assert Path(git("rev-parse", "--show-toplevel", folder=models)) == models
    assert done.directory == models / "Seq2Exp"
    assert not done.directory.is_symlink()
    assert {entry.name: entry.resolve() for entry in done.directory.iterdir()} == {
        name: group / name for name in GROUP_ENTRIES
    }
    assert git("status", "--porcelain", folder=models) == ""
    assert any("empty model zoo" in step for step in done.steps)


def test_a_later_pull_fills_in_the_zoo(tmp_path, group, remote):
    home = make_home(tmp_path / "home", remote_url=remote.as_uri())
    register.register(home, offline=True)
    models = home / ".kipoi" / "models"
    assert not (models / "Other").exists()
    git("pull", folder=models)
    assert (models / "Other" / "model.yaml").read_text() == "other"
    assert (models / "Seq2Exp" / "model.py").read_text() == "the model.py"
    assert git("status", "--porcelain", folder=models) == ""


def test_online_registration_clones_the_zoo(tmp_path, group, remote):
    home = make_home(tmp_path / "home", remote_url=remote.as_uri())
    done = register.register(home)
    models = home / ".kipoi" / "models"
    assert (models / "Other" / "model.yaml").read_text() == "other"
    assert any("downloaded" in step for step in done.steps)
    assert git("status", "--porcelain", folder=models) == ""
    (remote / "Other" / "more").write_text("more")
    git("add", ".", folder=remote)
    git("commit", "-qm", "more", folder=remote)
    git("pull", folder=models)
    assert (models / "Other" / "more").exists()


def test_twice_changes_nothing(tmp_path, group, remote):
    home = make_home(tmp_path / "home", remote_url=remote.as_uri())
    register.register(home)
    before = tree(home), (home / ".kipoi/models/.git/info/exclude").read_text()
    assert any("registered already" in step for step in register.register(home).steps)
    assert (tree(home), (home / ".kipoi/models/.git/info/exclude").read_text()) == before


def test_a_moved_group_is_linked_anew(tmp_path, group, monkeypatch):
    home = make_home(tmp_path / "home")
    register.register(home)
    moved = group.rename(tmp_path / "moved")
    monkeypatch.setattr(register, "group_dir", lambda: moved)
    assert (register.register(home).directory / "model.py").read_text() == "the model.py"


def test_an_existing_clone_keeps_all_its_files(tmp_path, group, remote):
    home = make_home(tmp_path / "home", remote_url=remote.as_uri())
    models = home / ".kipoi" / "models"
    git("clone", "--quiet", remote.as_uri(), str(models), folder=tmp_path)
    (models / ".git" / "info" / "exclude").write_text("/mine/")  # no newline at its end
    (models / "Other" / "model.yaml").write_text("changed by the user")
    (models / "mine").mkdir()
    before = tree(models)
    register.register(home)
    assert {name: text for name, text in tree(models).items() if not name.startswith("Seq2Exp/")} == before
    assert (models / ".git" / "info" / "exclude").read_text().splitlines() == ["/mine/", "/Seq2Exp/"]
    register.unregister(home)
    assert tree(models) == before
    assert (models / ".git" / "info" / "exclude").read_text().splitlines() == ["/mine/"]


def test_a_folder_without_git_is_left_without(tmp_path, group):
    home = make_home(tmp_path / "home")
    models = home / ".kipoi" / "models"
    (models / "Mine").mkdir(parents=True)
    done = register.register(home)
    assert not (models / ".git").exists()
    assert done.directory.is_dir()
    assert any("not a git clone" in step for step in done.steps)


@pytest.mark.parametrize("kind", ["file of the user", "link of the user", "folder is a link"])
def test_what_is_not_a_registration_is_refused(tmp_path, group, kind):
    home = make_home(tmp_path / "home")
    directory = home / ".kipoi" / "models" / "Seq2Exp"
    if kind == "folder is a link":
        directory.parent.mkdir()
        directory.symlink_to(group)
    else:
        directory.mkdir(parents=True)
        if kind == "file of the user":
            (directory / "model.py").write_text("mine")
        else:
            (directory / "notes").symlink_to(group)
    before = tree(home)
    for change in (register.register, register.unregister):
        with pytest.raises(ConfigError, match="move"):
            change(home)
    assert tree(home) == before


def test_unregister_takes_back_and_may_be_repeated(tmp_path, group):
    home = make_home(tmp_path / "home")
    directory = register.register(home).directory
    (directory / "__pycache__").mkdir()  # Python's, when Kipoi imported model.py through the link
    assert any("removed" in step for step in register.unregister(home).steps)
    assert not directory.exists()
    assert (group / "weights" / "file").exists()
    assert "nothing to do" in register.unregister(home).steps[0]


def test_unregister_leaves_a_file_of_the_user(tmp_path, group):
    home = make_home(tmp_path / "home")
    directory = register.register(home).directory
    (directory / "downloaded" / "empty").mkdir(parents=True)
    (directory / "downloaded" / "notes.txt").write_text("mine")
    assert any("delete them yourself" in step for step in register.unregister(home).steps)
    assert tree(directory) == {"downloaded/notes.txt": "mine"}
    register.register(home)
    (directory / "downloaded" / "notes.txt").unlink()
    register.unregister(home)
    assert not directory.exists()


def test_the_folder_of_kipois_configuration_is_used(tmp_path, group):
    home = make_home(tmp_path / "home", local_path=str(tmp_path / "elsewhere"))
    assert register.register(home).directory == tmp_path / "elsewhere" / "Seq2Exp"


def test_without_configuration_kipois_defaults_are_used(tmp_path, group):
    (tmp_path / "home").mkdir()
    done = register.register(tmp_path / "home", offline=True)
    models = tmp_path / "home" / ".kipoi" / "models"
    assert done.directory == models / "Seq2Exp"
    assert git("config", "remote.origin.url", folder=models) == register.ZOO_URL
    assert any("git pull" in step for step in done.steps)


def test_without_git_one_sentence(tmp_path, group, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="git is not installed"):
        register.register(make_home(tmp_path / "home"))
    assert not (tmp_path / "home" / ".kipoi" / "models").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, group):
    (tmp_path / "file").write_text("")
    home = make_home(tmp_path / "home", local_path=str(tmp_path / "file" / "models"))
    with pytest.raises(OutputError, match="cannot be written"):
        register.register(home, offline=True)


AT_ONCE = """
import sys
from pathlib import Path
from kipoi_seq2exp.zoo import register
register.group_dir = lambda: Path(sys.argv[2])
sys.stdin.read(1)
register.register(Path(sys.argv[1]))
"""


def test_four_registrations_at_once(tmp_path, group, remote):
    home = make_home(tmp_path / "home", remote_url=remote.as_uri())
    command = [sys.executable, "-c", AT_ONCE, str(home), str(group)]
    runs = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [run.communicate("x", timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, said
    directory = home / ".kipoi" / "models" / "Seq2Exp"
    assert {entry.name for entry in directory.iterdir()} == set(GROUP_ENTRIES)
    assert (home / ".kipoi" / "models" / "Other" / "model.yaml").exists()
    exclude = (home / ".kipoi" / "models" / ".git" / "info" / "exclude").read_text().splitlines()
    assert exclude.count("/Seq2Exp/") == 1
