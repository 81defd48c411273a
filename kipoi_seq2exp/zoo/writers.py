"""Writers for `kipoi predict` that cope with 200,000 values per row: tsv, bed, h5, parquet and zarr.

All of them write to a temporary name in the target's folder, which is renamed when the last batch is in, so that a
failed run leaves nothing behind, and turn any error of the disk or a library into one `OutputError`. Column names are
Kipoi's (`preds/expression/0`). Kipoi's own writers keep 10,000 rows in memory and in one HDF5 chunk, sort columns as
text, and lack zarr altogether.
"""

from __future__ import annotations

import abc
import io
import logging
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import kipoi.writers
import numpy as np
from kipoi.specs import MetadataType

from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.files import staging_folder

CHUNK_BYTES = 4 << 20  # bytes written at a time, and size of one chunk of a file
STOCK_CHUNK_BYTES = 64 << 20  # Kipoi's own HDF5 chunks are left alone up to this size
WIDE = 1024  # more values than this in a row become one list column in parquet, and a summary in a BED
_LOG = logging.getLogger(__name__)

Columns = dict[str, np.ndarray]
KipoiHDF5Writer: type = kipoi.writers.HDF5BatchWriter  # before `fixes` replaces it


class Staging:
    """A temporary file beside the target: renamed by `commit`, removed by `discard` or when the process ends."""

    def __init__(self, target: str | Path, *, replace: bool = False) -> None:
        self.target = Path(os.path.abspath(target))  # noqa: PTH100  (the folder may change; links stay as given)
        if self.target.exists() and not replace:
            raise OutputError(f"{target}: exists already: delete it or choose another name.")
        if self.target.is_dir():
            raise OutputError(f"{target}: is a folder: choose the name of a file.")
        with one_sentence(self.target):
            folder = staging_folder(self.target)
        self.path = folder / self.target.name
        self.discard = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def commit(self) -> None:
        """Rename the finished file to its final name."""
        with one_sentence(self.target):
            self.path.replace(self.target)
        self.discard()


@contextmanager
def one_sentence(target: Path, staging: Staging | None = None) -> Iterator[None]:
    """Turn a failure to write into an `OutputError` that names the file, and leave nothing half-written."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if staging is not None:
            staging.discard()
        if isinstance(error, OutputError):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OutputError(f"{target}: cannot be written ({reason}); nothing was kept.") from error


def flat_columns(batch: Any, prefix: str = "") -> Columns:
    """Return the arrays of a nested batch under Kipoi's names: "preds/expression", "metadata/ranges/chr"."""
    if isinstance(batch, Mapping):
        parts = [flat_columns(value, f"{prefix}/{key}" if prefix else str(key)) for key, value in batch.items()]
        return {name: values for part in parts for name, values in part.items()}
    return {prefix: np.asarray(batch)}


def cell_names(name: str, values: np.ndarray) -> list[str]:
    """Return the column name of each value of a row, in order: "preds/expression/0", ... (a scalar: its name)."""
    return [name + "".join(f"/{i}" for i in index) for index in np.ndindex(values.shape[1:])]


class StagedWriter(kipoi.writers.BatchWriter, abc.ABC):  # type: ignore[misc]
    """Base of the writers: a subclass opens at the first batch, appends each batch, and closes."""

    replaces = False  # whether an existing target is replaced (as Kipoi's tsv writer does) or refused

    def __init__(self, file_path: str) -> None:
        self.staging = Staging(file_path, replace=self.replaces)
        self.opened = False

    def batch_write(self, batch: Any) -> None:
        """Append a batch of nested arrays with a common first axis."""
        columns = flat_columns(batch)
        with one_sentence(self.staging.target, self.staging):
            if not self.opened:
                self._open(columns)
                self.opened = True
            self._append(columns)

    def close(self) -> None:
        """Finish the file and rename it; without any batch there is nothing to write."""
        with one_sentence(self.staging.target, self.staging):
            if not self.opened:
                raise OutputError(f"{self.staging.target}: no prediction was made, so nothing was written.")
            self._finish()
        self.staging.commit()

    @abc.abstractmethod
    def _open(self, columns: Columns) -> None:
        """Open the temporary file for rows like those of `columns`."""

    @abc.abstractmethod
    def _append(self, columns: Columns) -> None:
        """Write rows."""

    @abc.abstractmethod
    def _finish(self) -> None:
        """Close what is open."""


class TextWriter(StagedWriter):
    """TSV, one column per value in the order of positions, one row in memory at a time."""

    replaces = True
    comment = ""  # before the header

    def _open(self, columns: Columns) -> None:
        self._file = self.staging.path.open("w", encoding="utf-8")
        names = [cell for name, values in self._arrange(columns) for cell in cell_names(name, values)]
        self._file.write(self.comment + "\t".join(names) + "\n")

    def _append(self, columns: Columns) -> None:
        arranged = self._arrange(columns)
        for row in range(len(arranged[0][1])):
            cells = [np.asarray(values[row]).astype(str).ravel() for _, values in arranged]
            self._file.write("\t".join(np.concatenate(cells).tolist()) + "\n")
        self._file.flush()

    def _finish(self) -> None:
        self._file.close()

    def _arrange(self, columns: Columns) -> list[tuple[str, np.ndarray]]:
        return sorted(columns.items())


class BedTextWriter(TextWriter):
    """BED6 with one line per gene under a header that starts with "#", and the predictions in further columns.

    Of an array with more than `WIDE` values per row (the mask), a line holds the mean and the fraction of values of 0.5
    and more; the log names the formats that hold them all. Windows that begin before their chromosome are clipped at 0,
    as BED requires.
    """

    comment = "#"

    def __init__(self, file_path: str, metadata_schema: Any) -> None:
        super().__init__(file_path)
        is_ranges = [name for name, field in metadata_schema.items() if field.type is MetadataType.GENOMIC_RANGES]
        if len(is_ranges) != 1:
            raise OutputError(f"{file_path}: a BED needs exactly one GenomicRanges in the metadata.")
        self._ranges = f"metadata/{is_ranges[0]}"

    def batch_write(self, batch: Any) -> None:
        """Append a batch, with the ranges that Kipoi dropped when it was not asked to keep the metadata."""
        dropped = getattr(batch, "dropped_metadata", None)
        super().batch_write(batch if dropped is None or "metadata" in batch else {**batch, "metadata": dropped})

    def _arrange(self, columns: Columns) -> list[tuple[str, np.ndarray]]:
        if f"{self._ranges}/chr" not in columns:
            raise OutputError(f"{self.staging.target}: a BED needs the ranges: keep the metadata.")
        ranges = {name: columns[f"{self._ranges}/{name}"] for name in ("chr", "start", "end", "id", "strand")}
        ranges["start"] = np.maximum(ranges["start"], 0)
        score = np.full(len(ranges["chr"]), ".")
        bed = [*list(ranges.items())[:3], ("name", ranges["id"]), ("score", score), ("strand", ranges["strand"])]
        for name, values in sorted(columns.items()):
            if name.startswith("preds"):
                bed += self._summary(name, values) if values[:1].size > WIDE else [(name, values)]
        return bed

    def _open(self, columns: Columns) -> None:
        super()._open(columns)
        for name, values in columns.items():
            if name.startswith("preds") and values[:1].size > WIDE:
                _LOG.warning(
                    "%s: one line per gene; of the %s values of %s it holds the mean and the fraction of 0.5 and more "
                    "(an .h5 or .zarr holds them all)",
                    self.staging.target.name,
                    f"{values[:1].size:,}",
                    name,
                )

    def _summary(self, name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
        rows = values.reshape(len(values), -1)
        return [(f"{name}/mean", rows.mean(axis=1)), (f"{name}/fraction_from_0.5", (rows >= 0.5).mean(axis=1))]


class ParquetWriter(StagedWriter):
    """Parquet: narrow arrays as one column per value under Kipoi's names, wide ones as one list column."""

    def _open(self, columns: Columns) -> None:
        with _optional("pyarrow", "parquet"):
            import pyarrow.parquet as parquet
        schema = self._table({name: values[:1] for name, values in columns.items()}).schema
        plain = [name for name in schema.names if name not in columns or columns[name].ndim == 1]
        self._writer = parquet.ParquetWriter(self.staging.path, schema, compression="zstd", use_dictionary=plain)

    def _append(self, columns: Columns) -> None:
        self._writer.write_table(self._table(columns))

    def _finish(self) -> None:
        self._writer.close()

    def _table(self, columns: Columns) -> Any:
        with _optional("pyarrow", "parquet"):
            import pyarrow

        def nested(values: np.ndarray) -> Any:
            if values.ndim == 1:
                return pyarrow.array(values.tolist() if values.dtype.kind in "UO" else values)
            inner = nested(values.reshape(-1, *values.shape[2:]))
            return pyarrow.FixedSizeListArray.from_arrays(inner, values.shape[1])

        arrays: dict[str, Any] = {}
        for name, values in sorted(columns.items()):
            if values.ndim == 1 or values[:1].size > WIDE:
                arrays[name] = nested(values)
            else:
                cells = values.reshape(len(values), -1)
                arrays |= {cell: nested(cells[:, i]) for i, cell in enumerate(cell_names(name, values))}
        return pyarrow.table(arrays)


class ZarrWriter(StagedWriter):
    """Zarr (format 2), one array per name as in the HDF5 file, chunks of some megabytes."""

    _made_by: str | None = None

    def made_by(self, text: str) -> None:
        """Say in the file what made it."""
        self._made_by = text

    def _open(self, columns: Columns) -> None:
        with _optional("zarr", "zarr"):
            import zarr
        if int(zarr.__version__.split(".")[0]) > 2:
            raise OutputError(f"{self.staging.target}: zarr {zarr.__version__} is too new: pip install 'zarr<3'.")
        self._store = kipoi.writers.get_zarr_store(str(self.staging.path))
        self._root = zarr.group(self._store)
        if self._made_by is not None:
            self._root.attrs["made_by"] = self._made_by
        for name, values in columns.items():
            kind = str if values.dtype.kind in "UO" else values.dtype
            chunks = (_rows_per_chunk(values), *values.shape[1:])
            self._root.empty(name, shape=(0, *values.shape[1:]), dtype=kind, chunks=chunks)

    def _append(self, columns: Columns) -> None:
        for name, values in columns.items():
            self._root[name].append(values.astype(object) if values.dtype.kind == "U" else values)

    def _finish(self) -> None:
        if hasattr(self._store, "close"):
            self._store.close()


@contextmanager
def _optional(package: str, what: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise OutputError(f"writing {what} needs {package}: pip install {package}.") from None


def _rows_per_chunk(values: np.ndarray) -> int:
    return int(min(10_000, max(1, CHUNK_BYTES // max(1, values[:1].nbytes))))


class _ErrorKeepingFile(io.FileIO):
    """A file that keeps its first write error instead of raising it: HDF5 ends the process when a flush fails."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or pretend to."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the length of the file, or pretend to."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


class HDF5Writer(KipoiHDF5Writer):  # type: ignore[misc]
    """Kipoi's HDF5 writer with chunks (and a buffer) that fit wide rows; narrow outputs are written as before.

    Parameters
    ----------
    file_path : str
    chunk_size : int
        Rows per chunk, lowered where a row is wide.
    compression : str
    staged : bool
        Write under a temporary name and refuse an existing target, as the other writers here do.
    """

    def __init__(
        self, file_path: str, chunk_size: int = 10_000, compression: str = "gzip", *, staged: bool = True
    ) -> None:
        self.staging = Staging(file_path) if staged else None
        self.target = Path(file_path)
        self.chunk_size: int = chunk_size
        self._file: _ErrorKeepingFile | None = None
        with one_sentence(self.target, self.staging):
            if self.staging is not None:
                self._file = _ErrorKeepingFile(self.staging.path, "w+b")
            super().__init__(self._file or file_path, chunk_size, compression)
        if self._file is not None:  # an HDF5 file over a Python one must not outlive the interpreter
            self._abandon = weakref.finalize(self, _close_quietly, self.f)

    def made_by(self, text: str) -> None:
        """Say in the file what made it."""
        with one_sentence(self.target, self.staging):
            self.f.attrs["made_by"] = text

    def batch_write(self, batch: Any) -> None:
        """Append a batch of nested arrays with a common first axis."""
        if self.first_pass:
            widest = max(values[:1].nbytes for values in flat_columns(batch).values())
            if widest * self.chunk_size > STOCK_CHUNK_BYTES:
                self.chunk_size = max(1, CHUNK_BYTES // widest)
        with one_sentence(self.target, self.staging):
            super().batch_write(batch)
            self._check()

    def close(self) -> None:
        """Finish the file and rename it."""
        with one_sentence(self.target, self.staging):
            super().close()
            if self._file is not None:
                self._check()
                self._file.close()
        if self.staging is not None:
            self.staging.commit()

    def _check(self) -> None:
        if self._file is not None and self._file.error is not None:
            self._abandon()
            raise self._file.error


def _close_quietly(file: Any) -> None:
    with suppress(Exception):
        file.close()
