"""Text files: whatever the machine that wrote them, each reader gives the same; what is not text is one sentence."""

from __future__ import annotations

import gzip
import os
import re

import numpy as np
import pytest

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.genes import read_genes
from kipoi_seq2exp.data.regions import Regions
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tables import read_table
from kipoi_seq2exp.data.text import GtfRecord, as_whole, bed_records, gtf_records, label_fault, text_lines, whole_number
from kipoi_seq2exp.data.tracks.bedgraph import BedGraphTrack, PeakFileTrack
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.windows import parse_region
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.settings import read_yaml

DRESSED = {
    "plain": lambda text: text.encode(),
    "BOM": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "gz with both": lambda text: gzip.compress(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
    "no end of the last line": lambda text: text.rstrip("\n").encode(),
}


@pytest.mark.parametrize("dress", DRESSED)
def test_every_reader_reads_the_same_however_the_file_was_written(tiny, tmp_path, dress):
    def dressed(text, name):
        path = tmp_path / name
        path.write_bytes(DRESSED[dress](text))
        return path

    blacklist = Regions(dressed(tiny.blacklist.read_text(), "b.bed"))
    np.testing.assert_array_equal(blacklist.mask("chr1", 0, 30_000), Regions(tiny.blacklist).mask("chr1", 0, 30_000))
    steps = dressed("chr1\t10\t20\t1.5\nchr1\t30\t40\t2\n", "s.bedGraph")
    assert BedGraphTrack(steps, TrackSpec("s")).values("chr1", 0, 50).sum() == 35
    peaks = dressed("chr1\t10\t20\tp\t7\t.\t3\n", "p.narrowPeak")
    assert PeakFileTrack(peaks, TrackSpec("s")).values("chr1", 0, 50).sum() == 30
    for name in ("genes", "bed", "gtf"):
        source = getattr(tiny, name)
        read = read_genes(dressed(source.read_text(), f"x{source.suffix}"))
        assert read.equals(read_genes(source)), name


PIPED = {
    "blacklist": Regions,
    "gene table": read_genes,
    "bigWig": lambda path: open_signal(path, TrackSpec("s")),
    "FASTA": Genome,
    "YAML": read_yaml,
}


@pytest.mark.parametrize("reader", PIPED)
def test_a_pipe_is_refused_at_once(tmp_path, reader):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"cannot be read \(it is a pipe or a device.*save it as a file first"):
        PIPED[reader](path)


@pytest.mark.parametrize("text", ["³", "٣", "1_0", "9" * 5_000, "9" * 19, "5.0", "1e3", "0x1", "+-5", "--5"])
def test_what_is_no_whole_number_is_told_with_line_and_column(tmp_path, text):
    assert as_whole(text) is None
    path = tmp_path / "x.bed"
    path.write_text(f"chr1\t5\t9\nchr1\t1\t{text}\n")
    with pytest.raises(
        InputError, match=r"x\.bed, line 2: end \(column 3\) is '.{1,40}', not a whole number"
    ) as raised:
        list(bed_records(path, str(path)))
    assert len(str(raised.value)) < 300


def test_whole_numbers_are_read():
    assert [as_whole(text) for text in ("", " 5", ".")] == [None] * 3
    assert [as_whole(text) for text in ("0", "-7", "+7", "007", "9" * 18)] == [0, -7, 7, 7, 10**18 - 1]
    assert [as_whole(text, decimals=True) for text in ("5.0", "5.", "1e+05", "5.5", "1e99", "9e15", "1e-1")] == [
        5, 5, 100_000, None, None, 9 * 10**15, None,
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"^a, line 1: POS is '9{36} \.\.\.', not a whole number of at most 18 dig"):
        whole_number("9" * 5_000, "a, line 1", "POS")
    for text in ("chr1:,-5", f"chr1:1-{'9' * 5_000}", "chr1:\u0661-\u0662"):
        with pytest.raises(ConfigError, match="is not a region"):
            parse_region(text)


# ------------------------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("name", ["A\tB", "A\nB", "A\rB", "#A", "A\0", "A\x1b[31m", "A\u2028B", "A\x85B", ""])
def test_names_that_would_shift_columns_have_a_fault(name):
    assert label_fault(name)


@pytest.mark.parametrize(
    "name", ["ENSG00000100181.21", "HLA-A", "GRCh38#0#chr1", "a b", "naïve", "5'ase", "$x$", "遺伝子"]
)
def test_other_names_have_none(name):
    assert label_fault(name) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", 'gene_id,chrom,tss,strand\n"A\tB",chr1,5,+\n', r"x.csv, line 2: gene_id 'A\\tB' holds a tab"),
        ("x.tsv", "gene_id\tchrom\ttss\tstrand\n#A\tchr1\t5\t+\n", "gene_id '#A' begins with #"),
        ("x.tsv", "gene_id\tchrom\ttss\tstrand\nA\x0bB\tchr1\t5\t+\n", r"gene_id 'A\\x0bB' holds"),
        ("x.bed", "chr1\t5\t9\t#A\t0\t+\n", "gene_id '#A' begins with #"),
        ("x.gtf", 'chr1\tt\tgene\t5\t9\t.\t+\t.\tgene_id "#A";\n', "gene_id '#A' begins with #"),
        ("x.gtf", 'chr1\tt\tgene\t5\t9\t.\t+\t.\tgene_id "A\tB";\n', "it has 10 columns"),
    ],
)  # fmt: skip
def test_no_gene_has_such_a_name(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_genes(path)


# --------------------------------------------------------------------------------------------------------------- GTF


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('gene_id "A"; note "x; gene_id "WRONG""', "A"),
        ('gene_id "A"; note "x; gene_id "WRONG"; y"; level 2', "A"),
        (r'note "x; gene_id \"WRONG\"; y"; gene_id "A"; flag;', "A"),
        ('note "gene_id WRONG; gene_id"; gene_id "A"', "A"),
        ("gene_id A; gene_name B", "A"),
        (' gene_id  "A" ;gene_name "b;c"', "A"),
        ('b"; gene_id "A"', "A"),
        ('gene_id "unclosed', ""),
        ('old_gene_id "WRONG"; gene_id "A"', "A"),
    ],
)
def test_a_note_is_not_taken_for_the_id(text, expected):
    record = GtfRecord("x.gtf", 3, "chr1", "gene", 0, 1, "+", text)
    assert record.attributes().get("gene_id", "") == expected


def test_two_gene_ids_are_refused():
    record = GtfRecord("x.gtf", 3, "chr1", "gene", 0, 1, "+", 'note "a "q"; gene_id "B"; c"; gene_id "A"')
    with pytest.raises(InputError, match=r"x\.gtf, line 3: gene_id appears twice \(B and A\)"):
        record.attributes()


def test_attributes_take_time_in_proportion_to_their_length():
    for text in ('a "' * 200_000, "a;" * 200_000, '"' * 200_000):
        assert len(GtfRecord("x", 1, "c", "gene", 0, 1, "+", text).attributes()) <= 1


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [("³", "9", r"start \(column 4\) is '³'"), ("0", "9", "0 to 9 is not an interval"), ("9", "5", "9 to 5 is not")],
)
def test_bad_records_are_named(tmp_path, start, end, message):
    path = tmp_path / "x.gtf"
    path.write_text(f'#!c\nchr1\tt\tgene\t{start}\t{end}\t.\t+\t.\tgene_id "A";\n')
    with pytest.raises(InputError, match=rf"x\.gtf, line 2: {message}"):
        list(gtf_records(path, str(path)))


# ------------------------------------------------------------------------------------------------------------ tables


def test_tables_have_comments_quotes_and_either_separator(tmp_path):
    tab, comma = tmp_path / "a.tsv", tmp_path / "a.csv.gz"
    tab.write_text('## a\n# b\n#\n#x\ty\n"1"\ttwo, three\n\n# kept\t4\n')
    comma.write_bytes(gzip.compress(b'# b\nx,"y"\n1,"two, three"\n# kept,4\n'))
    for path in (tab, comma):
        table = read_table(path, str(path))
        assert (table.columns, table.rows) == (["x", "y"], [["1", "two, three"], ["# kept", "4"]])
    assert read_table(tab, "t").lines == [5, 7]
    assert read_table(comma, "t").typed()["y"].tolist() == ["two, three", "4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t is empty: a table with a header line is needed"),
        ("a\tb\n1\n", "t, line 2: found 1 columns where the header has 2"),
        ("a\ta\n", "t: the column 'a' appears twice"),
        ("a\tc\n", "t has no column 'b' (it has a, c): it needs a, b"),
    ],
)
def test_bad_tables_are_told(tmp_path, text, message):
    path = tmp_path / "x.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_table(path, "t", ["a", "b"] if "c" in text else [])


def test_lines_of_the_browser_are_none_of_the_data(tmp_path):
    path = tmp_path / "x.bed"
    path.write_text("track name=x\nbrowser position\n#c\n\ntrack9 1 2\nchr1 5 9\n")
    assert [(record.line, record.chrom) for record in bed_records(path, "x")] == [(5, "track9"), (6, "chr1")]


def test_missing_and_nameless_files_are_told(tmp_path):
    for path, message in (
        (tmp_path / "none", "no such file"),
        (tmp_path / "a\0b", "embedded null"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(InputError, match=message):
            list(text_lines(path, "x"))
