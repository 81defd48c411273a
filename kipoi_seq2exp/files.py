"""Files on disk: outputs that are whole or absent (a temporary name beside them, then renamed), and hashes.

Contract: what goes wrong on the disk is an `OutputError` of one sentence that names the file; nothing half-written
stays behind, and a file that was there before is replaced only by a whole one.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kipoi_seq2exp.errors import InputError, OutputError, WeightsError

logger = logging.getLogger(__name__)
_END_BYTES = 1 << 16  # of each end of an input, to know it again
_PLAIN = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]{0,119}")
# of this machine, in names: elsewhere a process of the same number may live
_HERE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_OWNED = re.compile(rf"\..*\.{_HERE}-([0-9]{{1,10}})\.[a-z0-9_]{{8}}\.(tmp|undo)")  # see `_owned_folder`
_UNDO = "undo.json"  # which files to put back, and from which copies
_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
    errno.EFBIG: "the file would pass the limit on file sizes",
    errno.EACCES: "permission denied: choose a place that you may read and write",
    errno.EPERM: "permission denied: choose a place that you may read and write",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def advice(error: OSError) -> str:
    """Return what an operating system's error means and, where that is known, what to do about it."""
    return _ADVICE.get(error.errno or 0, error.strerror or str(error))


def check_regular(path: Path, where: str) -> None:
    """Check that an input is a file that can be read more than once: never a pipe, which would hang or lose its start.

    Raises
    ------
    InputError
        If it is missing, a folder, a pipe or a device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"{where}: no such file.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{where} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{where} cannot be read (it is a folder).")
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{where} cannot be read (it is a pipe or a device, and inputs are read more than once): save it as a "
            "file first."
        )


def content_mark(path: Path) -> str:
    """Return a mark that tells an input from another file of that name: its size and a hash of its ends.

    Hashing whole genomes and tracks would take minutes; another build or another experiment differs in its size or in
    its first or last 64 kB (headers, indexes, checksums). For a folder: the same for each file in it.
    """
    if path.is_dir():
        marks = "\n".join(f"{file.name} {content_mark(file)}" for file in sorted(path.iterdir()) if file.is_file())
        return f"files {hashlib.sha256(marks.encode()).hexdigest()[:16]}"
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        digest.update(handle.read(_END_BYTES))
        if size > _END_BYTES:
            handle.seek(max(_END_BYTES, size - _END_BYTES))
            digest.update(handle.read(_END_BYTES))
    return f"{size} bytes, ends {digest.hexdigest()[:16]}"


def input_mark(path: Path) -> str:
    """Return a mark that tells an input from a changed one: `content_mark` and the time of its last change (ns).

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        return f"{content_mark(path)}, modified {path.stat().st_mtime_ns}"
    except OSError as error:
        raise InputError(f"{path} cannot be read ({advice(error)}).") from None


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn an operating system's error into one sentence about the file."""
    return OutputError(f"{path}: cannot be written ({advice(error)}).")


def is_plain_name(text: str) -> bool:
    """Whether a name is at most 120 letters, digits, '.', '-', '+' and '_', the first no '.' or '-'."""
    return _PLAIN.fullmatch(text) is not None


def file_name(text: str) -> str:
    """Return a name of a file for an id of the user's data: the id itself where it is a plain one.

    Anything else (separators, a leading dot, control characters, too long) is replaced, and a part of the id's hash
    keeps two ids apart. The name is never hidden, never a path, and at most 120 bytes long.
    """
    if is_plain_name(text):
        return text
    shown = re.sub(r"[^A-Za-z0-9_.+-]+", "_", text)[:100].lstrip(".-") or "_"
    return f"{shown}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def make_folder(path: Path) -> None:
    """Make a folder for results, and check that files can be made in it.

    Raises
    ------
    OutputError
        If it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError:
        raise OutputError(f"{path}: is a file; give a folder for the results.") from None
    except OSError as error:
        raise output_error(path, error) from None


def check_absent(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Check that no file would be replaced, unless that was asked for.

    Raises
    ------
    OutputError
        If one of the files exists and `overwrite` is off.
    """
    there = next((path for path in paths if os.path.lexists(path)), None)
    if there is not None and not overwrite:
        raise OutputError(f"{there}: exists; give --overwrite to replace it, or choose another place.")


def staging_folder(target: Path) -> Path:
    """Make a folder beside `target`, new and open to this user alone, in which `target` is prepared.

    No one else can have placed a link there before. Folders that earlier processes left (they were killed) are removed.
    """
    remove_leftovers(target.parent.absolute())
    return _owned_folder(target, "tmp")


def _owned_folder(target: Path, kind: str) -> Path:
    """Make a hidden folder beside `target` whose name tells which process of which machine it belongs to."""
    prefix = f".{target.name.encode()[:60].decode(errors='ignore')}.{_HERE}-{os.getpid()}."
    return Path(tempfile.mkdtemp(f".{kind}", prefix, target.parent))


@functools.cache  # once a folder and process
def remove_leftovers(folder: Path) -> None:
    """Remove the staging folders of this user whose process is gone."""
    for entry in _orphans(folder, "tmp"):
        shutil.rmtree(entry, ignore_errors=True)


def _orphans(folder: Path, kind: str) -> Iterator[Path]:
    """Yield the folders of `_owned_folder` of this user and machine whose process is gone."""
    for entry in folder.glob(f".*.{kind}"):
        found = _OWNED.fullmatch(entry.name)
        with suppress(OSError):
            state = entry.lstat()
            if found and stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not _alive(int(found[1])):
                yield entry


def remove_partials(store: Path) -> None:
    """Remove the unfinished chunks that a killed process left in a Zarr folder; nobody else may be writing it."""
    for entry in store.rglob("*.partial"):
        with suppress(OSError):
            entry.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name near `path` to write to; renamed to `path` when the block ends well, else removed.

    Raises
    ------
    OutputError
        If writing fails, for lack of room or permission.
    """
    folder = None
    try:
        folder = staging_folder(path)
        temporary = folder / path.name
        yield temporary
        temporary.replace(path)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from None
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # the first error is the one to report


@contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to write several files to; all are moved to `folder` when the block ends well, else none is.

    Raises
    ------
    OutputError
        If writing fails, for lack of room or permission.
    """
    staging = None
    try:
        staging = staging_folder(folder / "results")
        yield staging
        for file in sorted(staging.iterdir()):
            file.replace(folder / file.name)
    except OutputError as error:  # of a file as the user knows it
        raise OutputError(str(error).replace(str(staging), str(folder))) from None
    except OSError as error:
        raise output_error(folder, error) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def changed_together(paths: Iterable[Path]) -> Iterator[None]:
    """Change several files of one folder, all or none: if the block fails, they are as they were before.

    If the process is killed in the block, `undo_leftovers` does that later.

    Parameters
    ----------
    paths : iterable of Path
        The files that the block writes or removes, whether they are there or not; the first lies in the folder, the
        others there or below.

    Raises
    ------
    OutputError
        If the copies that this needs cannot be written.
    """
    targets = [path.absolute() for path in paths]
    home = targets[0].parent
    try:
        undo = _owned_folder(home / home.name, "undo")
        kept = {str(target): str(number) for number, target in enumerate(targets) if target.exists()}
        for target, copy in kept.items():
            shutil.copy2(target, undo / copy)
        changes = [[str(target.relative_to(home)), kept.get(str(target))] for target in targets]
        write_text(undo / _UNDO, json.dumps(changes))
    except OSError as error:
        raise output_error(home, error) from None
    try:
        yield
    except BaseException:
        _undo(undo)
        raise
    (undo / _UNDO).unlink(missing_ok=True)  # from here on the change is made
    shutil.rmtree(undo, ignore_errors=True)


def undo_leftovers(folder: Path) -> list[Path]:
    """Undo the changes of `changed_together` that killed processes left half-made; return the files put back."""
    return [path for orphan in _orphans(folder, "undo") for path in _undo(orphan)]


def _undo(undo: Path) -> list[Path]:
    """Put back what a folder of `changed_together` keeps, and remove it; nothing beyond the folder around it changes.

    The folder may come from other people, so nothing in it is trusted.
    """
    changes: list[tuple[Path, Path | None]] = []
    home = undo.parent.resolve()
    with suppress(OSError, ValueError, TypeError):  # not there: the change was made, or had not begun
        for name, copy in json.loads((undo / _UNDO).read_text(encoding="utf-8")):
            target, kept = home / name, None if copy is None else undo / Path(copy).name
            if target.parent.resolve().is_relative_to(home) and not (kept and kept.is_symlink()):
                changes.append((target, kept))
    for target, kept in changes:
        if kept is None:
            target.unlink(missing_ok=True)
            continue
        with whole_file(target) as temporary:
            shutil.copy2(kept, temporary)
    shutil.rmtree(undo, ignore_errors=True)
    return [target for target, _ in changes]


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed ({error.strerror}).") from None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_sha256(path: Path, sha256: str) -> None:
    """Check that a weights file is the expected one, byte for byte.

    If it is not, because a process that published weights was killed, the files of the group (the folder of the one
    that it lies in) are first put back as they were before.

    Raises
    ------
    WeightsError
        If it is missing or differs.
    """
    found = file_sha256(path) if path.is_file() else None
    if found != sha256:
        with suppress(OutputError):  # of a folder that this process may not change
            for undone in undo_leftovers(path.absolute().parent.parent):
                logger.warning("%s was changed by a command that was killed: put back as it was before", undone)
        found = file_sha256(path) if path.is_file() else None
    if found is None:
        raise WeightsError(f"{path}: no such weights file: restore it from the release it came with.")
    if found != sha256:
        raise WeightsError(
            f"{path}: the weights are damaged or were replaced (SHA-256 {found[:12]}..., expected {sha256[:12]}...): "
            "restore the file from the release it came with."
        )
