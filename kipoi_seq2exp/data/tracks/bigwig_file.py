"""The skeleton of a bigWig, checked before the C library behind pyBigWig reads it: a wrong one ends the process.

Contract: after `check_bigwig` every offset, size and count that leads from the header to the data lies inside the file,
and no index leads back to itself. What the blocks of data hold is not looked at; most writers compress them, which
carries a checksum of its own. The format is that of Kent et al. 2010 (Bioinformatics 26:2204, supplement).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.data.handles import file_ends
from kipoi_seq2exp.errors import InputError

ENDINGS = (".bigwig", ".bw")  # of names, in small letters
_MAGICS = (struct.pack("<I", 0x888FFC26), struct.pack(">I", 0x888FFC26))
_BIGBED_MAGICS = (struct.pack("<I", 0x8789F2EB), struct.pack(">I", 0x8789F2EB))
_CHROM_MAGIC, _INDEX_MAGIC = 0x78CA8C91, 0x2468ACE0
_HEADER_BYTES, _ZOOM_BYTES, _SUMMARY_BYTES = 64, 24, 40
MOST_ZOOMS = 64  # levels: a chromosome of 2^32 bases has 16 of a factor of 4
MOST_NAME_BYTES = 1_024  # of a chromosome
MOST_BLOCK_BYTES = 1 << 30  # of a block, decompressed
MOST_CHROMS = 10_000_000
MOST_DEPTH = 32  # of a tree


class _Damaged(Exception):
    """What is wrong with the file, in a few words."""


@dataclass(frozen=True)
class BigWigSummary:
    """What the header says about the values; NaN and infinities as stored.

    Attributes
    ----------
    bases : int
        Bases that have a value.
    minimum : float
        Lowest value; NaN where the file does not say.
    """

    bases: int
    minimum: float

    @property
    def may_have_negative(self) -> bool:
        """Whether the file may hold values below 0."""
        return self.bases > 0 and not self.minimum >= 0


def check_bigwig(path: Path, where: str) -> BigWigSummary:
    """Check that a file is a bigWig whose header and indexes lead to places inside it.

    Parameters
    ----------
    path : Path
    where : str
        Name of the file, for messages.

    Raises
    ------
    InputError
        If it is missing, something else, cut off, or damaged.
    """
    size, head, tail = file_ends(path, where, "a bigWig", (_HEADER_BYTES, 4))
    if head[:4] not in _MAGICS:
        raise InputError(f"{where} is not a bigWig: {_describe(head)}.")
    if len(head) < _HEADER_BYTES or tail != head[:4] or max(_offsets(head)) >= size:
        raise InputError(f"{where} is truncated at {size:,} bytes (a bigWig ends with its signature): fetch it again.")
    try:
        with path.open("rb") as handle:
            return _Skeleton(handle, size, "<" if head[:4] == _MAGICS[0] else ">").check(head)
    except _Damaged as error:
        raise InputError(f"{where} is damaged ({error}): fetch it again.") from None
    except OSError as error:
        raise InputError(f"{where} cannot be read ({error.strerror}): a bigWig is needed.") from None


def _offsets(head: bytes) -> tuple[int, ...]:
    """Return where the chromosomes, the data and the index lie."""
    return struct.unpack(("<" if head[:4] == _MAGICS[0] else ">") + "QQQ", head[8:32])


class _Skeleton:
    """An open bigWig, of which only what lies inside the file is read."""

    def __init__(self, handle: BinaryIO, size: int, order: str) -> None:
        self._handle, self._size, self._order = handle, size, order

    def check(self, head: bytes) -> BigWigSummary:
        """Check everything; return what the header says about the values."""
        version, zooms = self._unpack("HH", head[4:8])
        summary_at, block_bytes = self._unpack("QI", head[44:56])
        if not 1 <= version <= 4 or zooms > MOST_ZOOMS or block_bytes > MOST_BLOCK_BYTES:
            raise _Damaged(f"version {version}, {zooms:,} overviews, blocks of {block_bytes:,} bytes")
        for number in range(zooms):
            _, _, data_at, index_at = self._unpack(
                "IIQQ", self._bytes(_HEADER_BYTES + number * _ZOOM_BYTES, _ZOOM_BYTES)
            )
            if max(data_at, index_at) >= self._size:
                raise _Damaged("an overview lies beyond its end")
        chroms_at, _, index_at = _offsets(head)
        self._check_chroms(chroms_at)
        self._check_index(index_at)
        if not summary_at:
            return BigWigSummary(1, float("nan"))
        bases, minimum = self._unpack("Qd", self._bytes(summary_at, _SUMMARY_BYTES)[:16])
        return BigWigSummary(bases, minimum)

    def _unpack(self, kinds: str, data: bytes) -> tuple[Any, ...]:
        return struct.unpack(self._order + kinds, data)

    def _bytes(self, at: int, count: int) -> bytes:
        if at < 0 or at + count > self._size:
            raise _Damaged(f"it says that something lies at byte {at:,} of {self._size:,}")
        self._handle.seek(at)
        data = self._handle.read(count)
        if len(data) < count:
            raise _Damaged("it became shorter")
        return data

    def _check_chroms(self, at: int) -> None:
        """Check that each chromosome has a number of its own, because the C library fills a list by these numbers."""
        magic, _, key_bytes, value_bytes, count = self._unpack("IIIIQ", self._bytes(at, 32)[:24])
        if magic != _CHROM_MAGIC or not 0 < key_bytes <= MOST_NAME_BYTES or value_bytes != 8 or count > MOST_CHROMS:
            raise _Damaged("its list of chromosomes cannot be")
        leaf = np.dtype([("key", f"S{key_bytes}"), ("number", f"{self._order}u4"), ("bases", f"{self._order}u4")])
        leaves = list(self._leaves(at + 32, leaf))
        numbers = np.sort(np.concatenate([np.empty(0, "u4"), *(items["number"] for items in leaves)]))
        if len(numbers) != count or (numbers != np.arange(count)).any():
            raise _Damaged(f"its list of {count:,} chromosomes does not hold each once")
        try:
            for key in (key for items in leaves for key in items["key"].tolist()):
                key.decode("utf-8")
        except UnicodeDecodeError:
            raise _Damaged("the name of a chromosome is not text") from None

    def _check_index(self, at: int) -> None:
        """Check where the blocks of data lie."""
        if self._unpack("I", self._bytes(at, 48)[:4])[0] != _INDEX_MAGIC:
            raise _Damaged("its index cannot be")
        leaf = np.dtype([("bounds", "V16"), ("at", f"{self._order}u8"), ("bytes", f"{self._order}u8")])
        for items in self._leaves(at + 48, leaf):
            if (items["at"] >= self._size).any() or (items["bytes"] > self._size - items["at"]).any():
                raise _Damaged("a block of data lies beyond its end")

    def _leaves(self, root: int, leaf: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """Yield the items of each leaf of a tree; a branch's item has the key of a leaf's, and the place of a node."""
        branch = np.dtype([("key", leaf[0]), ("node", f"{self._order}u8")])
        waiting, seen = [(root, 0)], {root}
        while waiting:
            at, depth = waiting.pop()
            is_leaf, _, count = self._unpack("BBH", self._bytes(at, 4))
            kind = leaf if is_leaf else branch
            items = np.frombuffer(self._bytes(at + 4, count * kind.itemsize), dtype=kind)
            if is_leaf:
                yield items
                continue
            nodes = [int(node) for node in items["node"]]
            if depth == MOST_DEPTH or len(set(nodes)) < count or not seen.isdisjoint(nodes):
                raise _Damaged("an index leads back to itself")
            seen.update(nodes)
            waiting += [(node, depth + 1) for node in nodes]


def _describe(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it holds a web page (an error page saved under this name?); fetch the file itself"
    if head[:4] in _BIGBED_MAGICS:
        return "it is a bigBed; convert it to BED (bigBedToBed)"
    if head[:2] == b"\x1f\x8b":
        return "it is compressed by gzip; decompress it"
    start = head[:16].decode("latin-1")
    return f"it starts with {start!r} (bedGraph and peaks are known by their names: .bedGraph, .narrowPeak, .bed)"
