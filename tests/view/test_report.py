"""The page of a gene set and the sessions: what is inside them. How the page works is in test_report_browser.py."""

from __future__ import annotations

import base64
import configparser
import hashlib
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.prediction.store import read_predictions
from kipoi_seq2exp.view import report
from kipoi_seq2exp.view.locus import Surroundings
from kipoi_seq2exp.view.report import binned
from kipoi_seq2exp.view.sessions import ShownFile, genome_tracks_ini, igv_session, shown_files

BINS = 1_000
PAIRS = (  # chrom, start, end, TSS, gene, regulated: two of GENE02's window, one beyond it, one of another gene
    ("chr1", 7_500, 7_700, 9_000, "GENE02", "TRUE"),
    ("chr1", 10_100, 10_400, 9_000, "GENE02.3", "FALSE"),
    ("chr1", 30_000, 30_100, 9_000, "GENE02", "TRUE"),
    ("chr1", 22_000, 22_100, 21_500, "GENE03", "TRUE"),
)


def write_pairs(path, pairs=PAIRS):
    names = ["chrom", "chromStart", "chromEnd", "startTSS", "endTSS", "measuredGeneEnsemblId", "Regulated"]
    rows = [(chrom, start, end, tss, tss + 1, gene, truth) for chrom, start, end, tss, gene, truth in pairs]
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in [names, *rows]))
    return path


@pytest.fixture(scope="module")
def made(tiny, results):
    folder = results.parent / "page"
    words = ["report", str(results), "-o", str(folder), "--threshold", "0.6", "--title", "A <b>title"]
    pairs = write_pairs(results.parent / "pairs.tsv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "BINS", BINS)
        assert main([*words, "--gtf", str(tiny.gtf), "--crispri", str(pairs)]) == 0
    return folder


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def unpacked(track):
    return np.frombuffer(base64.b64decode(track["bins"]), dtype=np.uint8) / 255 * track["top"]


@pytest.fixture(scope="module")
def data(made):
    return data_of((made / "report.html").read_text())


def test_the_page_says_what_it_is_and_names_no_other_file(made):
    page = (made / "report.html").read_text()
    ours = page.replace(resources.files(report.__package__).joinpath("igv", "igv.min.js").read_text("utf-8"), "")
    outside = re.compile(r"<(script|img|link|iframe)[^>]*(src|href)=\"(?!data:)")
    assert not outside.search(ours)
    assert "default-src 'none'" in page  # the browser itself refuses to fetch anything
    assert "sourceMappingURL=igv" not in page
    assert "provisional weights: small.safetensors" in page
    assert "A &lt;b&gt;title" in page
    assert "Copyright (c) 2014-2025 Broad Institute" in page  # igv.js's licence wants to be in every copy


def test_igv_js_is_the_published_build():
    folder = resources.files(report.__package__).joinpath("igv")
    said = re.search(r"SHA-256 of igv\.min\.js: (\w{64})", folder.joinpath("README.md").read_text())
    assert said is not None
    assert hashlib.sha256(folder.joinpath("igv.min.js").read_bytes()).hexdigest() == said[1]
    assert "The MIT License" in folder.joinpath("LICENSE").read_text()


def test_genes_tracks_and_mask_are_those_of_the_predictions(tiny, data, results):
    genes = data["genes"]
    with read_predictions(results) as found:
        assert [gene["gene_id"] for gene in genes] == found.genes["gene_id"].tolist()
        mask = found.mask(2)
        np.testing.assert_allclose(unpacked(genes[2]["mask"]), mask.reshape(BINS, 4).mean(axis=1), atol=1 / 255)
        assert genes[2]["expression"] == pytest.approx(found.genes["expression"][2])
        assert genes[2]["residual"] == pytest.approx(found.genes["expression"][2] - found.genes["observed"][2])
    assert genes[2]["promoter"] == [21_300, 21_700]
    assert genes[2]["kept_fraction"] == pytest.approx((mask >= 0.6).mean())
    assert genes[2]["threshold"] == 0.6
    assert len(genes[2]["elements"]) == genes[2]["n_elements"] > 0
    for start, end, mean, distance in genes[2]["elements"]:
        assert mean == pytest.approx(mask[start - 19_500 : end - 19_500].mean(), abs=1e-4)
        assert distance == (start + end) // 2 - 21_500
    track = genes[2]["tracks"][1]
    dnase = np.nan_to_num(tiny.signals["dnase"]["chr1"][19_500:23_500]).reshape(BINS, 4).max(axis=1)
    assert track["name"] == "dnase"
    assert track["top"] == pytest.approx(dnase.max())
    np.testing.assert_allclose(unpacked(track), dnase, atol=track["top"] / 255)
    assert [track["name"] for track in genes[2]["tracks"]] == ["h3k27ac", "dnase", "hic"]
    assert data["chroms"] == {"chr1": 60_000, "chr2": 30_000}


def test_gene_models_and_pairs_are_those_of_the_files(data):
    by_name = {entry[2]: entry for entry in data["models"]["chr1"]}
    assert by_name["gene02"] == [8_501, 9_001, "gene02", "GENE02.3", "-", []]
    assert set(by_name) == {"gene01", "gene02", "gene03", "gene04"}
    assert [gene["name"] for gene in data["genes"]] == [gene["gene_id"].lower() for gene in data["genes"]]
    pairs = {gene["gene_id"]: gene["pairs"] for gene in data["genes"]}
    assert pairs["GENE02"] == [[7_500, 7_700, True], [10_100, 10_400, False]]
    assert pairs["GENE03"] == [[22_000, 22_100, True]]
    assert pairs["GENE01"] == []


def test_bins_are_means_and_maxima(monkeypatch):
    monkeypatch.setattr(report, "BINS", 2_000)
    values = np.random.default_rng(0).random(4_501)
    edges = np.linspace(0, 4_501, 2_001).astype(int)
    for reduce in (np.mean, np.max):
        slow = [reduce(values[first:last]) for first, last in itertools.pairwise(edges)]
        np.testing.assert_allclose(binned(values, reduce), slow)


def test_the_sessions_name_files_that_exist_in_the_same_order(made):
    names = ["genes.gtf", "crispri.bedpe", "h3k27ac.bw", "dnase.bw", "element_mask.bw", "elements.bed"]
    session = ElementTree.parse(made / "igv_session.xml").getroot()
    assert session.attrib["genome"] == "hg38"
    assert session.attrib["locus"] == "chr1:1-2700"
    paths = [resource.attrib["path"] for resource in session.iter("Resource")]
    assert [Path(path).name for path in paths] == names
    tracks = list(session.iter("Track"))
    assert [track.attrib["id"] for track in tracks] == paths
    assert tracks[4].find("DataRange").attrib["maximum"] == "1.0"  # the mask is a probability
    assert tracks[1].attrib["height"] == tracks[2].attrib["height"]  # arcs without one take a third of the screen
    settings = configparser.ConfigParser(strict=False)
    settings.read(made / "tracks.ini")
    files = [settings[name]["file"] for name in settings.sections() if "file" in settings[name]]
    assert not any(Path(path).is_absolute() for path in paths)
    whole = [(made / path).resolve() for path in paths]
    assert all(path.exists() for path in whole)
    assert files == [str(path) for path in whole if path.suffix != ".bedpe"]


def test_names_fit_beside_the_tracks_of_igv(made):
    """IGV cuts a name after about 31 letters, within a word."""
    predictions = SimpleNamespace(
        locus=lambda row: Locus("G", "chr1", 0, 9, 4, "+"), provenance={"inputs": {"assembly": "hg19"}}
    )
    long = ShownFile("h3k27ac", made / "x.bw", "bigwig", "#2f6f9f", "signal value of broad peaks")
    (track,) = ElementTree.fromstring(igv_session(predictions, [long], made)).iter("Track")
    assert track.attrib["name"] == "h3k27ac (signal value of ...)"


def test_the_session_has_the_tested_pairs_as_arcs(made):
    rows = [line.split("\t")[:7] for line in (made / "crispri.bedpe").read_text().splitlines()]
    assert ["chr1", "7500", "7700", "chr1", "9000", "9001", "regulates_GENE02"] in rows
    assert ["chr1", "10100", "10400", "chr1", "9000", "9001", "no_effect_on_GENE02"] in rows
    assert not any(row[1] == "30000" for row in rows)  # beyond the window


def test_a_bedgraph_is_named_as_one(results, tmp_path):
    track = tmp_path / "d.bedGraph.gz"
    with read_predictions(results) as found:
        shown = shown_files(found, Surroundings({"dnase": str(track)}), None, None)
    assert [(file.name, file.kind, file.path) for file in shown] == [("dnase", "bedgraph", track)]
    assert "file_type = bedgraph\n" in genome_tracks_ini(shown)


def test_loci_of_many_genes_lie_beside_the_page(tiny, made, results, tmp_path, monkeypatch):
    """The same data as inside the page, a file a gene, and no file of an earlier report among them."""
    monkeypatch.setattr(report, "BINS", BINS)
    monkeypatch.setattr(report, "INSIDE", 3)
    pairs = write_pairs(tmp_path / "pairs.tsv")
    words = ["report", str(results), "-o", str(tmp_path), "--gtf", str(tiny.gtf), "--crispri", str(pairs)]
    (tmp_path / "report_loci").mkdir()
    (tmp_path / "report_loci" / "99.html").touch()
    assert main([*words, "--threshold", "0.6"]) == 0
    whole, page = data_of((made / "report.html").read_text()), data_of((tmp_path / "report.html").read_text())
    assert {path.name for path in (tmp_path / "report_loci").iterdir()} == {f"{row}.html" for row in range(7)}
    assert page["beside"] == "report_loci"
    assert page["models"] == {}
    for row, (gene, inside) in enumerate(zip(page["genes"], whole["genes"], strict=True)):
        said = (tmp_path / "report_loci" / f"{row}.html").read_text()
        locus = json.loads(re.search(r'id="locus">(.*?)</script>', said, re.DOTALL)[1])
        models = locus.pop("models")
        assert not gene.keys() & (locus.keys() - {"gene_id"})
        assert {**gene, **locus} == inside
        near = [entry for entry in whole["models"].get(gene["chrom"], []) if abs(entry[0] - gene["tss"]) < 5_000]
        assert set(map(str, near)) <= set(map(str, models[gene["chrom"]]))


def test_no_genes_are_one_sentence(results, tmp_path, capsys, monkeypatch):
    from kipoi_seq2exp.prediction.store import Predictions

    monkeypatch.setattr(Predictions, "__len__", lambda predictions: 0)
    assert main(["report", str(results), "-o", str(tmp_path / "o")]) == 1
    assert "holds no genes: there is nothing to show" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_pairs_of_other_genes_are_one_sentence(results, tmp_path, capsys):
    pairs = write_pairs(tmp_path / "other.tsv", [("chr1", 1, 2, 3, "ENSG00000000001", "TRUE")])
    assert main(["report", str(results), "--crispri", str(pairs), "-o", str(tmp_path / "o")]) == 1
    assert "none of its 1 gene (ENSG00000000001) is among the 7 of the predictions" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
