"""DNA of a FASTA equals the letters it was made from, plain or bgzip, with any index or none; damage is named."""

from __future__ import annotations

import gzip
import logging
import os
import pickle
import shutil

import numpy as np
import pytest
from conftest import LENGTHS, write_fasta

from kipoi_seq2exp.data import fasta_index
from kipoi_seq2exp.data.sequence import Genome, decode_bases, encode_bases
from kipoi_seq2exp.errors import InputError


@pytest.fixture
def fasta(tiny, tmp_path):
    """A copy of the FASTA without an index, free to be spoilt."""
    return shutil.copy(tiny.fasta, tmp_path / "copy.fa")


def write_bgzip(source, target):
    from Bio import bgzf

    with bgzf.BgzfWriter(str(target), "wb") as handle:
        handle.write(source.read_bytes())
    return target


def one_hot_slowly(letters: bytes) -> np.ndarray:
    rows = {"A": (1, 0, 0, 0), "C": (0, 1, 0, 0), "G": (0, 0, 1, 0), "T": (0, 0, 0, 1)}
    return np.array([rows.get(chr(letter).upper(), (0, 0, 0, 0)) for letter in letters], dtype=np.uint8)


def test_encoding_equals_its_slow_twin_for_every_byte():
    letters = bytes(range(256))
    np.testing.assert_array_equal(encode_bases(letters), one_hot_slowly(letters))
    assert encode_bases(b"").shape == (0, 4)
    assert decode_bases(encode_bases(b"acgTNGRx")).tobytes() == b"ACGTNGNN"
    assert decode_bases(encode_bases(b"")).shape == (0,)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("span", [(0, 60), (59, 61), (119, 305), (6_990, 8_010), (9_990, 10_210), (29_000, 30_000)])
def test_bases_equal_what_was_written(tiny, fasta, tmp_path, compressed, span):
    path = write_bgzip(fasta, tmp_path / "copy.fa.gz") if compressed else fasta
    with Genome(path) as genome:
        assert genome.lengths == LENGTHS
        for chrom in LENGTHS:
            letters = tiny.bases[chrom][slice(*span)]
            assert genome.bases(chrom, *span) == letters
            np.testing.assert_array_equal(genome.onehot(chrom, *span), one_hot_slowly(letters))


@pytest.mark.parametrize("span", [(-30, 40), (29_950, 30_080), (-10, 30_010), (-20, -5), (30_000, 30_100)])
def test_beyond_a_chromosome_all_is_zero(tiny, span):
    letters = bytes(tiny.bases["chr2"][i] if 0 <= i < LENGTHS["chr2"] else ord("N") for i in range(*span))
    onehot = Genome(tiny.fasta).onehot("chr2", *span)
    np.testing.assert_array_equal(onehot, one_hot_slowly(letters))


def test_iupac_codes_are_unknown_bases(tiny):
    assert tiny.bases["chr1"][15_000:15_002] == b"Kn"
    assert not Genome(tiny.fasta).onehot("chr1", 15_000, 15_002).any()


def test_unknown_chromosome_is_named(tiny):
    with pytest.raises(InputError, match=r"has no chromosome '1' \(it names it 'chr1'\)"):
        Genome(tiny.fasta).bases("1", 0, 5)


def test_pickled_genome_reads_the_same(tiny):
    genome = Genome(tiny.fasta)
    before = genome.bases("chr1", 100, 200)
    assert pickle.loads(pickle.dumps(genome)).bases("chr1", 100, 200) == before


# ------------------------------------------------------------------------------------------------------- the index


def test_index_is_built_beside_the_fasta(fasta):
    index = Genome(fasta).index
    assert index.location == fasta.with_name("copy.fa.fai")
    assert sorted(path.name for path in fasta.parent.iterdir()) == ["copy.fa", "copy.fa.fai"]


def test_index_goes_to_the_cache_where_the_folder_is_read_only(fasta, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "read_only"
    folder.mkdir()
    path = fasta.rename(folder / "copy.fa")
    folder.chmod(0o555)
    try:
        with caplog.at_level(logging.INFO):
            genome = Genome(path)
        assert genome.index.location.parent == tmp_path / "cache" / "kipoi_seq2exp"
        assert str(genome.index.location) in caplog.text
        assert genome.lengths == LENGTHS
        stamp = genome.index.location.stat().st_mtime_ns
        assert Genome(path).index.location.stat().st_mtime_ns == stamp, "the second time it is found again"
    finally:
        folder.chmod(0o755)


def test_no_index_lies_where_others_may_write(fasta, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fasta_index.tempfile, "gettempdir", lambda: str(tmp_path))
    for folder in (tmp_path / "cache" / "kipoi_seq2exp", tmp_path / f"kipoi_seq2exp-{os.getuid()}"):
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    monkeypatch.setattr(fasta_index, "_writable", lambda folder: folder != fasta.parent)
    with pytest.raises(InputError, match="no folder to write its index to"):
        Genome(fasta)
    (tmp_path / f"kipoi_seq2exp-{os.getuid()}").chmod(0o700)
    assert Genome(fasta).index.location.parent == tmp_path / f"kipoi_seq2exp-{os.getuid()}"
    (tmp_path / "cache" / "kipoi_seq2exp").chmod(0o700)
    assert Genome(fasta).index.location.parent == tmp_path / "cache" / "kipoi_seq2exp"


def test_old_index_that_fits_is_used(fasta, tiny):
    index = Genome(fasta).index.location
    os.utime(index, (1, 1))
    assert Genome(fasta).bases("chr2", 0, 90) == tiny.bases["chr2"][:90]
    assert index.stat().st_mtime == 1


def test_stale_index_is_built_anew(fasta, tiny, caplog):
    index = Genome(fasta).index.location
    write_fasta(fasta, {"chr2": tiny.bases["chr2"], "chr1": tiny.bases["chr1"]}, width=70)
    os.utime(index, (1, 1))
    with caplog.at_level(logging.WARNING):
        genome = Genome(fasta)
    assert "stale" in caplog.text
    assert list(genome.lengths) == ["chr2", "chr1"]
    assert genome.bases("chr1", 500, 700) == tiny.bases["chr1"][500:700]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:40_000], r"ends within chr1, which has 60,000 bp by its index .*truncated"),
        (lambda text: text.replace(b">chr2", b">chr3"), "does not match its index .* at chr2"),
        (lambda text: text[:6] + b"x" + text[6:], "does not match its index .* at chr1"),
        (lambda text: text[:100] + b"A" + text[100:], "does not match its index .* at chr1, whose lines have not 60"),
        (lambda text: text + b">chr3\nACGT\n", "goes on after the last record of its index"),
    ],
)
def test_fasta_that_contradicts_a_newer_index_is_refused(fasta, spoil, message):
    index = Genome(fasta).index.location
    fasta.write_bytes(spoil(fasta.read_bytes()))
    os.utime(fasta, (1, 1))
    assert index.exists()
    with pytest.raises(InputError, match=message):
        Genome(fasta)


def test_index_with_other_line_lengths_is_refused(fasta):
    index = Genome(fasta).index.location
    index.write_text(index.read_text().replace("\t60\t61", "\t120\t122"))
    with pytest.raises(InputError, match="at chr1, whose lines have not 120 bases: delete the index"):
        Genome(fasta)


def test_bgzip_file_replaced_by_an_older_one_is_refused(fasta, tiny, tmp_path):
    path = write_bgzip(fasta, tmp_path / "copy.fa.gz")
    assert Genome(path).bases("chr2", 500, 700) == tiny.bases["chr2"][500:700]
    write_fasta(fasta, {name: bases[::-1] for name, bases in tiny.bases.items()})
    path.unlink()
    write_bgzip(fasta, path)
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match=r"copy\.fa\.gz does not match its index .*\.gzi: delete the index"):
        Genome(path)


def test_old_index_of_a_bgzip_file_is_used_if_it_fits_and_built_anew_if_not(fasta, tiny, tmp_path):
    path = write_bgzip(fasta, tmp_path / "copy.fa.gz")
    files = [Genome(path).index.location, Genome(path).index.gzi]
    for file in files:
        os.utime(file, (1, 1))
    assert Genome(path).bases("chr2", 0, 90) == tiny.bases["chr2"][:90]
    assert [file.stat().st_mtime for file in files] == [1, 1]
    write_fasta(fasta, {name: bases[::-1] for name, bases in tiny.bases.items()})
    path.unlink()
    write_bgzip(fasta, path)
    assert Genome(path).bases("chr2", 0, 90) == tiny.bases["chr2"][::-1][:90]


def test_fasta_replaced_during_a_run_is_refused(fasta, tiny):
    genome = Genome(fasta)
    write_fasta(fasta, {name: bases[::-1] for name, bases in tiny.bases.items()})
    with pytest.raises(InputError, match="was replaced by another file after this run began"):
        genome.bases("chr1", 0, 5)


def test_damaged_middle_of_a_bgzip_file_is_named(fasta, tmp_path):
    path = write_bgzip(fasta, tmp_path / "copy.fa.gz")
    genome = Genome(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 2_000] = bytes(2_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"copy\.fa\.gz"):
        genome.bases("chr1", 0, 60_000)


@pytest.mark.parametrize("at", [-4, 30])  # of the first block: the length of its text; the text, compressed
def test_damaged_block_is_named_when_the_index_is_made(fasta, tmp_path, at):
    path = write_bgzip(fasta, tmp_path / "copy.fa.gz")
    content = bytearray(path.read_bytes())
    place = at % (int.from_bytes(content[16:18], "little") + 1)
    content[place : place + 2] = b"\xff\xff"
    path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"copy\.fa\.gz cannot be indexed as FASTA"):
        Genome(path)
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_gzi_is_named(fasta, tmp_path):
    path = write_bgzip(fasta, tmp_path / "copy.fa.gz")
    gzi = Genome(path).index.gzi
    for spoilt in (b"", gzi.read_bytes()[:-3], gzi.read_bytes()[:8] + bytes(len(gzi.read_bytes()) - 8)):
        gzi.write_bytes(spoilt)
        with pytest.raises(InputError, match=r"copy\.fa\.gz\.gzi"):
            Genome(path)


@pytest.mark.parametrize("index", ["", "chr1\t5\n", "chr1\ta\tb\tc\td\n"])
def test_damaged_index_is_named(fasta, index):
    fasta.with_name("copy.fa.fai").write_text(index)
    with pytest.raises(InputError, match=r"copy\.fa\.fai.*delete the index"):
        Genome(fasta)


# ----------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is not a FASTA: it starts with '<!DOCTYPE html><html'"),
        (b">chr1\nACGT\nAC\nACGT\n", "cannot be indexed as FASTA .*[Ll]ine length"),
        (b">\nACGT\n", "cannot be indexed as FASTA"),
        (gzip.compress(b">chr1\nACGT\n", mtime=0), "compressed by plain gzip"),
    ],
)
def test_file_that_is_no_fasta_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.fa.gz" if content[:2] == b"\x1f\x8b" else tmp_path / "bad.fa"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Genome(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing half-made is left"


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.fa: no such file"):
        Genome(tmp_path / "none.fa")
    with pytest.raises(InputError, match=r"cannot be read .it is a folder."):
        Genome(tmp_path)


def test_truncated_bgzip_is_named(fasta, tmp_path):
    path = write_bgzip(fasta, tmp_path / "copy.fa.gz")
    path.write_bytes(path.read_bytes()[:-10_000])
    with pytest.raises(InputError, match="truncated: the end marker of bgzip is missing"):
        Genome(path)


def test_bgzip_needs_its_ending(fasta, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.gz or \.bgz"):
        Genome(write_bgzip(fasta, tmp_path / "copy.fasta"))


def test_letters_that_are_no_bases_are_named(tmp_path):
    path = tmp_path / "protein.fa"
    path.write_text(">chr1\nACGTACGTACGTJ\n")
    with pytest.raises(InputError, match="found 'J' at chr1:13"):
        Genome(path).bases("chr1", 0, 13)
