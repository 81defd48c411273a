"""Compiled kernels on disk, between processes: read only if they are whole and ours, else compiled and written anew.

numba keeps machine code in pickles beside the source (or in `NUMBA_CACHE_DIR`) and trusts whatever lies there. Here a
file counts only if it belongs to this user, to the owner of the source or to root, if not everybody may write to it,
and if it ends with the SHA-256 of the rest: a damaged byte of machine code would be a wrong number or a crash. A cache
that cannot be read or written costs the time of compiling, never a run.

A kernel is made of kernels of other files too, and numba compares its own file alone: here a cache belongs to the
content of all kernels of the folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

_DIGEST_BYTES = 32


@functools.cache
def sources_digest(folder: Path) -> str:
    """Return the SHA-256 of a folder's kernels and of `simd`, names and content."""
    paths = sorted([*folder.glob("*kernels*.py"), *folder.glob("simd.py")])
    digests = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


class KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of one function, checked.

    Parameters
    ----------
    function : callable
        The function before it is compiled.

    Raises
    ------
    RuntimeError
        If there is no folder that can be written.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        owners = {0, os.geteuid(), Path(function.__code__.co_filename).stat().st_uid}
        sources = sources_digest(Path(function.__code__.co_filename).parent)
        self._cache_file = _CheckedFiles(self._cache_file, owners, sources)  # type: ignore[has-type]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function from the disk, or None if there is none that can be trusted."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever a damaged file leads to
            self._cache_file.forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write a compiled function to the disk, if the disk takes it."""
        try:
            super().save_overload(sig, data)
        except Exception:  # a full disk, a damaged index
            self._cache_file.forget()


class _CheckedFiles(IndexDataCacheFile):  # type: ignore[misc]
    """The index of a function's cache and its machine code: each file ends with the digest of the rest."""

    def __init__(self, files: IndexDataCacheFile, owners: set[int], sources: str) -> None:
        self.__dict__.update(files.__dict__)
        self._owners, self._source_stamp = owners, sources

    def save(self, key: Any, data: Any) -> None:
        """Write machine code together with what it was made from."""
        super().save(key, (key, data))

    def load(self, key: Any) -> Any:
        """Return the machine code that was made from `key`, or None."""
        found = super().load(key)
        return found[1] if found is not None and found[0] == key else None

    def forget(self) -> None:
        """Remove the index, so that whoever compiles next writes it anew."""
        try:
            Path(self._index_path).unlink(missing_ok=True)
        except OSError:  # of a folder that is not ours: nothing there is read
            return

    def _load_index(self) -> Any:
        try:
            version, stamp, overloads = self._read(self._index_path)
        except FileNotFoundError:
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: Any) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        """Return what a file holds; ValueError if it is not whole, PermissionError if others may have written it."""
        for place in (Path(path), Path(path).parent):
            state = place.stat()
            if state.st_uid not in self._owners or state.st_mode & stat.S_IWOTH:
                raise PermissionError(f"{place} may be another user's")
        content = Path(path).read_bytes()
        content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(f"{path} is damaged")
        return pickle.loads(content)

    def _write(self, path: str, what: Any) -> None:
        content = self._dump(what)
        with self._open_for_write(path) as file:
            file.write(content + hashlib.sha256(content).digest())
