"""Checks of a result's files before an array is read: they run no code, lead to no other file, and none is missing.

A Zarr array may name a codec that unpickles, which runs code; an HDF5 file may link to other files. Zarr reads a chunk
that is not there as its fill value, which would pass for a result. A store that is written to is locked, so that two
runs cannot mix their genes in it.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kipoi_seq2exp.errors import InputError, OutputError, brief, damage_as, excerpt
from kipoi_seq2exp.files import check_regular, output_error

_COMPRESSORS = ("blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4")
_TEXT_FILTERS = ("vlen-utf8", "vlen-bytes")


LOCK = ".predictions.lock"
_held: dict[tuple[int, Path], int] = {}  # lock files, open, by the process that locked them (a fork did not)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error that a damaged result raises in the block into one sentence.

    Raises
    ------
    InputError
        If the block fails with anything but an error of this package.
    """
    with damage_as(lambda what: damaged(path, what)):
        yield


def damaged(path: Path, what: str) -> InputError:
    """Return the error that says what is wrong with a result and what to do."""
    return InputError(
        f"the results in {path} are damaged ({what}): copy them again, or predict again with --overwrite."
    )


def lock_folder(folder: Path) -> bool:
    """Lock a results folder for this process until `unlock_folder` or its end; forked children do not hold the lock.

    Returns
    -------
    bool
        Whether this call locked it; False where the process had done so before.

    Raises
    ------
    OutputError
        If another process writes to it, or the lock file cannot be made.
    """
    path = folder.resolve() / LOCK
    key, locked = (os.getpid(), path), False
    while not (key in _held and _is_at(_held[key], path)):
        if key in _held:  # the file was removed with its folder
            os.close(_held.pop(key))
        _held[key], locked = _lock(path), True  # a run that has just ended may have removed the file: try once more
    return locked


def unlock_folder(folder: Path) -> None:
    """Let other processes write to a results folder; nothing of the lock stays behind."""
    path = folder.resolve() / LOCK
    key = os.getpid(), path
    if key in _held:
        if _is_at(_held[key], path):
            path.unlink()
        os.close(_held.pop(key))


@atexit.register
def _unlock_all() -> None:
    for _, path in list(_held):
        with suppress(OSError):
            unlock_folder(path.parent)


def _lock(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise output_error(path, error) from None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise OutputError(
                f"{path.parent}: another run writes its results there: wait until it ends, or choose another folder."
            ) from None
        raise OutputError(f"{path}: cannot be locked ({error.strerror}): choose a folder on another disk.") from None
    return handle


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one at a path, and not one that was removed."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False


def open_zarr(path: Path, mode: str) -> Any:
    """Open a Zarr folder of predictions.

    Raises
    ------
    InputError
        If it is missing, damaged, or holds something that no result holds.
    """
    import zarr

    if not path.exists():
        raise InputError(f"{path}: no such file or folder.")
    if path.is_dir() and not (path / ".zgroup").is_file():
        raise InputError(f"{path}: this folder holds no predictions: give one that a command wrote results to.")
    check_zarr(path)
    try:
        root = zarr.open_group(str(path), mode=mode)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a Zarr store of predictions ({brief(error)}).") from None
    with reading(path):
        root.attrs.asdict()
    return root


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file of predictions.

    Raises
    ------
    InputError
        If it is missing, damaged, or reads other files.
    """
    import h5py

    check_regular(path, str(path))
    try:
        root = h5py.File(path, "r")
        check_hdf5(path, root)
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({error}): it is damaged or still being written.") from None
    return root


def check_zarr(path: Path) -> None:
    """Refuse a Zarr folder whose arrays hold anything but numbers and texts.

    Raises
    ------
    InputError
        If it is not a folder, or the description of an array is damaged or names a codec that is not for numbers.
    """
    if not path.is_dir():
        raise InputError(f"{path}: cannot be read as a Zarr store of predictions (it is not a folder).")
    for folder in _arrays(path):
        try:
            found = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
            filters = [str(item["id"]) for item in found.get("filters") or ()]
            compressor = str((found.get("compressor") or {"id": _COMPRESSORS[0]})["id"])
            objects = "O" in str(found["dtype"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"the description of '{folder.relative_to(path)}' cannot be read: {brief(error)}"
            raise damaged(path, what) from None
        strange = [name for name in filters if name not in _TEXT_FILTERS]
        strange += [compressor] * (compressor not in _COMPRESSORS) + ["objects"] * (objects and not filters)
        if strange:
            raise InputError(
                f"{path}: '{folder.relative_to(path)}' is stored with '{excerpt(strange[0])}', which may run code and "
                "which no result of this package uses: do not trust the folder."
            )


def _arrays(folder: Path) -> Iterator[Path]:
    """Yield the folders of the arrays; their chunks are not listed."""
    if (folder / ".zarray").exists():
        yield folder
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _arrays(entry)


def check_hdf5(path: Path, root: Any) -> None:
    """Refuse an HDF5 file that reads other files.

    Raises
    ------
    InputError
        If a link or a data set of it lies in another file.
    """
    import h5py

    for name in root:
        kind = root.get(name, getlink=True)
        item = root[name] if isinstance(kind, h5py.HardLink) else None
        if item is None or (isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)):
            raise InputError(
                f"{path}: '{name}' is a link to data elsewhere, which no result has: do not trust the file."
            )
        if isinstance(item, h5py.Group):
            check_hdf5(path, item)


def check_arrays(path: Path, root: Any) -> None:
    """Check that a store of ours has every array that its own record lists.

    Raises
    ------
    InputError
        If one is missing.
    """
    needed = ["metadata/gene_id", *(f"metadata/ranges/{name}" for name in ("chr", "start", "end", "strand"))]
    needed += ["preds/expression", "stats/known_fraction", "done"]
    if json.loads(root.attrs.get("provenance", "{}")).get("mask") is not None:
        needed.append("preds/element_mask")
    for name in needed:
        if name not in root:
            raise damaged(path, f"'{name}' is missing")


def check_chunks(path: Path, root: Any, rows: list[int]) -> None:
    """Check that no chunk is missing for some rows of a Zarr store, nor in `done`, which tells the complete rows.

    Raises
    ------
    InputError
        If one is missing.
    """
    for folder in _arrays(path):
        name = folder.relative_to(path).as_posix()
        array = root[name]
        if not array.ndim:
            continue
        separator = json.loads((folder / ".zarray").read_text(encoding="utf-8")).get("dimension_separator", ".")
        needed = range(array.shape[0]) if name == "done" else rows
        firsts = sorted({row // array.chunks[0] for row in needed if row < array.shape[0]})
        for place in itertools.product(firsts, *map(range, array.cdata_shape[1:])):
            if not (folder / separator.join(map(str, place))).exists():
                raise damaged(path, f"a part of '{name}' is missing")
