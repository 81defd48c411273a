"""Hi-C of every format gives the contacts computed from its whole matrix; profiles per gene are read as they are."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import LENGTHS, write_bigwig, write_cooler, write_hic, write_mcool

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.sequence import Genome
from kipoi_seq2exp.data.tracks import contact_files
from kipoi_seq2exp.data.tracks.contact_sources import open_contacts
from kipoi_seq2exp.data.tracks.contacts import ContactQuery, scale_contact
from kipoi_seq2exp.errors import InputError

SPEC = TrackSpec("hic")
BIN = 1_000
QUERIES = [ContactQuery("A", "chr1", 700), ContactQuery("B", "chr1", 33_210), ContactQuery("C", "chr2", 29_999)]
SPANS = [(-4_000, 6_000), (20_123, 45_321), (24_000, 34_000)]


def make_counts(seed=0):
    """Return symmetric counts that fall with distance; bin 7 of chr1 has none, like an unmappable bin."""
    random = np.random.default_rng(seed)
    counts = {}
    for chrom, length in LENGTHS.items():
        n = length // BIN
        distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        upper = np.triu(random.poisson(60 / (distance + 1)))
        counts[chrom] = upper + np.triu(upper, 1).T
    counts["chr1"][7, :] = counts["chr1"][:, 7] = 0
    return counts


def expected_profile(counts, query, span, weights=None):
    """Compute the profile from the whole matrix, one bin at a time."""
    n = len(counts)
    matrix = counts.astype(float)
    if weights is not None:
        matrix = matrix * np.outer(weights, weights)
    corrected = matrix.copy()
    for i in range(n):
        if matrix[i, i] > 0:
            corrected[i, i] = np.nanmax([matrix[i, j] for j in (i - 1, i + 1) if 0 <= j < n])
    totals = np.nansum(corrected, axis=1)
    row = query.tss // BIN
    scaled = []
    for column in range(n):
        known = totals[row] > 0 and totals[column] > 0
        share = corrected[row, column] / totals[row] * 5_000 / BIN if known else np.nan
        scaled.append(scale_contact(np.array([share]), np.array([abs(column - row) * float(BIN)]))[0])
    inside = [scaled[base // BIN] if 0 <= base < LENGTHS[query.chrom] else 0 for base in range(*span)]
    return np.array(inside, dtype=np.float32)


@pytest.fixture(scope="module")
def cool(tmp_path_factory):
    path = tmp_path_factory.mktemp("hic") / "x.cool"
    write_cooler(path, make_counts(), LENGTHS, BIN)
    return path


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """A .cool with a stored normalisation that leaves out bins 3 and 33 of chr1."""
    import h5py

    path = tmp_path_factory.mktemp("hic") / "weighted.cool"
    write_cooler(path, make_counts(), LENGTHS, BIN)
    weights = np.random.default_rng(1).uniform(0.02, 0.05, 90)
    weights[[3, 33]] = np.nan
    with h5py.File(path, "r+") as handle:
        handle["bins"].create_dataset("weight", data=weights)
    return path, {"chr1": weights[:60], "chr2": weights[60:]}


@pytest.fixture(scope="module")
def mcool(cool):
    path = cool.with_name("x.mcool")
    write_mcool(path, cool, BIN)
    return path


@pytest.fixture(scope="module")
def hic(tmp_path_factory):
    path = tmp_path_factory.mktemp("hic") / "x.hic"
    write_hic(path, make_counts(), LENGTHS, BIN)
    return path


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.gene_id)
@pytest.mark.parametrize("span", SPANS)
def test_cool_equals_the_whole_matrix(tiny, cool, query, span):
    with open_contacts(cool, SPEC) as source:
        source.check_against(Genome(tiny.fasta), QUERIES)
        profile = source.profile(query, *span)
    assert profile.dtype == np.float32
    np.testing.assert_allclose(profile, expected_profile(make_counts()[query.chrom], query, span), rtol=1e-5)


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.gene_id)
def test_stored_normalisation_is_used(tiny, weighted, query):
    path, weights = weighted
    source = open_contacts(path, SPEC)
    source.check_against(Genome(tiny.fasta), QUERIES)
    expected = expected_profile(make_counts()[query.chrom], query, SPANS[1], weights[query.chrom])
    np.testing.assert_allclose(source.profile(query, *SPANS[1]), expected, rtol=1e-5)
    assert "normalisation weight" in source.description
    assert "power law for 1 of 3 genes, whose TSS bin has no value (B)" in source.description


def test_raw_counts_may_be_asked_for(tiny, weighted, cool):
    source, raw = open_contacts(f"{weighted[0]}::{BIN}::NONE", SPEC), open_contacts(cool, SPEC)
    assert "raw counts" in source.description
    np.testing.assert_array_equal(source.profile(QUERIES[1], *SPANS[1]), raw.profile(QUERIES[1], *SPANS[1]))


@pytest.mark.parametrize("suffix", ["", "::1000", "::/resolutions/1000", "::1000::NONE"])
def test_all_formats_agree(cool, mcool, hic, suffix):
    expected = open_contacts(cool, SPEC).profile(QUERIES[1], *SPANS[1])
    for path in (mcool, hic):
        if suffix:
            profile = open_contacts(f"{path}{suffix}", SPEC).profile(QUERIES[1], *SPANS[1])
            np.testing.assert_allclose(profile, expected, rtol=1e-6)
        else:
            with pytest.raises(InputError, match=rf"no resolution of 5000 bp \(it has 1000\).*'{path.name}::1000'"):
                open_contacts(path, SPEC)


def test_totals_do_not_depend_on_how_much_is_read_at_once(cool, monkeypatch):
    source = open_contacts(cool, SPEC)
    whole = source._add_up("chr1")
    monkeypatch.setattr(contact_files, "_CELLS_AT_ONCE", 60 * 7)
    np.testing.assert_allclose(source._add_up("chr1"), whole)
    monkeypatch.setattr(contact_files, "_CELLS_AT_ONCE", 1)
    np.testing.assert_allclose(source._add_up("chr1"), whole)


def test_pickled_source_reads_the_same(tiny, cool):
    source = open_contacts(cool, SPEC)
    source.check_against(Genome(tiny.fasta), QUERIES)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.profile(QUERIES[1], 0, 9), source.profile(QUERIES[1], 0, 9))


def test_no_handler_of_hictkpy_runs_at_a_fork():
    """Its handler made one forked process in nine wait for ever, for a lock that a thread of the parent had held."""
    code = (
        "import os\n"
        "registered, register = [], os.register_at_fork\n"
        "os.register_at_fork = lambda **handlers: (registered.extend(handlers.values()), register(**handlers))\n"
        "from kipoi_seq2exp.data.tracks.contact_files import import_hictkpy\n"
        "mine = os.register_at_fork\n"
        "import_hictkpy()\n"
        "assert os.register_at_fork is mine\n"
        "print([call for call in registered if type(call).__module__ == 'nanobind'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_forked_process_reads_the_same_and_nothing_is_printed(tiny, cool, tmp_path):
    (tmp_path / "fork.py").write_text(
        "import os, sys\n"
        "from kipoi_seq2exp.config import TrackSpec\n"
        "from kipoi_seq2exp.data.tracks.contact_sources import open_contacts\n"
        "from kipoi_seq2exp.data.tracks.contacts import ContactQuery\n"
        "source = open_contacts(sys.argv[1], TrackSpec('hic'))\n"
        "query = ContactQuery('B', 'chr1', 33_210)\n"
        "here = source.profile(query, 20_000, 40_000)\n"
        "for _ in range(30):\n"
        "    child = os.fork()\n"
        "    there = source.profile(query, 20_000, 40_000)\n"
        "    same = (here == there).all() and there.any()\n"
        "    if child == 0:\n"
        "        os._exit(0 if same else 1)\n"
        "    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):\n"
        "        sys.exit(1)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "fork.py", cool], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("::2000", r"has no resolution of 2000 bp \(it has 1000\)"),
        ("::fine", "the resolution 'fine' is not a whole number"),
        ("::1000::KR", r"no normalisation 'KR' is stored"),
    ],
)
def test_bad_choices_are_named(cool, suffix, message):
    with pytest.raises(InputError, match=message):
        open_contacts(f"{cool}{suffix}", SPEC)


@pytest.mark.parametrize("name", ["x.cool", "x.mcool", "x.hic"])
@pytest.mark.parametrize("content", [b"", b"<html>", "half"])
def test_damaged_files_are_named(cool, mcool, hic, tmp_path, name, content):
    whole = {"x.cool": cool, "x.mcool": mcool, "x.hic": hic}[name].read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(InputError, match=rf"track 'hic' \(.*{name}\)"):
        open_contacts(f"{path}::1000", SPEC).profile(QUERIES[1], *SPANS[1])
    with pytest.raises(InputError, match="no such file"):
        open_contacts(tmp_path / f"none{path.suffix}", SPEC)


def test_a_name_that_is_no_text_is_a_damaged_file(hic, tmp_path):
    (tmp_path / "x.hic").write_bytes(hic.read_bytes().replace(b"chr1", b"\xf6hr1"))
    with pytest.raises(InputError, match=r"x\.hic\) cannot be read as Hi-C \('utf-8' codec"):
        open_contacts(f"{tmp_path / 'x.hic'}::{BIN}", SPEC)


def test_damaged_published_contacts_are_named(tiny, tmp_path):
    import h5py

    path = tmp_path / "hic_feat_chr1.h5"
    with h5py.File(path, "w") as file:
        file["chr1_9000"] = np.zeros(100, dtype=np.float32)
    source, query = open_contacts(tmp_path, SPEC), ContactQuery("GENE02", "chr1", 9_000)
    assert source.profile(query, 8_000, 8_100).shape == (100,)
    source.close()
    path.write_bytes(path.read_bytes().replace(b"HEAP", b"HAEP"))
    for read in (lambda: source.profile(query, 8_000, 8_100), lambda: source.check_against(None, [query])):
        with pytest.raises(InputError, match=r"hic_feat_chr1\.h5 is not an HDF5 file of contacts"):
            read()
        source.close()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"1": 60_000, "2": 30_000}, "has no chromosome 'chr1' .it names it '1'"),
        ({"chr1": 59_000, "chr2": 30_000}, "chr1 is 59,000 bp long but 60,000 bp in the FASTA"),
    ],
)
def test_other_genome_is_told_apart(tiny, tmp_path, lengths, message):
    counts = {chrom: np.ones((length // BIN, length // BIN), dtype=int) for chrom, length in lengths.items()}
    write_cooler(tmp_path / "x.cool", counts, lengths, BIN)
    with pytest.raises(InputError, match=message):
        open_contacts(tmp_path / "x.cool", SPEC).check_against(Genome(tiny.fasta), QUERIES)


def test_real_hic_falls_like_the_power_law(real_data):
    source = open_contacts(real_data / "chr22" / "GM12878" / "rao2014.50kb.cool", SPEC)
    query = ContactQuery("YWHAH", "chr22", 32_000_000)
    profile = source.profile(query, 31_000_000, 33_000_000)[25_000::50_000].astype(float)
    assert "50000-bp bins, normalisation weight" in source.description
    law = open_contacts("powerlaw", SPEC).profile(query, 31_000_000, 33_000_000)[25_000::50_000].astype(float)
    assert np.corrcoef(np.log(profile), np.log(law))[0, 1] > 0.9
    assert 0.3 < np.exp(np.mean(np.log(profile) - np.log(law))) < 3


# ---------------------------------------------------------------------------------------------- profiles per gene


def write_profiles(path, rows):
    path.write_text("gene_id\tstart\tend\tcontact\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def test_table_of_profiles(tiny, tmp_path):
    rows = [("B", 5_000, 10_000, 0.25), ("A", 0, 5_000, 0.5), ("B", 0, 5_000, 0.125)]
    source = open_contacts(write_profiles(tmp_path / "x.tsv", rows), SPEC)
    source.check_against(Genome(tiny.fasta), QUERIES[:2])
    values = source.profile(QUERIES[1], -10, 12_000)
    assert (values[:10] == 0).all()
    assert (values[10:5_010] == 0.125).all()
    assert (values[5_010:10_010] == 0.25).all()
    assert (values[10_010:] == 0).all()
    assert "as given" in source.description
    with pytest.raises(InputError, match="has no gene 'C'"):
        source.check_against(Genome(tiny.fasta), QUERIES)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("A", 0, 60_001, 0.5)], "profile of A ends at chr1:60001, beyond the chromosome's 60,000 bp"),
        ([("A", 0, 10, 0.5), ("A", 9, 20, 0.5)], "intervals of A overlap"),
        ([("A", 0, 10, -0.5)], "line 2: 0-10 must be an interval and the contact -0.5 at least 0"),
        ([("A", 0, 10, "nan")], "line 2: 0-10 must be"),
        ([("A", 10, 10, 1)], "line 2: 10-10 must be"),
        ([("A", 0, 10)], "line 2: found 3 columns where the header has 4"),
        ([("A", 0, 10, "x")], "line 2: contact is .x., not a number"),
        ([], "holds no profiles"),
    ],
)
def test_bad_profiles_are_named(tiny, tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        open_contacts(write_profiles(tmp_path / "x.tsv", rows), SPEC).check_against(Genome(tiny.fasta), QUERIES[:1])


def test_table_without_a_column_is_named(tiny, tmp_path):
    (tmp_path / "x.tsv").write_text("gene_id\tstart\tend\tcontacts\n")
    with pytest.raises(InputError, match="has no column 'contact'"):
        open_contacts(tmp_path / "x.tsv", SPEC).check_against(Genome(tiny.fasta), QUERIES[:1])


def test_file_per_gene(tiny, tmp_path):
    values = np.random.default_rng(0).uniform(0, 0.2, 60_000).astype(np.float32)
    write_bigwig(tmp_path / "A.bw", {"chr1": values})
    source = open_contacts(tmp_path / "{gene_id}.bw", SPEC)
    source.check_against(Genome(tiny.fasta), QUERIES[:1])
    np.testing.assert_array_equal(source.profile(QUERIES[0], 100, 900), values[100:900])
    with pytest.raises(InputError, match=r"B\.bw\): no such file"):
        source.check_against(Genome(tiny.fasta), QUERIES[:2])
