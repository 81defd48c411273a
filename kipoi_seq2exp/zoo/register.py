"""Registration with Kipoi: `register` makes the literal `kipoi predict Seq2Exp/K562` work, `unregister` undoes it.

Kipoi looks for models in its own clone of the model zoo (`~/.kipoi/models`), so a folder of links to the group's files
is added there and hidden from that clone's git. The folder itself is real: Kipoi does not find the members of a group
through a linked one. Without network an empty clone is made that Kipoi's own `git pull` fills in later. `fixes` works
around what is broken in Kipoi itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kipoi_seq2exp.errors import ConfigError, OutputError
from kipoi_seq2exp.files import staging_folder
from kipoi_seq2exp.settings import read_yaml
from kipoi_seq2exp.zoo.group import read_about
from kipoi_seq2exp.zoo.registry import GROUP, GROUP_ENTRIES, group_dir

ZOO_URL = "https://github.com/kipoi/models.git"
_CLONE = (
    "-c",
    "http.lowSpeedLimit=1000",
    "-c",
    "http.lowSpeedTime=30",
    "clone",
    "--depth=1",
)  # gives up on a dead network
_LEFTOVERS = ("__pycache__", "downloaded")  # what Kipoi and Python put beside the links


@dataclass(frozen=True)
class Registration:
    """What `register` or `unregister` did: the folder in Kipoi's zoo, and one sentence per step."""

    directory: Path
    steps: tuple[str, ...]


def register(home: Path | None = None, *, offline: bool = False, group: Path | None = None) -> Registration:
    """Make `kipoi predict Seq2Exp/K562` find this group, or a group of one's own; may be repeated.

    Parameters
    ----------
    home : Path, optional
        The folder that holds `.kipoi`, instead of the user's home.
    offline : bool
        Do not try to download the model zoo; Kipoi fills it in itself once it can.
    group : Path, optional
        Folder that `seq2exp publish --to` made; by default this package's own group.

    Raises
    ------
    ConfigError
        If git is missing, the folder is not a group, or Kipoi's models already have one of that name that is not a
        registration.
    OutputError
        If Kipoi's folder cannot be written.
    """
    source = _zoo_source(home)
    folder, name = (group_dir(), GROUP) if group is None else _own_group(group)
    directory = source.path / name
    steps: list[str] = []
    try:
        with _alone(source):
            _check_replaceable(directory)
            if source.uses_git:
                steps += _ensure_clone(source, name, offline)
            directory.mkdir(parents=True, exist_ok=True)
            steps.append(_link_entries(directory, folder))
            if (source.path / ".git").exists():
                steps.append(_exclude(source.path, name, present=True))
    except OSError as error:
        raise OutputError(f"{error.filename or directory}: cannot be written ({error.strerror}).") from None
    if source.uses_git and source.auto_update:
        steps.append(
            "Kipoi runs 'git pull' at each call; 'auto_update: false' in its own .kipoi/config.yaml stops that."
        )
    return Registration(directory, tuple(steps))


def _own_group(folder: Path) -> tuple[Path, str]:
    """Return the folder of a group of one's own and its name, after checking that everything Kipoi reads is there."""
    folder = folder.resolve()
    missing = [name for name in GROUP_ENTRIES if not (folder / name).exists()]
    if missing:
        raise ConfigError(f"{folder} lacks {missing[0]}: it is not a group made by 'seq2exp publish RUN --to FOLDER'.")
    name = read_about(folder).name
    if name == GROUP:
        raise ConfigError(f"{folder}: '{GROUP}' is the name of this package's own group, which 'register' alone adds.")
    return folder, name


def unregister(home: Path | None = None, name: str = GROUP) -> Registration:
    """Undo the registration of a group; Kipoi's clone of the zoo stays.

    Raises
    ------
    ConfigError
        If the folder holds anything that `register` did not put there.
    """
    source = _zoo_source(home)
    directory = source.path / name
    if not directory.exists():
        return Registration(directory, (f"{directory} does not exist: nothing to do.",))
    try:
        with _alone(source):
            _check_replaceable(directory)
            for entry in directory.iterdir():
                if entry.is_symlink():
                    entry.unlink()
                elif entry.name == "__pycache__":
                    shutil.rmtree(entry)
            steps = [_remove_emptied(directory)]
            if (source.path / ".git").exists():
                steps.append(_exclude(source.path, name, present=False))
    except OSError as error:
        raise OutputError(f"{error.filename or directory}: cannot be removed ({error.strerror}).") from None
    return Registration(directory, tuple(steps))


def _remove_emptied(directory: Path) -> str:
    """Remove the folder if nothing but empty folders is left in it; what Kipoi downloaded there is the user's."""
    for entry in sorted((entry for entry in directory.rglob("*") if entry.is_dir()), reverse=True):
        if not entry.is_symlink() and not any(entry.iterdir()):
            entry.rmdir()
    if any(directory.iterdir()):
        return f"removed the links in {directory}; the files that Kipoi downloaded there remain: delete them yourself"
    directory.rmdir()
    return f"removed {directory}"


@dataclass(frozen=True)
class _ZooSource:
    """Where Kipoi's default source lives, as its configuration says."""

    path: Path
    url: str
    uses_git: bool
    auto_update: bool


def _zoo_source(home: Path | None) -> _ZooSource:
    home = home or Path.home()
    if not os.access(home, os.W_OK):
        home = Path("/tmp")  # what Kipoi itself does
    config = home / ".kipoi" / "config.yaml"
    sources = read_yaml(config).get("model_sources") if config.is_file() else None
    values = (sources or {}).get("kipoi") or {}
    if sources and not values:
        raise ConfigError(f"{config}: model_sources has no 'kipoi', where the group would be added.")
    path = Path(values.get("local_path", home / ".kipoi" / "models")).expanduser()
    uses_git = values.get("type", "git") in ("git", "git-lfs")
    return _ZooSource(path, values.get("remote_url", ZOO_URL), uses_git, bool(values.get("auto_update", True)))


@contextmanager
def _alone(source: _ZooSource) -> Iterator[None]:
    """Wait until no other process changes Kipoi's folder, and keep others out of it for the block."""
    source.path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(source.path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _check_replaceable(directory: Path) -> None:
    """Refuse a folder of that name that is the user's own, or the zoo's."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ConfigError(f"{directory}: exists and is not a registration of this package: move it away first.")
    for entry in directory.iterdir() if directory.exists() else ():
        if not (entry.is_symlink() and entry.name in GROUP_ENTRIES) and entry.name not in _LEFTOVERS:
            raise ConfigError(f"{entry}: is not a link made by this package: move {directory} away first.")


def _ensure_clone(source: _ZooSource, name: str, offline: bool) -> list[str]:
    """Make sure that Kipoi's folder is a git repository of its own; otherwise `git pull` would update one above it."""
    if (source.path / ".git").exists():
        return [f"found Kipoi's model zoo at {source.path}"]
    if source.path.exists() and any(entry.name not in (GROUP, name) for entry in source.path.iterdir()):
        return [f"found {source.path}, which is not a git clone; left as it is"]
    if shutil.which("git") is None:
        raise ConfigError("git is not installed, but Kipoi needs it for its model zoo: install git and register again.")
    source.path.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_folder(source.path) / source.path.name
    try:
        if not offline and _git(*_CLONE, source.url, str(staging)):
            step = f"downloaded Kipoi's model zoo to {source.path}"
        else:
            shutil.rmtree(staging, ignore_errors=True)
            _init_empty(staging, source.url)
            step = f"made an empty model zoo at {source.path}; Kipoi fills it in from {source.url} when it can"
        if source.path.exists():  # empty, or with our folder alone
            (staging / ".git").replace(source.path / ".git")
            _git("checkout", "--", ".", folder=source.path)
        else:
            staging.replace(source.path)
    finally:
        shutil.rmtree(staging.parent, ignore_errors=True)
    return [step]


def _init_empty(folder: Path, url: str) -> None:
    folder.mkdir()
    for command in (
        ("init", "--quiet"),
        ("symbolic-ref", "HEAD", "refs/heads/master"),  # 'init -b' needs git 2.28
        ("remote", "add", "origin", url),
        ("config", "branch.master.remote", "origin"),
        ("config", "branch.master.merge", "refs/heads/master"),
    ):
        if not _git(*command, folder=folder):
            raise OutputError(f"{folder}: 'git {' '.join(command)}' failed.")


def _git(*command: str, folder: Path | None = None) -> bool:
    """Run git without ever asking for a password; return whether it succeeded."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
    environment = {name: value for name, value in environment.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    return (
        subprocess.run(["git", *command], cwd=folder, env=environment, capture_output=True, check=False).returncode == 0
    )


def _link_entries(directory: Path, group: Path) -> str:
    changed = 0
    for name in GROUP_ENTRIES:
        link, target = directory / name, group / name
        if link.is_symlink() and link.readlink() == target:
            continue
        temporary = directory / f".{name}.{os.getpid()}"
        temporary.symlink_to(target)
        temporary.replace(link)
        changed += 1
    return f"linked {directory} to {group}" if changed else f"{directory} is registered already"


def _exclude(clone: Path, name: str, *, present: bool) -> str:
    """Add a group's folder to the clone's private list of ignored files, or take it off."""
    ours = f"/{name}/"
    path = clone / ".git" / "info" / "exclude"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if (ours in lines) != present:
        lines = [*lines, ours] if present else [line for line in lines if line != ours]
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"git in {clone} {'now ignores it' if present else 'no longer ignores it'}"
