"""The index (.fai, and .gzi of a bgzip file) of a FASTA: found and checked against the file, or built by pyfaidx.

An index that does not describe the file gives wrong DNA without any error, so each record of an index is compared with
the file itself by a few small reads: its name, where its bases begin and end, how long its lines are. In a bgzip file
these reads go through the .gzi, whose blocks must begin and end where it says. The files' ages only decide whether an
index that does not fit is stale, and so rebuilt, or refused.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kipoi_seq2exp.data.handles import file_ends
from kipoi_seq2exp.data.text import text_lines, whole_number
from kipoi_seq2exp.errors import InputError, brief, damage_as
from kipoi_seq2exp.files import content_mark, staging_folder

_LOG = logging.getLogger(__name__)
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_REBUILD = "delete the index so that it is rebuilt"
_LONGEST = 100_000  # bytes of one look into the file
ReadAt = Callable[[int, int], bytes]  # bytes of the text from a place on, as many as there are


@dataclass(frozen=True)
class FastaIndex:
    """Where the index of a FASTA lies, and the chromosomes it lists.

    Attributes
    ----------
    location : Path
        The .fai file: beside the FASTA, or in the user's cache where that folder cannot be written.
    gzi : Path or None
        The .gzi file of a FASTA compressed by bgzip.
    lengths : tuple of (str, int)
        Chromosomes and lengths in bp, in the file's order.
    mark : str
        Tells the FASTA from another file of that name (see `files.content_mark`).
    """

    location: Path
    gzi: Path | None
    lengths: tuple[tuple[str, int], ...]
    mark: str


def prepare_index(path: Path) -> FastaIndex:
    """Return an index that describes the FASTA as it is now, building it where there is none.

    Raises
    ------
    InputError
        If the FASTA is missing, empty, truncated, not compressed by bgzip, or no FASTA, or contradicts its index.
    """
    compressed = _check_kind(path)
    beside = _beside(path, ".fai")
    if _usable(beside, path, compressed):
        return _read(beside, path, compressed)
    if not _writable(path.parent):
        beside = _cached(path)
    if not _usable(beside, path, compressed):
        _build(path, beside, compressed)
    return _read(beside, path, compressed)


def _writable(folder: Path) -> bool:
    """Return whether files may be made in a folder; one marked read-only is left alone, even by root."""
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _check_kind(path: Path) -> bool:
    """Return whether the FASTA is compressed by bgzip; refuse any other kind of file."""
    _, head, tail = file_ends(path, str(path), "a FASTA of the genome", (512, len(_BGZF_END)))
    if head[:2] != b"\x1f\x8b":
        if not head.lstrip().startswith((b">", b";")):
            shown = head[:20].decode("latin-1")
            raise InputError(f"{path} is not a FASTA: it starts with {shown!r} instead of '>'.")
        return False
    if head[12:14] != b"BC":
        raise InputError(f"{path} is compressed by plain gzip: decompress it, or compress it again with bgzip.")
    if tail != _BGZF_END:
        raise InputError(f"{path} is truncated: the end marker of bgzip is missing; fetch the file again.")
    if not path.name.lower().endswith((".gz", ".bgz")):
        raise InputError(f"{path} is compressed by bgzip: its name must end in .gz or .bgz.")
    return True


def _usable(index: Path, path: Path, compressed: bool) -> bool:
    """Return whether an index is there and not older than its FASTA."""
    files = [index, index.with_suffix(".gzi")] if compressed else [index]
    if not all(file.exists() for file in files):
        return False
    if all(file.stat().st_mtime_ns >= path.stat().st_mtime_ns for file in files):
        return True
    try:
        _read(index, path, compressed)
    except InputError as error:
        _LOG.warning("the index is stale and is rebuilt: %s", error)
        return False
    return True


def _cached(path: Path) -> Path:
    """Return where the index goes if the FASTA's folder cannot be written; the name holds the file's size and age."""
    state = path.stat()
    key = f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    name = f"{path.name}.{hashlib.sha256(key.encode()).hexdigest()[:16]}.fai"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "kipoi_seq2exp"
    for folder in (root, Path(tempfile.gettempdir()) / f"kipoi_seq2exp-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if _writable(folder) and _own(folder):
            return folder / name
    raise InputError(f"{path}: no folder to write its index to; run 'samtools faidx {path}' or set XDG_CACHE_HOME.")


def _own(folder: Path) -> bool:
    """Return whether a folder is this user's and nobody else may write to it: an index of others gives wrong DNA."""
    state = folder.lstat()
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022


def _build(path: Path, index: Path, compressed: bool) -> None:
    """Build the index under a temporary name in the folder it goes to, then move it in place."""
    import pyfaidx

    _LOG.info("building the index of %s at %s", path, index)
    folder = staging_folder(index)
    fai, gzi = folder / index.name, folder / index.with_suffix(".gzi").name
    try:
        try:
            with damage_as(lambda what: InputError(f"{path} cannot be indexed as FASTA at {index} ({what}).")):
                pyfaidx.Faidx(path, indexname=fai, gzi_indexname=gzi, as_raw=True).close()
        except pyfaidx.FastaIndexingError as error:
            raise InputError(f"{path} cannot be indexed as FASTA ({brief(error)}).") from None
        if compressed:
            gzi.replace(index.with_suffix(".gzi"))
        fai.replace(index)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Record:
    """A line of a .fai: where the bases of a chromosome lie in the (uncompressed) file."""

    name: str
    length: int
    offset: int
    line_bases: int
    line_bytes: int

    @property
    def end(self) -> int:
        """Where the bases end, without the end of the last line."""
        if not self.line_bases:
            return self.offset
        lines, rest = divmod(self.length, self.line_bases)
        return self.offset + lines * self.line_bytes + rest


def _read(index: Path, path: Path, compressed: bool) -> FastaIndex:
    """Read an index and compare it with its FASTA."""
    records: list[_Record] = []
    for number, line in text_lines(index, str(index)):
        fields = line.split("\t")
        if len(fields) != 5:
            raise InputError(f"{index}, line {number}: not a FASTA index (five columns are needed); {_REBUILD}.")
        try:
            place = f"{index}, line {number}"
            numbers = [whole_number(text, place, f"column {at}") for at, text in enumerate(fields[1:], start=2)]
        except InputError as error:
            raise InputError(f"{str(error).rstrip('.')}; {_REBUILD}.") from None
        records.append(_Record(fields[0], *numbers))
    if not records:
        raise InputError(f"{index} is empty; {_REBUILD}.")
    gzi = index.with_suffix(".gzi") if compressed else None
    try:
        with path.open("rb") as handle:
            read, size = (_plain(handle), path.stat().st_size) if gzi is None else _bgzip(handle, path, gzi)
            _compare(index, path, records, read, size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from None
    lengths = tuple((record.name, record.length) for record in records)
    return FastaIndex(index, gzi, lengths, content_mark(path))


def _plain(handle: BinaryIO) -> ReadAt:
    def read(at: int, count: int) -> bytes:
        handle.seek(at)
        return handle.read(count)

    return read


def _bgzip(handle: BinaryIO, path: Path, gzi: Path) -> tuple[ReadAt, int]:
    """Return how to read the text of a bgzip file, through its .gzi, and how long that text is."""
    stale = InputError(f"{path} does not match its index {gzi}: {_REBUILD} (the .fai too).")
    packed = gzi.read_bytes()
    count = int.from_bytes(packed[:8], "little")
    if len(packed) < 8 or len(packed) != 8 + 16 * count:
        raise InputError(f"{gzi} is damaged: {_REBUILD} (the .fai too).")
    table = np.vstack([np.zeros((1, 2), dtype=np.uint64), np.frombuffer(packed, "<u8", offset=8).reshape(-1, 2)])
    if (table[1:] < table[:-1]).any() or int(table[-1, 0]) >= path.stat().st_size:
        raise stale
    begins, texts = table[:, 0].tolist(), table[:, 1]

    def block(number: int) -> bytes:
        handle.seek(begins[number])
        head = handle.read(18)
        if head[:4] != _BGZF_END[:4] or head[12:14] != b"BC":
            raise stale
        try:
            text = zlib.decompress(head + handle.read(int.from_bytes(head[16:18], "little") - 17), wbits=31)
        except zlib.error:
            raise stale from None
        if number + 1 < len(begins) and int(texts[number]) + len(text) != int(texts[number + 1]):
            raise stale
        return text

    def read(at: int, count: int) -> bytes:
        number = int(np.searchsorted(texts, np.uint64(at), side="right")) - 1
        first, found = at - int(texts[number]), b""
        while len(found) < first + count and number < len(begins):
            found += block(number)
            number += 1
        return found[first : first + count]

    size = int(texts[-1]) + len(block(len(begins) - 1))
    if not handle.read(len(_BGZF_END)).startswith(_BGZF_END):  # another block follows the last one of the .gzi
        raise stale
    return read, size


def _compare(index: Path, path: Path, records: list[_Record], read: ReadAt, size: int) -> None:
    """Check that between two records of the index the file holds the header of the second and nothing else."""
    previous_end = 0
    for record in records:
        between = read(previous_end, min(max(record.offset - previous_end, 0), _LONGEST))
        *extra, header = between.strip().split(b"\n")
        if record.end > size + record.line_bytes - record.line_bases:
            raise InputError(
                f"{path} ends within {record.name}, which has {record.length:,} bp by its index {index}: the FASTA is "
                f"truncated, or the index is stale; fetch the FASTA again, or {_REBUILD}."
            )
        fits = header[:1] == b">" and header[1:].split()[:1] == [record.name.encode()] and between.endswith(b"\n")
        if not fits or (extra and previous_end):  # only the first header may follow comments
            raise InputError(f"{path} does not match its index {index} at {record.name}: {_REBUILD}.")
        if not _lines_fit(record, read):
            raise InputError(
                f"{path} does not match its index {index} at {record.name}, whose lines have not "
                f"{record.line_bases:,} bases: {_REBUILD}."
            )
        previous_end = record.end
    if read(previous_end, 64).strip():
        raise InputError(f"{path} goes on after the last record of its index {index}: {_REBUILD}.")


def _lines_fit(record: _Record, read: ReadAt) -> bool:
    """Return whether the first line of a chromosome and one in its middle are as long as the index says."""
    if not record.length:
        return True
    if not record.line_bases or not 0 <= record.line_bytes - record.line_bases <= 2:
        return False
    for line in {0, record.length // record.line_bases // 2}:
        start = record.offset + line * record.line_bytes
        bases = min(record.line_bases, record.length - line * record.line_bases)
        if b"\n" in read(start, min(bases, _LONGEST)):
            return False
        if bases == record.line_bases and record.length > bases:  # another line follows
            ending = read(start + bases, record.line_bytes - bases)
            if ending not in (b"\n", b"\r\n"):
                return False
    return True
