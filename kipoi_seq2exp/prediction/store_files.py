"""Look at the files of a result before an array is read: nothing in them runs or lies elsewhere, none is missing.

A Zarr array may name a codec that unpickles, which runs code; an HDF5 file may link to other files. Zarr reads a chunk
that is not there as its fill value, which would pass for a result.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kipoi_seq2exp.errors import InputError

_COMPRESSORS = ("blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4")
_TEXT_FILTERS = ("vlen-utf8", "vlen-bytes")


def check_zarr(path: Path) -> None:
    """Refuse a Zarr folder whose arrays hold anything but numbers and texts.

    Raises
    ------
    InputError
        If it is no folder, or the description of an array is damaged or names a codec that is none of numbers.
    """
    if not path.is_dir():
        raise InputError(f"{path}: cannot be read as a Zarr store of predictions (it is no folder).")
    for folder in _arrays(path):
        try:
            found = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
            filters = [str(item["id"]) for item in found.get("filters") or ()]
            compressor = str((found.get("compressor") or {"id": _COMPRESSORS[0]})["id"])
            objects = "O" in str(found["dtype"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"the results in {path} are damaged (the description of '{folder.relative_to(path)}' cannot be read: "
                f"{' '.join(str(error).split())[:80] or type(error).__name__}): predict again with --overwrite."
            ) from None
        strange = [name for name in filters if name not in _TEXT_FILTERS]
        strange += [compressor] * (compressor not in _COMPRESSORS) + ["objects"] * (objects and not filters)
        if strange:
            raise InputError(
                f"{path}: '{folder.relative_to(path)}' is stored with '{strange[0][:40]}', which may run code and "
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


def check_chunks(path: Path, root: Any, rows: list[int]) -> None:
    """Check that every chunk of some rows of a Zarr store is there.

    Raises
    ------
    InputError
        If one is missing.
    """
    for folder in _arrays(path):
        name = folder.relative_to(path).as_posix()
        array = root[name]
        if name == "done" or not array.ndim:  # a gene that is not marked as done is predicted again
            continue
        separator = json.loads((folder / ".zarray").read_text(encoding="utf-8")).get("dimension_separator", ".")
        firsts = sorted({row // array.chunks[0] for row in rows if row < array.shape[0]})
        for place in itertools.product(firsts, *map(range, array.cdata_shape[1:])):
            if not (folder / separator.join(map(str, place))).exists():
                raise InputError(
                    f"the results in {path} are damaged (a part of '{name}' is missing): copy the folder again, or "
                    "predict again with --overwrite."
                )
