"""Download of public tracks that a manifest names, each checked by its hash.

The manifest is YAML: cell type -> track -> `accession`, `url`, and `hash` ("sha256:..." or "md5:..."; null where the
source publishes none that we know). The package's own is `kipoi_seq2exp/training/tracks.yaml`. A file without a known
hash is accepted the first time if it is of the format that its name says (no web page of a login, say), its SHA-256 is
written to `SHA256SUMS` beside it, and from then on it is checked against that.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kipoi_seq2exp.data.handles import file_ends
from kipoi_seq2exp.data.tracks.bigwig_file import ENDINGS, check_bigwig
from kipoi_seq2exp.errors import ConfigError, InputError, OutputError, brief
from kipoi_seq2exp.files import file_sha256, make_folder, write_text
from kipoi_seq2exp.settings import from_mapping, read_yaml, suggest

MANIFEST = Path(__file__).with_name("tracks.yaml")
SUMS = "SHA256SUMS"
_FORMATS: tuple[tuple[tuple[str, ...], str, tuple[bytes, ...]], ...] = (  # endings of names, what it is, how it begins
    ((".gz", ".bgz"), "a gzip file", (b"\x1f\x8b",)),
    ((".hic",), "a Hi-C file (.hic)", (b"HIC\0",)),
    ((".cool", ".mcool", ".h5", ".hdf5"), "an HDF5 file", (b"\x89HDF\r\n\x1a\n",)),
    ((".fa", ".fasta"), "a FASTA", (b">", b";")),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


@dataclass(frozen=True)
class PublicTrack:
    """One file to download.

    Attributes
    ----------
    accession : str
        The source's name for the file.
    url : str
    hash : str or None
        "sha256:..." or "md5:...".
    """

    accession: str
    url: str
    hash: str | None = None


@dataclass(frozen=True)
class Fetched:
    """A file that is there now.

    Attributes
    ----------
    track : str
    path : Path
    sha256 : str
    verified : bool
        Whether its hash was known beforehand.
    """

    track: str
    path: Path
    sha256: str
    verified: bool


def read_manifest(path: str | Path | None = None) -> dict[str, dict[str, PublicTrack]]:
    """Read a manifest: cell type -> track name -> file.

    Raises
    ------
    InputError, ConfigError
        If it cannot be read, or a field is unknown, missing or of the wrong type.
    """
    file = MANIFEST if path is None else Path(path)
    manifest: dict[str, dict[str, PublicTrack]] = {}
    for cell, tracks in read_yaml(file).items():
        if not isinstance(tracks, dict):
            raise ConfigError(f"{file}: {cell} must be a mapping of tracks, found {tracks!r}.")
        manifest[str(cell)] = {
            str(name): from_mapping(PublicTrack, fields, f"{file}: {cell}.{name}") for name, fields in tracks.items()
        }
    return manifest


def fetch(
    cell_type: str, folder: str | Path, manifest: str | Path | None = None, *, progress: bool = False
) -> tuple[Fetched, ...]:
    """Download the tracks of a cell type; files that are there and intact are left as they are.

    Parameters
    ----------
    cell_type : str
        Row of the manifest.
    folder : path
        Target folder; the files get the names of their URLs.
    manifest : path, optional
        Another manifest than the package's own.
    progress : bool
        Show a progress bar for each file, where somebody watches.

    Raises
    ------
    ConfigError
        If the manifest has no such cell type, or pooch is not installed.
    InputError
        If a file cannot be downloaded, or is not the one that the manifest names; nothing of it is kept.
    OutputError
        If the folder cannot be written.
    """
    rows = read_manifest(manifest)
    if cell_type not in rows:
        raise ConfigError(f"no public tracks of '{cell_type}' are known{suggest(cell_type, rows)}.")
    folder = Path(folder)
    make_folder(folder)
    return tuple(_fetch_one(name, track, folder, progress=progress) for name, track in rows[cell_type].items())


def _fetch_one(name: str, track: PublicTrack, folder: Path, *, progress: bool) -> Fetched:
    file = Path(track.url.split("?")[0]).name
    sums = _read_sums(folder)
    known = track.hash or (f"sha256:{sums[file]}" if file in sums else None)
    there = (folder / file).exists()
    path = Path(_retrieve(name, track, file, folder, known, progress))
    if known is None:
        try:
            check_format(path, f"track '{name}' ({track.accession}): what {track.url} gave")
        except InputError:
            if not there:
                path.unlink(missing_ok=True)
            raise
    sha256 = file_sha256(path)
    if sums.get(file) != sha256:
        _write_sums(folder, {**sums, file: sha256})
    return Fetched(name, path, sha256, verified=known is not None)


def _retrieve(name: str, track: PublicTrack, file: str, folder: Path, known: str | None, progress: bool) -> Any:
    try:
        import pooch
        import requests
    except ImportError:
        raise ConfigError("fetching needs pooch: pip install 'kipoi-seq2exp[train]'.") from None
    pooch.get_logger().setLevel("ERROR")
    source = f"track '{name}' ({track.accession})"
    try:
        return pooch.retrieve(track.url, known, file, folder, progressbar=progress and sys.stderr.isatty())
    except requests.RequestException as error:
        raise InputError(f"{source}: {track.url} cannot be downloaded ({brief(error)}).") from None
    except ValueError as error:
        if "hash" not in str(error):
            raise InputError(f"{source}: {track.url} cannot be downloaded ({brief(error)}).") from None
        raise InputError(
            f"{source}: what {track.url} gave is not the file that was expected ({known}): it "
            "was damaged on the way, or the source replaced it."
        ) from None
    except OSError as error:
        raise OutputError(f"{folder / file}: cannot be written ({error.strerror}).") from None


def check_format(path: Path, where: str) -> None:
    """Check that a file begins like the format that its name stands for, and is not a web page.

    Raises
    ------
    InputError
        If it does not; a bigWig is checked as a whole.
    """
    name = path.name.lower()
    if name.endswith(ENDINGS):
        check_bigwig(path, where)
        return
    _, head, _ = file_ends(path, where, "a file of data", (512, 0))
    for endings, kind, magics in _FORMATS:
        if name.endswith(endings):
            if not head.startswith(magics):
                raise InputError(f"{where} is not {kind}: it starts with {head[:16].decode('latin-1')!r}.")
            return
    if head.lstrip().lower().startswith(_PAGES):
        raise InputError(f"{where} is a web page, not {path.name}: open the address in a browser to see why.")


def _read_sums(folder: Path) -> dict[str, str]:
    if not (folder / SUMS).is_file():
        return {}
    lines = (
        line.split(maxsplit=1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines() if line.strip()
    )
    return {file.strip().lstrip("*"): digest for digest, file in lines}


def _write_sums(folder: Path, sums: dict[str, str]) -> None:
    write_text(folder / SUMS, "".join(f"{digest}  {file}\n" for file, digest in sorted(sums.items())))
