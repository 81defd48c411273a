"""The index (.fai, and .gzi of a bgzip file) of a FASTA: found and checked against the file, or built by pyfaidx.

An index that does not describe the file gives wrong DNA without any error, so each record of an index is compared with
the file itself (one small read per chromosome): its name, where its bases begin, and where they end.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kipoi_seq2exp.data.handles import file_ends
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.files import staging_folder

_LOG = logging.getLogger(__name__)
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_REBUILD = "delete the index so that it is built anew"


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
    """

    location: Path
    gzi: Path | None
    lengths: tuple[tuple[str, int], ...]


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
    """Return whether the FASTA is compressed by bgzip; refuse what is no FASTA."""
    _, head, tail = file_ends(path, str(path), "a FASTA of the genome", (512, len(_BGZF_END)))
    if head[:2] != b"\x1f\x8b":
        if not head.lstrip().startswith((b">", b";")):
            shown = head[:20].decode("latin-1")
            raise InputError(f"{path} is no FASTA: it starts with {shown!r} instead of '>'.")
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
        _LOG.warning("the index is stale and is built anew: %s", error)
        return False
    return not compressed  # of a compressed file only the age can be judged


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
            pyfaidx.Faidx(path, indexname=fai, gzi_indexname=gzi, as_raw=True).close()
        except (pyfaidx.FastaIndexingError, ValueError) as error:
            raise InputError(f"{path} cannot be indexed as FASTA ({' '.join(str(error).split())}).") from None
        except (OSError, EOFError) as error:
            raise InputError(f"{path}: its index cannot be built at {index} ({error}).") from None
        if compressed:
            gzi.replace(index.with_suffix(".gzi"))
        fai.replace(index)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(index: Path, path: Path, compressed: bool) -> FastaIndex:
    """Read an index and compare it with its FASTA (a compressed FASTA is compared by age alone)."""
    records: list[tuple[str, int, int, int, int]] = []
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 5 or not all(field.isdigit() for field in fields[1:]):
            raise InputError(f"{index}, line {number}: not a FASTA index (five columns are needed); {_REBUILD}.")
        length, offset, line_bases, line_bytes = (int(field) for field in fields[1:])
        records.append((fields[0], length, offset, line_bases, line_bytes))
    if not records:
        raise InputError(f"{index} is empty; {_REBUILD}.")
    if not compressed:
        _compare(index, path, records)
    lengths = tuple(record[:2] for record in records)
    return FastaIndex(index, index.with_suffix(".gzi") if compressed else None, lengths)


def _compare(index: Path, path: Path, records: list[tuple[str, int, int, int, int]]) -> None:
    """Check that between two records of the index the file holds the header of the second and nothing else."""
    size = path.stat().st_size
    previous_end = 0
    with path.open("rb") as handle:
        for name, length, offset, line_bases, line_bytes in records:
            handle.seek(previous_end)
            between = handle.read(max(offset - previous_end, 0))
            *extra, header = between.strip().split(b"\n")
            end = offset + (length // line_bases * line_bytes + length % line_bases if line_bases else 0)
            if end > size + line_bytes - line_bases:
                raise InputError(
                    f"{path} ends within {name}, which has {length:,} bp by its index {index}: the FASTA is "
                    f"truncated, or the index is stale; fetch the FASTA again, or {_REBUILD}."
                )
            fits = header[:1] == b">" and header[1:].split()[:1] == [name.encode()] and between.endswith(b"\n")
            if not fits or (extra and previous_end):  # only the first header may follow comments
                raise InputError(f"{path} does not match its index {index} at {name}: {_REBUILD}.")
            previous_end = end
        handle.seek(previous_end)
        if handle.read(64).strip():
            raise InputError(f"{path} goes on after the last record of its index {index}: {_REBUILD}.")
