"""Read a file of `torch.save` without running any code in it.

`torch.load` hands an archive that looks like TorchScript to a loader that runs code, and unpickles whatever a file asks
for. So the archive is read here: the pickle by an unpickler that knows only tensors and plain containers (everything
else becomes `Inert`), the numbers straight from the archive's members, each checked against its declared size.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kipoi_seq2exp.errors import WeightsError, brief, excerpt

MAX_MEMBERS = 100_000
MAX_PICKLE_BYTES = 64_000_000  # names and settings; the numbers lie in members of their own
MAX_BYTES = 20_000_000_000
MAX_DIMENSIONS = 8
_TORCHSCRIPT = ("constants.pkl", "code", "extra")
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
)


class Inert:
    """Stands in for every class that is not needed: takes any state, runs nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **named: Any) -> Inert:
        """Do nothing."""
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignore the item."""

    def extend(self, items: Any) -> None:
        """Ignore the items."""


@dataclass(frozen=True)
class _StorageType:
    """The type of numbers that a pickle names by a class of torch."""

    dtype: torch.dtype


_CONTAINERS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "dict"): dict,
    ("builtins", "dict"): dict,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
}


class _Reader(pickle.Unpickler):
    """Knows tensors and plain containers; anything else becomes `Inert`."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CONTAINERS:
            return _CONTAINERS[module, name]
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _parameter
        return type("Inert", (Inert,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        kind, type_, key, _, count = pid
        if kind != "storage" or not isinstance(type_, _StorageType) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"an unknown kind of stored object ({excerpt(kind)})")
        if key not in self._storages:
            data = self._archive.read(f"{self._root}data/{key}")
            if not isinstance(count, int) or len(data) != count * type_.dtype.itemsize:
                raise pickle.UnpicklingError(
                    f"the numbers '{excerpt(key)}' are {len(data):,} bytes, not the size declared"
                )
            empty = torch.zeros(0, dtype=type_.dtype)
            self._storages[key] = torch.frombuffer(bytearray(data), dtype=type_.dtype) if data else empty
        return self._storages[key]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Rebuild a tensor that lies wholly inside its storage."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or not all(type(n) is int and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor's shape is not made of whole numbers")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if len(size) > MAX_DIMENSIONS or math.prod(size) > len(storage) or (0 not in size and last >= len(storage)):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} does not lie inside its numbers")
    return storage.as_strided(size, stride, offset).clone()


def _parameter(value: Any, *_: Any) -> Any:
    return value


def read_pickled(path: Path) -> Any:
    """Return the content that `torch.save` wrote: tensors in plain containers, `Inert` for all else.

    Parameters
    ----------
    path : Path
        A zip archive, as torch writes since 1.6.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, of another kind, or too large to be a checkpoint.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: {'it is a folder: give a file in it' if path.is_dir() else 'no such file'}.")
    try:
        if not zipfile.is_zipfile(path):
            raise WeightsError(
                f"{path}: not a checkpoint of PyTorch 1.6 or later (such a file is a zip archive): download it again, "
                "or save it anew with a current PyTorch."
            )
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, _checked_root(archive, path)).load()
    except WeightsError:
        raise
    except _DAMAGED as error:
        raise WeightsError(
            f"{path}: not a readable PyTorch checkpoint ({brief(error, 150)}); download it again."
        ) from None


def _checked_root(archive: zipfile.ZipFile, path: Path) -> str:
    """Return the folder of the archive that everything lies in, or refuse the archive."""
    members = archive.infolist()
    pickles = [member for member in members if member.filename.rsplit("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].filename.count("/") > 1:
        raise WeightsError(f"{path}: not a PyTorch checkpoint: the archive holds {len(pickles)} files data.pkl.")
    root = pickles[0].filename.removesuffix("data.pkl")
    for member in members:
        if member.filename.removeprefix(root).split("/")[0] in _TORCHSCRIPT:
            raise WeightsError(
                f"{path}: a TorchScript archive ('{excerpt(member.filename, 60)}' is a program), not a checkpoint: "
                "programs in files are never run."
            )
        if member.compress_type != zipfile.ZIP_STORED:
            raise WeightsError(f"{path}: '{excerpt(member.filename, 60)}' is compressed, which PyTorch never does.")
    if len(members) > MAX_MEMBERS or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise WeightsError(f"{path}: too many parts ({len(members):,}) for a checkpoint.")
    total = sum(member.file_size for member in members)
    if total > min(MAX_BYTES, path.stat().st_size):
        raise WeightsError(f"{path}: its parts are {total:,} bytes, more than the file holds or a checkpoint needs.")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order).strip() != b"little":
        raise WeightsError(f"{path}: written on a big-endian machine, which is not supported.")
    return root
