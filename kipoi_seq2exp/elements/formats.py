"""Called elements in the formats that browsers and tools read: TSV, BED6+, narrowPeak, BEDPE, UCSC interact.

Contract: one table of elements in, as `find.find_elements` makes it, sorted by position; the same rows in the
same order in every file. Coordinates are 0-based and half-open in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kipoi_seq2exp.data.tables import cell, write_lines, write_tsv
from kipoi_seq2exp.elements.calls import COLUMNS

PREFIX = "elements"
PROMOTERS = "promoters.tsv"
_COLOUR = "122,62,157"
_LEAST_FDR = 1e-6  # -log10 of it stands for "none under the null"


def write_element_files(
    elements: pd.DataFrame, promoters: pd.DataFrame, folder: Path, header: Sequence[str], cell_type: str = "."
) -> tuple[Path, ...]:
    """Write every format of a set of elements, and the table of promoters; return the files.

    Parameters
    ----------
    elements : DataFrame
        Columns of `calls.COLUMNS` and more, `name`, `tss`, `peak` (offset of the highest mask) and `gene_strand`.
    promoters : DataFrame
        A row per gene: what the model always keeps; never part of the calls.
    folder : Path
        Must exist.
    header : sequence of str
        Lines for the reader; the first says whether weights are provisional.
    cell_type : str
        The experiment's name in the interact file.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    path = folder / PREFIX
    hidden = ["peak", "gene_strand"]
    write_tsv(elements.drop(columns=hidden), path.with_suffix(".tsv"), header)
    write_tsv(elements[list(COLUMNS)], path.with_suffix(".bed"), header, comment_names=True)
    comments = [f"# {line}" for line in header[:1]]
    formats: dict[str, Callable[[pd.DataFrame], Iterator[str]]] = {
        ".narrowPeak": narrow_peak_lines,
        ".bedpe": bedpe_lines,
        ".interact": lambda table: interact_lines(table, cell_type),
    }
    for ending, lines in formats.items():
        write_lines([*comments, *lines(elements)], path.with_suffix(ending))
    write_tsv(promoters, folder / PROMOTERS, header)
    return (*(path.with_suffix(ending) for ending in (".tsv", ".bed", *formats)), folder / PROMOTERS)


def narrow_peak_lines(elements: pd.DataFrame) -> Iterator[str]:
    """Yield ENCODE narrowPeak (BED6+4): signal is the mean mask, p is not computed (-1), q is that of the null."""
    for row in elements.itertuples():
        fdr = getattr(row, "fdr", np.nan)
        q_value = -1.0 if np.isnan(fdr) else -np.log10(max(fdr, _LEAST_FDR))
        values = (row.chrom, row.start, row.end, row.name, row.score, ".", row.mean_mask, -1, q_value, row.peak)
        yield "\t".join(map(cell, values))


def bedpe_lines(elements: pd.DataFrame) -> Iterator[str]:
    """Yield BEDPE: the element, then the base of the gene's TSS."""
    yield "#chrom1\tstart1\tend1\tchrom2\tstart2\tend2\tname\tscore\tstrand1\tstrand2\tgene_id\tmean_mask\tdistance"
    for row in elements.itertuples():
        ends = (row.chrom, row.start, row.end, row.chrom, row.tss, row.tss + 1)
        more = (row.name, row.score, ".", row.gene_strand, row.gene_id, row.mean_mask, row.distance_to_tss)
        yield "\t".join(map(cell, (*ends, *more)))


def interact_lines(elements: pd.DataFrame, cell_type: str) -> Iterator[str]:
    """Yield the UCSC interact format (an arc from each element, the source, to the gene's TSS, the target)."""
    yield 'track type=interact name="Seq2Exp" description="Seq2Exp elements and their genes" visibility=full'
    yield (
        "#chrom\tchromStart\tchromEnd\tname\tscore\tvalue\texp\tcolor\tsourceChrom\tsourceStart\tsourceEnd\tsourceName"
        "\tsourceStrand\ttargetChrom\ttargetStart\ttargetEnd\ttargetName\ttargetStrand"
    )
    for row in elements.itertuples():
        span = (row.chrom, min(row.start, row.tss), max(row.end, row.tss + 1))
        value = (row.name, row.score, row.mean_mask, cell_type.replace(" ", "_") or ".", _COLOUR)
        source = (row.chrom, row.start, row.end, row.name, ".")
        target = (row.chrom, row.tss, row.tss + 1, row.gene_id, row.gene_strand)
        yield "\t".join(map(cell, (*span, *value, *source, *target)))
