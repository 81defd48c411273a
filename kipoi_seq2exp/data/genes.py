"""Genes and their transcription start sites (TSS) from a table, a BED6 or a GTF, checked row by row.

A gene table is a DataFrame with `gene_id` (text), `chrom` (text), `tss` (int64, 0-based), `strand` ('+' or '-') and
every other column of the file under its own name: numbers where the whole column is numbers, text otherwise. The lines
of the file that the genes come from are kept in ``frame.attrs["lines"]`` (one text, which pandas copies and writes with
ease), so that later checks can name them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kipoi_seq2exp.data.naming import listing, other_name
from kipoi_seq2exp.data.tables import TextTable, read_table
from kipoi_seq2exp.data.text import as_whole, bed_records, gtf_records, label_fault
from kipoi_seq2exp.errors import InputError, excerpt
from kipoi_seq2exp.settings import suggest

if TYPE_CHECKING:
    import pandas as pd

    from kipoi_seq2exp.data.sequence import Genome

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "gene_id": ("gene_id", "ENSID", "ensembl_id", "ensembl_gene_id", "Gene stable ID", "geneid", "gene"),
    "chrom": ("chrom", "chr", "chromosome", "seqname", "seqnames"),
    "tss": ("tss", "tss_position", "Transcription start site (TSS)"),
    "strand": ("strand",),
}
"""Names that a table may give the four columns, most usual first; case and a leading # do not matter."""

NAME_COLUMN, TYPE_COLUMN = "gene_name", "gene_type"
"""Columns of a gene's symbol and of its type ("protein_coding"); a GTF has both."""

STRANDS: Mapping[str, str] = {"+": "+", "-": "-", "1": "+", "+1": "+", "-1": "-"}
"""Accepted ways to write a strand."""


def read_genes(
    source: str | Path | pd.DataFrame, gene_ids: Iterable[str] | None = None, gene_type: str | None = None
) -> pd.DataFrame:
    """Read a gene table.

    Parameters
    ----------
    source : str, Path or DataFrame
        A table with a header (.tsv, .txt, .csv; TSS 0-based), a BED6 (.bed; the TSS is the first base of the interval
        on the gene's strand) or a GTF (.gtf; the records of feature "gene"), each also as .gz; or such a table in
        memory.
    gene_ids : iterable of str, optional
        Keep these genes, in this order; an id with a version ("ENSG00000100181.21", as in a GTF) is also found without
        it and gets the id that was asked for; a symbol is found where the file has a column `NAME_COLUMN`.
    gene_type : str, optional
        Keep only the genes of this type ("protein_coding"); the file must have a column `TYPE_COLUMN`, as a GTF has.

    Returns
    -------
    DataFrame
        Columns gene_id, chrom, tss, strand, then the others; one row per gene.

    Raises
    ------
    InputError
        If the file is missing, damaged or empty, a column is missing, an id is found twice or not at all, or a value
        is not what its column needs; file and line are named.
    """
    frame, where = _read_text(source)
    if frame.empty:
        raise InputError(f"{where} holds no genes.")
    frame = _check_genes(frame, where)
    if gene_type is not None:
        frame = _of_type(frame, gene_type, where)
    return frame if gene_ids is None else _select(frame, list(gene_ids), where)


def place(genes: pd.DataFrame, row: int) -> str:
    """Return the words that name a row of a gene table in a message: "genes.tsv, line 4 (gene ENSG00000100181)"."""
    lines = genes.attrs.get("lines", "").split()
    number = f"line {lines[row]}" if len(lines) == len(genes) else f"row {row + 1}"
    gene_id = str(genes["gene_id"].iloc[row] or "") if "gene_id" in genes else ""
    name = f" (gene {gene_id})" if gene_id and label_fault(gene_id) is None else ""
    return f"{genes.attrs.get('source', 'gene table')}, {number}{name}"


def check_positions(genes: pd.DataFrame, genome: Genome) -> None:
    """Check that every TSS lies on a chromosome of the FASTA.

    Raises
    ------
    InputError
        If a chromosome is unknown ('1' against 'chr1' is told apart) or a TSS lies beyond its end; the row is named.
    """
    lengths = genome.lengths
    for row, (chrom, tss) in enumerate(zip(genes["chrom"], genes["tss"], strict=True)):
        if chrom not in lengths:
            other = other_name(chrom, lengths)
            hint = f"the FASTA names it '{other}'" if other else f"the FASTA has {listing(lengths)}"
            raise InputError(f"{place(genes, row)}: unknown chromosome '{chrom}' ({hint}).")
        if not 0 <= tss < lengths[chrom]:
            raise InputError(
                f"{place(genes, row)}: the TSS {tss} lies outside {chrom}, which is {lengths[chrom]:,} bp long "
                f"(0-based positions; is the table of another genome build?)."
            )


# ------------------------------------------------------------------------------------------------ the three formats


def _read_text(source: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the table as text in every column, with "source" and "lines" in its attrs, and how to name it."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        where = str(source.attrs.get("source", "gene table"))
        lines_text = source.attrs.get("lines", "")
        frame = source.reset_index(drop=True)
        frame.attrs = {"source": where, "lines": lines_text if len(lines_text.split()) == len(frame) else ""}
        return frame, where
    path = Path(source)
    where = str(path)
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending == ".gff3":
        raise InputError(f"{path}: GFF3 is not read; give the annotation as GTF (the same sites offer both).")
    if ending == ".bed":
        table = _read_bed(path)
    elif ending in (".gtf", ".gff", ".gff2"):
        table = _read_gtf(path)
    else:
        table = read_table(path, where)
    frame = table.frame()
    frame.attrs = {"source": where, "lines": " ".join(map(str, table.lines))}
    return frame, where


def _read_bed(path: Path) -> TextTable:
    table = TextTable(str(path), ["gene_id", "chrom", "tss", "strand", "gene_start", "gene_end"], [], [])
    for record in bed_records(path, table.where):
        if len(record.fields) < 6:
            raise InputError(
                f"{path}, line {record.line}: found {len(record.fields)} columns where BED6 has chrom, start, end, "
                "name, score, strand."
            )
        name, strand = record.fields[3], record.fields[5]
        tss = record.start if STRANDS.get(strand, "+") == "+" else record.end - 1
        table.rows.append([name, record.chrom, str(tss), strand, str(record.start), str(record.end)])
        table.lines.append(record.line)
    return table


def _read_gtf(path: Path) -> TextTable:
    columns = ["gene_id", "chrom", "tss", "strand", "gene_start", "gene_end", "gene_name", "gene_type"]
    table = TextTable(str(path), columns, [], [])
    for record in gtf_records(path, table.where):
        if record.feature != "gene":
            continue
        found = record.attributes()
        tss = record.start if record.strand == "+" else record.end - 1
        place = [record.chrom, str(tss), record.strand, str(record.start), str(record.end)]
        names = [found.get("gene_name", ""), found.get("gene_type", found.get("gene_biotype", ""))]
        table.rows.append([found.get("gene_id", ""), *place, *names])
        table.lines.append(record.line)
    return table


# -------------------------------------------------------------------------------------------------------- the checks


def _check_genes(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Give the four columns their names and types, the others numbers or text."""
    import pandas as pd

    found = {name: _find_column(frame.columns, name, where) for name in COLUMN_NAMES}
    attrs = frame.attrs
    plain = frame.rename(columns={old: new for new, old in found.items()})
    plain.attrs = attrs
    checked: dict[str, Any] = {"gene_id": _ids(plain)}
    plain["gene_id"] = checked["gene_id"]
    checked["chrom"] = _texts(plain, "chrom")
    checked["tss"] = _positions(plain)
    checked["strand"] = _strands(plain)
    for name in plain.columns:
        if name not in checked:
            checked[str(name)] = _numbers_or_text(plain[name])
    genes = pd.DataFrame(checked)
    genes.attrs = attrs
    return genes


def _find_column(columns: Iterable[Any], name: str, where: str) -> Any:
    present = {str(column).lower(): column for column in reversed(list(columns))}
    for candidate in COLUMN_NAMES[name]:
        if candidate.lower() in present:
            return present[candidate.lower()]
    raise InputError(
        f"{where} has no column '{name}' (also read: {', '.join(COLUMN_NAMES[name][1:]) or 'no other name'}); it has "
        f"{', '.join(map(str, present.values()))}."
    )


def _texts(frame: pd.DataFrame, name: str) -> list[str]:
    values = ["" if value is None or value != value else str(value).strip() for value in frame[name]]
    for row, value in enumerate(values):
        fault = label_fault(value)
        if fault:
            raise InputError(f"{place(frame, row)}: {name} {fault}.")
    return values


def _ids(frame: pd.DataFrame) -> list[str]:
    values = _texts(frame, "gene_id")
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        if value in first:
            raise InputError(
                f"{place(frame, row)}: this gene is already in {place(frame, first[value])}; keep one of the two."
            )
        first[value] = row
    return values


def _positions(frame: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    positions = np.empty(len(frame), dtype=np.int64)
    for row, value in enumerate(frame["tss"]):
        number = as_whole(str(value).strip(), decimals=True)
        if number is None:
            raise InputError(f"{place(frame, row)}: the TSS '{excerpt(value)}' is not a whole number.")
        if number < 0:
            raise InputError(f"{place(frame, row)}: the TSS {value} is negative.")
        positions[row] = number
    return positions


def _strands(frame: pd.DataFrame) -> list[str]:
    values = _texts(frame, "strand")
    for row, value in enumerate(values):
        if value not in STRANDS:
            raise InputError(f"{place(frame, row)}: the strand '{value}' is neither '+' nor '-'.")
    return [STRANDS[value] for value in values]


def _numbers_or_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return numbers where every entry that is there is a number, else the column as it is."""
    import pandas as pd

    if column.dtype != object and not pd.api.types.is_string_dtype(column):
        return column
    missing = column.isin(MISSING) | column.isna()
    numbers = pd.to_numeric(column.where(~missing), errors="coerce")
    if (numbers.isna() & ~missing).any():
        return column
    return numbers.astype(np.float64) if missing.any() else numbers


MISSING: Sequence[str] = ("", "NA", "NaN", "nan", "N/A", "null", "None")
"""Entries of a table that mean "no value"."""


def _of_type(genes: pd.DataFrame, gene_type: str, where: str) -> pd.DataFrame:
    """Keep the genes of one type."""
    if TYPE_COLUMN not in genes:
        raise InputError(f"{where} has no column '{TYPE_COLUMN}', which a gene type is read from: a GTF has it.")
    types = genes[TYPE_COLUMN].astype(str)
    if not (types == gene_type).any():
        raise InputError(f"{where} has no gene of type '{gene_type}'{suggest(gene_type, set(types))}.")
    return _rows(genes, np.flatnonzero(types == gene_type).tolist())


def _select(genes: pd.DataFrame, gene_ids: list[str], where: str) -> pd.DataFrame:
    names = GeneNames(genes, where)
    chosen: dict[int, str] = {}
    for gene_id in gene_ids:
        row = names.row(gene_id)
        if row in chosen:
            also = f" (as '{chosen[row]}' too)" if chosen[row] != gene_id else ""
            raise InputError(f"the list of gene ids names the gene '{gene_id}' twice{also}.")
        chosen[row] = gene_id
    if not chosen:
        raise InputError("the list of gene ids is empty.")
    selected = _rows(genes, list(chosen))
    ids = [gene_id if names.is_id(gene_id) else own for gene_id, own in zip(gene_ids, selected["gene_id"], strict=True)]
    selected["gene_id"] = ids
    return selected


def _rows(genes: pd.DataFrame, rows: list[int]) -> pd.DataFrame:
    """Return some rows of a gene table, with the file's lines that they come from."""
    kept = genes.iloc[rows].reset_index(drop=True)
    lines = genes.attrs["lines"].split()
    kept.attrs = {"source": genes.attrs["source"], "lines": " ".join(lines[row] for row in rows if lines)}
    return kept


class GeneNames:
    """Finds the genes of a table by id, by id without its version, or by symbol (`NAME_COLUMN`).

    Parameters
    ----------
    genes : DataFrame
        With the column gene_id, and the symbols if there are any.
    where : str
        What holds the genes; starts every message.
    """

    def __init__(self, genes: pd.DataFrame, where: str) -> None:
        self.where = where
        self._ids: dict[str, int] = {}
        self._symbols: dict[str, list[int]] = {}
        for row, gene_id in enumerate(genes["gene_id"]):
            self._ids.setdefault(gene_id.split(".")[0], row)
        self._ids.update({gene_id: row for row, gene_id in enumerate(genes["gene_id"])})
        for row, symbol in enumerate(genes[NAME_COLUMN].astype(str) if NAME_COLUMN in genes else ()):
            if symbol not in MISSING:
                self._symbols.setdefault(symbol, []).append(row)
        self._shown = list(genes["gene_id"])

    def is_id(self, name: str) -> bool:
        """Whether a name is an id of the table, with or without its version."""
        return name in self._ids

    def row(self, name: str) -> int:
        """Return the row of a gene.

        Raises
        ------
        InputError
            If there is none, or a symbol stands for several genes.
        """
        if name in self._ids:
            return self._ids[name]
        rows = self._symbols.get(name, [])
        if len(rows) > 1:
            ids = ", ".join(self._shown[row] for row in rows)
            raise InputError(f"{self.where} has several genes with the symbol '{name}' ({ids}): give the id.")
        if not rows:
            known = {**self._ids, **self._symbols}
            raise InputError(f"{self.where} has no gene '{name}'{suggest(name, known) if len(known) < MANY else ''}.")
        return rows[0]


MANY = 100_000  # names among which the nearest is not looked for
