"""Downloads from a local server: checked, repeatable, and nothing kept of what is wrong."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from functools import partial

import pytest
import yaml

from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.errors import ConfigError, InputError, OutputError
from kipoi_seq2exp.training.fetch import fetch, read_manifest

pytest.importorskip("pooch")
CONTENT = b"signal" * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path):
    """A server on this machine that holds one track."""
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "ENCFF1.bigWig").write_bytes(CONTENT)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "public")) as found:
        found.asked = []
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def manifest(server, tmp_path, file="ENCFF1.bigWig", **fields):
    path = tmp_path / "tracks.yaml"
    url = f"http://127.0.0.1:{server.server_address[1]}/{file}"
    path.write_text(yaml.safe_dump({"K562": {"dnase": {"accession": "ENCFF1", "url": url, **fields}}}))
    return path


@pytest.mark.parametrize("digest", [f"sha256:{SHA256}", f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
def test_a_track_is_downloaded_once_and_verified(server, tmp_path, digest):
    rows = manifest(server, tmp_path, hash=digest)
    for _ in range(2):
        (track,) = fetch("K562", tmp_path / "data", rows)
        assert track.path.read_bytes() == CONTENT
        assert (track.track, track.sha256, track.verified) == ("dnase", SHA256, True)
    assert len(server.asked) == 1


def test_an_unknown_hash_is_recorded_and_checked_from_then_on(server, tmp_path):
    rows = manifest(server, tmp_path, file="ENCFF1.bed")
    (tmp_path / "public" / "ENCFF1.bed").write_bytes(CONTENT)
    (track,) = fetch("K562", tmp_path / "data", rows)
    assert not track.verified
    assert (tmp_path / "data" / "SHA256SUMS").read_text() == f"{SHA256}  ENCFF1.bed\n"
    assert fetch("K562", tmp_path / "data", rows)[0].verified
    track.path.write_bytes(b"damaged")
    assert fetch("K562", tmp_path / "data", rows)[0].path.read_bytes() == CONTENT  # fetched again
    track.path.unlink()
    (tmp_path / "public" / "ENCFF1.bed").write_bytes(b"replaced")
    with pytest.raises(InputError, match="not the file that was expected"):
        fetch("K562", tmp_path / "data", rows)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.bigWig", "is not a bigWig: it holds a web page"),
        ("a.hic", "is not a Hi-C file .*<html>"),
        ("a.mcool", "is not an HDF5 file"),
        ("a.fa.gz", "is not a gzip file"),
        ("a.fa", "is not a FASTA"),
        ("a.narrowPeak", "is a web page, not a.narrowPeak"),
    ],
)
def test_a_web_page_is_no_track_and_its_hash_is_not_recorded(server, tmp_path, file, message):
    (tmp_path / "public" / file).write_text("<html><body>Please sign in</body></html>" * 20)
    with pytest.raises(InputError, match=message):
        fetch("K562", tmp_path / "data", manifest(server, tmp_path, file=file))
    assert list((tmp_path / "data").iterdir()) == []


def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path):
    with pytest.raises(InputError, match=r"track 'dnase' \(ENCFF1\): what http.* is not the file that was expected"):
        fetch("K562", tmp_path / "data", manifest(server, tmp_path, hash="sha256:" + "0" * 64))
    assert list((tmp_path / "data").iterdir()) == []


def test_a_missing_file_and_a_dead_server_are_named(server, tmp_path):
    with pytest.raises(InputError, match=r"ENCFF2.bigWig cannot be downloaded \(404"):
        fetch("K562", tmp_path / "data", manifest(server, tmp_path, file="ENCFF2.bigWig"))
    rows = tmp_path / "dead.yaml"
    rows.write_text(yaml.safe_dump({"K562": {"dnase": {"accession": "A", "url": "http://127.0.0.1:9/a.bigWig"}}}))
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch("K562", tmp_path / "data", rows)


def test_mistakes_in_the_manifest_are_named(server, tmp_path):
    with pytest.raises(ConfigError, match=r"no public tracks of 'K526' are known .did you mean 'K562'"):
        fetch("K526", tmp_path, manifest(server, tmp_path))
    with pytest.raises(ConfigError, match=re.escape("K562.dnase: unknown field 'hahs' (did you mean 'hash'?)")):
        fetch("K562", tmp_path, manifest(server, tmp_path, hahs="x"))
    (tmp_path / "list.yaml").write_text("K562: [a]\n")
    with pytest.raises(ConfigError, match="K562 must be a mapping of tracks"):
        read_manifest(tmp_path / "list.yaml")


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="data: cannot be written"):
        fetch("K562", tmp_path / "file" / "data", manifest(server, tmp_path))


def test_the_packages_manifest_names_tracks_that_the_models_read():
    cells = read_cells()
    for cell, tracks in read_manifest().items():
        assert set(tracks) <= set(cells["K562"].track_names), cell
        for track in tracks.values():
            assert track.accession in track.url
            assert track.url.startswith("https://")
