"""The binary and sequence formats of the example: arrays in, files out, the same bytes for the same arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pyBigWig


def write_bigwig(path: Path, track: Mapping[str, np.ndarray], lengths: Mapping[str, int], step_bp: int) -> None:
    """Write one value per `step_bp` as runs of equal value; zeros are left out, as measured tracks do."""
    with pyBigWig.open(str(path), "w") as out:
        out.addHeader(list(lengths.items()))
        for chrom, values in track.items():
            edges = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [values.size]])
            starts, ends, heights = edges[:-1], edges[1:], values[edges[:-1]]
            kept = heights > 0
            starts, ends = (starts[kept] * step_bp).tolist(), (ends[kept] * step_bp).tolist()
            out.addEntries([chrom] * len(starts), starts, ends=ends, values=heights[kept].astype(float).tolist())


def write_cooler(
    path: Path, counts: Mapping[str, np.ndarray], lengths: Mapping[str, int], bin_bp: int, assembly: str
) -> None:
    """Write symmetric contact counts, one matrix per chromosome, as a cooler (schema 3) with Juicer's VC divisors."""
    sizes = [matrix.shape[0] for matrix in counts.values()]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    bins = [np.arange(size) * bin_bp for size in sizes]
    nonzero = [np.nonzero(np.triu(matrix)) for matrix in counts.values()]
    bin1 = np.concatenate([rows + offset for (rows, _), offset in zip(nonzero, offsets, strict=False)])
    bin2 = np.concatenate([columns + offset for (_, columns), offset in zip(nonzero, offsets, strict=False)])
    count = np.concatenate([matrix[place] for matrix, place in zip(counts.values(), nonzero, strict=True)])
    ends = [np.minimum(start + bin_bp, length) for start, length in zip(bins, lengths.values(), strict=True)]
    content = {
        "chroms/name": np.array(list(lengths), dtype="S"),
        "chroms/length": np.array(list(lengths.values()), dtype=np.int32),
        "bins/chrom": np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        "bins/start": np.concatenate(bins).astype(np.int32),
        "bins/end": np.concatenate(ends).astype(np.int32),
        "bins/VC": np.concatenate([_coverage_divisors(matrix) for matrix in counts.values()]),
        "pixels/bin1_id": bin1.astype(np.int64),
        "pixels/bin2_id": bin2.astype(np.int64),
        "pixels/count": count.astype(np.int32),
        "indexes/bin1_offset": np.searchsorted(bin1, np.arange(offsets[-1] + 1)).astype(np.int64),
        "indexes/chrom_offset": offsets.astype(np.int64),
    }
    attributes = {
        "format": "HDF5::Cooler",
        "format-version": 3,
        "format-url": "https://github.com/open2c/cooler",
        "bin-type": "fixed",
        "bin-size": bin_bp,
        "storage-mode": "symmetric-upper",
        "genome-assembly": assembly,
        "generated-by": "make_example.py",
        "creation-date": "2026-01-01T00:00:00",  # fixed, so that the file never changes
        "metadata": "{}",
        "nchroms": len(sizes),
        "nbins": int(offsets[-1]),
        "nnz": count.size,
        "sum": int(count.sum()),
    }
    with h5py.File(path, "w") as out:
        for name, values in content.items():
            out.create_dataset(name, data=values, compression="gzip", shuffle=True, track_times=False)
        out["bins/VC"].attrs["divisive_weights"] = True
        for name, value in attributes.items():
            out.attrs[name] = value


def _coverage_divisors(counts: np.ndarray) -> np.ndarray:
    """Give each bin its VC divisor: its coverage, scaled so that the sum of all contacts stays what it was."""
    coverage = counts.sum(axis=0).astype(float)
    coverage[coverage == 0] = np.nan
    scale = np.sqrt(np.nansum(counts / np.outer(coverage, coverage)) / counts.sum())
    return np.asarray(np.round(coverage * scale, 6))
