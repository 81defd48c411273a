"""The page of a gene set: what is inside it, that it works (in node, in place of a browser), the sessions."""

from __future__ import annotations

import base64
import configparser
import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from small_runs import small_request, small_weights

from kipoi_seq2exp.analysis import report
from kipoi_seq2exp.analysis.predict import fill_store, prepare
from kipoi_seq2exp.analysis.report import binned
from kipoi_seq2exp.analysis.store import read_predictions
from kipoi_seq2exp.cli import main


@pytest.fixture(scope="module")
def results(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "results"
    fill_store(prepare(small_request(tiny, small_weights(tiny, folder.parent)), folder))
    return folder


@pytest.fixture(scope="module")
def made(results):
    folder = results.parent / "page"
    assert main(["report", str(results), "-o", str(folder), "--threshold", "0.6", "--title", "A <b>title"]) == 0
    return folder


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_everything_is_inside_and_nothing_is_fetched(tiny, made, results):
    page = (made / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "provisional weights: small.safetensors" in page
    assert "A &lt;b&gt;title" in page
    genes = data_of(page)["genes"]
    with read_predictions(results) as found:
        assert [gene["gene_id"] for gene in genes] == found.genes["gene_id"].tolist()
        mask = found.mask(2)
        bins = np.frombuffer(base64.b64decode(genes[2]["mask"]), dtype=np.uint8) / 255
        np.testing.assert_allclose(bins, mask.reshape(2_000, 2).mean(axis=1), atol=1 / 255)
        assert genes[2]["expression"] == pytest.approx(found.genes["expression"][2])
        assert genes[2]["promoter"] == [21_300, 21_700]
    track = genes[2]["tracks"][1]
    dnase = np.nan_to_num(tiny.signals["dnase"]["chr1"][19_500:23_500]).reshape(2_000, 2).max(axis=1)
    assert track["name"] == "dnase"
    assert track["top"] == pytest.approx(dnase.max())
    bins = np.frombuffer(base64.b64decode(track["bins"]), dtype=np.uint8) / 255 * track["top"]
    np.testing.assert_allclose(bins, dnase, atol=track["top"] / 255)


def test_bins_are_means_and_maxima():
    values = np.random.default_rng(0).random(4_501)
    edges = np.linspace(0, 4_501, 2_001).astype(int)
    for reduce in (np.mean, np.max):
        slow = [reduce(values[first:last]) for first, last in itertools.pairwise(edges)]
        np.testing.assert_allclose(binned(values, reduce), slow)


def test_the_page_sorts_zooms_and_moves(made):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    page = made / "report.html"
    words = ["node", str(Path(__file__).with_name("page.js")), str(page)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    genes = [f"GENE0{number}" for number in range(1, 8)]
    predicted = {gene["gene_id"]: gene["expression"] for gene in data_of(page.read_text())["genes"]}
    assert said["columns"] == ["gene", "TSS", "predicted \u25bc", "observed", "kept", "elements"]
    assert said["first"] == sorted(genes, key=lambda gene: -predicted[gene])
    assert said["rising"] == genes
    assert said["falling"] == genes[::-1]
    assert [float(value) for value in said["predicted"]] == sorted((float(v) for v in said["predicted"]), reverse=True)
    assert said["points"] == 7
    assert said["bars"] == 2_000
    assert said["calls"] > 1
    assert span(said["zoomed"]) == 2_000
    assert span(said["wheel"]) == 1_600
    assert start(said["wheel"]) == start(said["zoomed"])
    assert start(said["dragged"]) == start(said["wheel"]) - round(1_600 * 20 / 620)
    assert span(said["closest"]) == 16
    assert span(said["whole"]) == 4_000
    assert said["chosen"].startswith("GENE01 ")


def start(title):
    return int(re.search(r":(-?[\d,]+)-", title)[1].replace(",", ""))


def span(title):
    return int(re.search(r":-?[\d,]+-([\d,]+)", title)[1].replace(",", "")) - start(title)


def test_the_sessions_name_files_that_exist(tiny, made):
    session = ElementTree.parse(made / "igv_session.xml").getroot()
    assert session.attrib["genome"] == "hg38"
    paths = [resource.attrib["path"] for resource in session.iter("Resource")]
    assert {Path(path).name for path in paths} == {"element_mask.bw", "elements.bed", "h3k27ac.bw", "dnase.bw"}
    assert [track.attrib["id"] for track in session.iter("Track")] == paths
    settings = configparser.ConfigParser()
    settings.read(made / "tracks.ini")
    files = [settings[name]["file"] for name in settings.sections() if "file" in settings[name]]
    assert sorted(files) == sorted(paths)
    assert all(Path(path).exists() for path in paths)


def test_too_many_genes_are_one_sentence(results, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "MOST_GENES", 3)
    assert main(["report", str(results), "-o", str(tmp_path / "o")]) == 1
    assert "holds 7 genes; a page takes 1 to 3" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
