"""A bigWig writer whose failures are plain `OSError`: the C library behind pyBigWig crashes or hangs on a full disk.

Contract: values arrive as finished pieces of consecutive bases, ordered by chromosome and position; the file can be
read by pyBigWig, IGV and the UCSC browser. Values are stored base by base, or as runs where that is shorter; overviews
(zoom levels) hold count, minimum, maximum, sum and sum of squares. The format is that of Kent et al. 2010
(Bioinformatics 26:2204, supplement); everything is little-endian.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_MAGIC, _CHROM_MAGIC, _INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_HEADER = "<IHHQQQHHQQIQ"
_ZOOM_HEADER = "<IIQQ"
_SUMMARY = "<Qdddd"
_BLOCK_HEADER = "<IIIIIBBH"
_RUNS, _BASES = 1, 3  # kinds of block: bedGraph, fixed step
_PER_BLOCK = 4_096  # items of a block of data, and records of a block of a zoom level
_FANOUT = 256  # children of a node of an index
ZOOM_BP = tuple(256 * 4**level for level in range(7))  # 256 bp to 1 Mb

_Bounds = tuple[int, int, int, int]  # chromosome and base of the start, and of the end

_ZOOM_RECORD = np.dtype(
    [(name, "<u4") for name in ("chrom", "start", "end", "count")]
    + [(name, "<f4") for name in ("min", "max", "sum", "squares")]
)
_RUN = np.dtype([("start", "<u4"), ("end", "<u4"), ("value", "<f4")])


@dataclass(frozen=True)
class _Entry:
    """An entry of the index: a block with the bases `start` to `end` of a chromosome, `size` bytes at `offset`."""

    chrom: int
    start: int
    end: int
    offset: int
    size: int


@dataclass
class _Overview:
    """Bins of one width, in genome order; the last one may still grow."""

    width_bp: int
    parts: bytearray = field(default_factory=bytearray)  # thousands of small arrays would split up the heap for good

    def add(self, chrom: int, start: int, values: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Summarise a piece by bin, from its values and their squares."""
        bins = np.arange(start // self.width_bp, (start + len(values) - 1) // self.width_bp + 1)
        edges = np.maximum(bins * self.width_bp - start, 0)
        ends = np.minimum((bins + 1) * self.width_bp - start, len(values))
        records = np.zeros(len(bins), dtype=_ZOOM_RECORD)
        records["chrom"], records["start"], records["end"] = chrom, edges + start, ends + start
        records["count"] = ends - edges
        records["min"], records["max"] = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
        records["sum"], records["squares"] = np.add.reduceat(values, edges), np.add.reduceat(squares, edges)
        self.parts += records.tobytes()

    def records(self) -> NDArray[Any]:
        """Return the bins; the two halves of a bin that two pieces share are joined."""
        halves = np.frombuffer(self.parts, dtype=_ZOOM_RECORD)
        if not len(halves):
            return halves
        place = halves["start"] // self.width_bp
        first = np.flatnonzero(np.concatenate([[True], (np.diff(place) != 0) | (np.diff(halves["chrom"]) != 0)]))
        joined = halves[first]
        last = np.append(first[1:], len(halves)) - 1
        joined["end"] = halves["end"][last]
        for name in ("count", "sum", "squares"):
            joined[name] = np.add.reduceat(halves[name], first)
        joined["min"], joined["max"] = (
            np.minimum.reduceat(halves["min"], first),
            np.maximum.reduceat(halves["max"], first),
        )
        return joined


class BigWigWriter:
    """Writes one bigWig: `add` pieces in order, then `close`.

    Parameters
    ----------
    handle : binary file, seekable
    lengths : Mapping
        Chromosomes and their lengths in bp; pieces must arrive in their order.

    Raises
    ------
    OSError
        If a block cannot be written; the file is then unusable.
    """

    def __init__(self, handle: BinaryIO, lengths: Mapping[str, int]) -> None:
        self._handle = handle
        self._ids = {chrom: number for number, chrom in enumerate(lengths)}
        self._entries: list[_Entry] = []
        self._overviews = [_Overview(width) for width in ZOOM_BP]
        self._total = np.array([0, np.inf, -np.inf, 0, 0])  # count, min, max, sum, squares
        self._block_bytes = 0
        handle.write(bytes(struct.calcsize(_HEADER) + len(ZOOM_BP) * struct.calcsize(_ZOOM_HEADER)))
        self._summary_at = handle.tell()
        handle.write(bytes(struct.calcsize(_SUMMARY)))
        self._chroms_at = handle.tell()
        handle.write(_chrom_tree(lengths, self._ids))
        self._data_at = handle.tell()
        handle.write(struct.pack("<Q", 0))

    def add(self, chrom: str, start: int, values: NDArray[np.float32]) -> None:
        """Add the values of consecutive bases from `start` on.

        Parameters
        ----------
        chrom : str
        start : int
        values : ndarray of float32, (n,)
            Finite numbers.
        """
        if not len(values):
            return
        number, exact = self._ids[chrom], values.astype(np.float64)
        changes = np.flatnonzero(np.diff(values)) + 1
        if 3 * len(changes) < len(values):  # a run takes three numbers, a base one
            bounds = np.concatenate([[0], changes, [len(values)]])
            runs = np.zeros(len(bounds) - 1, dtype=_RUN)
            runs["start"], runs["end"], runs["value"] = bounds[:-1] + start, bounds[1:] + start, values[bounds[:-1]]
            for block in _blocks(runs):
                self._put(number, int(block["start"][0]), int(block["end"][-1]), _RUNS, block)
        else:
            at = start
            for block in _blocks(values.astype("<f4")):
                self._put(number, at, at + len(block), _BASES, block)
                at += len(block)
        exact_squares = exact**2
        for overview in self._overviews:
            overview.add(number, start, exact, exact_squares)
        count, low, high, total, squares = self._total
        self._total[:] = (
            count + len(exact),
            min(low, exact.min()),
            max(high, exact.max()),
            total + exact.sum(),
            squares + exact_squares.sum(),
        )

    def close(self) -> None:
        """Write the indexes, the overviews and the header; the file is then complete."""
        handle = self._handle
        index_at = handle.tell()
        handle.write(_index(self._entries, index_at))
        zooms = [zoom for overview in self._overviews if (zoom := self._write_overview(overview)) is not None]
        handle.write(struct.pack("<I", _MAGIC))
        handle.seek(0)
        places = (self._chroms_at, self._data_at, index_at)
        buffer = (len(zooms), *places, 0, 0, 0, self._summary_at, self._block_bytes, 0)
        handle.write(struct.pack(_HEADER, _MAGIC, 4, *buffer))
        for zoom in zooms:
            handle.write(struct.pack(_ZOOM_HEADER, *zoom))
        handle.seek(self._summary_at)
        numbers = [0.0 if np.isinf(number) else float(number) for number in self._total]
        handle.write(struct.pack(_SUMMARY, int(numbers[0]), *numbers[1:]))
        handle.seek(self._data_at)
        handle.write(struct.pack("<Q", len(self._entries)))
        handle.flush()

    def _put(self, chrom: int, start: int, end: int, kind: int, items: NDArray[Any]) -> None:
        step = (1, 1) if kind == _BASES else (0, 0)
        head = struct.pack(_BLOCK_HEADER, chrom, start, end, *step, kind, 0, len(items))
        self._entries.append(self._compressed(head + items.tobytes(), chrom, start, end))

    def _compressed(self, block: bytes, chrom: int, start: int, end: int) -> _Entry:
        self._block_bytes = max(self._block_bytes, len(block))
        packed, offset = zlib.compress(block), self._handle.tell()
        self._handle.write(packed)
        return _Entry(chrom, start, end, offset, len(packed))

    def _write_overview(self, overview: _Overview) -> tuple[int, int, int, int] | None:
        """Write a zoom level and return its header, or None if no base has a value."""
        records = overview.records()
        if not len(records):
            return None
        data_at = self._handle.tell()
        self._handle.write(struct.pack("<I", len(records)))
        entries = []
        for chrom in np.unique(records["chrom"]):  # a block holds one chromosome
            for block in _blocks(records[records["chrom"] == chrom]):
                bounds = int(block["start"][0]), int(block["end"][-1])
                entries.append(self._compressed(block.tobytes(), int(chrom), *bounds))
        index_at = self._handle.tell()
        self._handle.write(_index(entries, index_at))
        return overview.width_bp, 0, data_at, index_at


def _blocks(items: NDArray[Any]) -> list[NDArray[Any]]:
    return [items[first : first + _PER_BLOCK] for first in range(0, len(items), _PER_BLOCK)]


def _chrom_tree(lengths: Mapping[str, int], ids: Mapping[str, int]) -> bytes:
    """Return the tree of chromosome names: one leaf, sorted by name."""
    key_bytes = max(len(chrom.encode()) for chrom in lengths)
    head = struct.pack("<IIIIQQ", _CHROM_MAGIC, len(lengths), key_bytes, 8, len(lengths), 0)
    leaf = [struct.pack("<BBH", 1, 0, len(lengths))]
    for chrom in sorted(lengths):
        leaf.append(chrom.encode().ljust(key_bytes, b"\0") + struct.pack("<II", ids[chrom], lengths[chrom]))
    return head + b"".join(leaf)


def _index(entries: Sequence[_Entry], at: int) -> bytes:
    """Return the R-tree over blocks that are sorted by position; `at` is its own offset in the file."""
    levels = [_groups([_bounds(entry, entry) for entry in entries])]  # of each node, the bounds of its children
    while len(levels[-1]) > 1:
        levels.append(_groups([(*node[0][:2], *node[-1][2:]) for node in levels[-1]]))
    whole = (*levels[-1][0][0][:2], *levels[-1][0][-1][2:]) if entries else (0, 0, 0, 0)
    head = struct.pack("<IIQIIIIQII", _INDEX_MAGIC, _FANOUT, len(entries), *whole, at, 1, 0)
    written, at = [head], at + len(head)
    for depth in range(len(levels) - 1, 0, -1):  # from the root down; a node's children lie in the next level
        at += sum(4 + 24 * len(node) for node in levels[depth])
        child_bytes = 32 if depth == 1 else 24
        child_at = at
        children = iter(levels[depth - 1])
        for node in levels[depth]:
            written.append(struct.pack("<BBH", 0, 0, len(node)))
            for bounds in node:
                written.append(struct.pack("<IIIIQ", *bounds, child_at))
                child_at += 4 + child_bytes * len(next(children))
    blocks = iter(entries)
    for node in levels[0]:
        written.append(struct.pack("<BBH", 1, 0, len(node)))
        for bounds in node:
            block = next(blocks)
            written.append(struct.pack("<IIIIQQ", *bounds, block.offset, block.size))
    return b"".join(written)


def _bounds(first: _Entry, last: _Entry) -> _Bounds:
    return first.chrom, first.start, last.chrom, last.end


def _groups(children: list[_Bounds]) -> list[list[_Bounds]]:
    return [children[first : first + _FANOUT] for first in range(0, len(children), _FANOUT)] or [[]]
