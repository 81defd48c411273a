"""Files on disk: outputs that are whole or absent (a temporary name beside them, then renamed), and hashes.

Contract: what goes wrong on the disk is an `OutputError` of one sentence that names the file; nothing half-written
stays behind, and a file that was there before is replaced only by a whole one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kipoi_seq2exp.errors import OutputError, WeightsError

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and run the command again",
    errno.EDQUOT: "the disk quota is used up: make room and run the command again",
    errno.EFBIG: "the file would pass the limit on file sizes",
    errno.EACCES: "permission denied: choose a folder that you may write to",
    errno.EPERM: "permission denied: choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Turn an operating system's error into one sentence about the file."""
    reason = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"{path}: cannot be written ({reason}).")


def make_folder(path: Path) -> None:
    """Make a folder for results, and check that files can be made in it.

    Raises
    ------
    OutputError
        If it cannot be made or written to.
    """
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except FileExistsError:
        raise OutputError(f"{path}: is a file; give a folder for the results.") from None
    except OSError as error:
        raise output_error(path, error) from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; renamed to `path` when the block ends well, else removed.

    Raises
    ------
    OutputError
        If writing fails, for lack of room or permission.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # what went wrong before is what the user must hear
                temporary.unlink(missing_ok=True)


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

    Raises
    ------
    WeightsError
        If it is missing or differs.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file: restore it from the release it came with.")
    found = file_sha256(path)
    if found != sha256:
        raise WeightsError(
            f"{path}: the weights are damaged or were replaced (SHA-256 {found[:12]}..., expected {sha256[:12]}...): "
            "restore the file from the release it came with."
        )
