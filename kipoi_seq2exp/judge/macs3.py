"""Peaks of a signal track by the MACS3 program itself, run as a separate process.

Contract: a track and the chromosomes that are needed in; the narrowPeak that `macs3 bdgpeakcall` wrote out, with its
version, command and cutoff. MACS3's `callpeak` starts from aligned reads, which a bigWig no longer holds; `bdgpeakcall`
is its step from a signal to peaks: stretches above a cutoff, gaps closed, short ones dropped.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.data.naming import listing
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.tracks.track import SignalTrack
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.files import output_error
from kipoi_seq2exp.prediction.run import Run
from kipoi_seq2exp.settings import suggest

PROGRAM = "macs3"
FOLD = 5.0
"""Default cutoff, as a multiple of the track's mean: the least enrichment that `macs3 callpeak` builds its model on."""

_PIECE_BP = 1_000_000
_INSTALL = (
    "install it (pip install 'kipoi-seq2exp[peaks]', which needs a C compiler, or conda install -c bioconda macs3), or "
    "give called peaks (--peaks)"
)


@dataclass(frozen=True)
class PeakSettings:
    """How `macs3 bdgpeakcall` cuts a track.

    Attributes
    ----------
    cutoff : float or None
        Least value of a peak, in the track's own unit; None: `fold` times its mean over the chromosomes read.
    min_length_bp, max_gap_bp : int
        Shorter peaks are dropped; stretches at most this far apart are joined first. MACS3's own defaults.
    fold : float
        Of the track's mean: the cutoff where none is given.
    """

    cutoff: float | None = None
    min_length_bp: int = 200
    max_gap_bp: int = 30
    fold: float = FOLD

    def __post_init__(self) -> None:
        for name, value in (("cutoff", self.cutoff), ("fold", self.fold)):
            if value is not None and not 0 < value < np.inf:
                raise ConfigError(f"the {name} of MACS3 must be a finite number above 0, found {value:g}.")
        if self.min_length_bp < 1 or self.max_gap_bp < 0:
            raise ConfigError(
                f"MACS3's least length must be at least 1 bp and its gap at least 0, found {self.min_length_bp} and "
                f"{self.max_gap_bp}."
            )


@dataclass(frozen=True)
class CalledPeaks:
    """What MACS3 called on one track.

    Attributes
    ----------
    path : Path
        The narrowPeak, as MACS3 wrote it.
    count : int
        Its peaks.
    cutoff : float
        As given to MACS3.
    mean : float
        Mean of the track over the chromosomes read.
    command : str
        The exact command; the bedGraph in it holds the chromosomes read, base by base, and was not kept.
    version : str
        Output of `macs3 --version`.
    """

    path: Path
    count: int
    cutoff: float
    mean: float
    command: str
    version: str

    @property
    def line(self) -> str:
        """One line for the reader."""
        return (
            f"{self.version}: {self.count} peaks at a cutoff of {self.cutoff:g}, {self.cutoff / self.mean:.3g} times "
            f"the mean ({self.command})"
        )


@dataclass(frozen=True)
class Macs3:
    """The installed program: its file and the version that it states."""

    file: str
    version: str


def _installed() -> str | None:
    beside = str(Path(sys.executable).parent)
    return shutil.which(PROGRAM, path=os.pathsep.join([os.environ.get("PATH", os.defpath), beside]))


def is_installed() -> bool:
    """Whether MACS3 is on PATH or beside the Python that runs."""
    return _installed() is not None


def find_macs3() -> Macs3:
    """Find MACS3 on PATH or beside the Python that runs, and ask for its version.

    Raises
    ------
    ConfigError
        If it is not there or does not run.
    """
    file = _installed()
    if file is None:
        raise ConfigError(f"the program {PROGRAM} is not on PATH: {_INSTALL}.")
    done = _run([file, "--version"], Path.cwd())
    return Macs3(file, done.stdout.strip() or PROGRAM)


def call_tracks(run: Run, names: Iterable[str], settings: PeakSettings, folder: Path) -> dict[str, CalledPeaks]:
    """Call the peaks of tracks of a run, over the chromosomes of its genes.

    Parameters
    ----------
    run : Run
    names : iterable of str
        Of tracks.
    settings : PeakSettings
    folder : Path
        Gets a macs3_NAME.narrowPeak for each track.

    Returns
    -------
    dict of str to CalledPeaks
        By track.

    Raises
    ------
    ConfigError
        If a name is not a signal track of the model, or MACS3 is absent or fails.
    """
    names, specs = list(names), {track.name: track for track in run.dataset.inputs.tracks}
    for name in names:
        if name not in specs:
            raise ConfigError(f"--macs3 {name}: the model reads {listing(specs)}{suggest(name, specs)}.")
        if specs[name].kind is not TrackKind.BIGWIG:
            raise ConfigError(f"--macs3 {name}: it is a track of contacts; MACS3 calls the peaks of a signal.")
    program, genome, chroms = find_macs3(), run.dataset.genome.lengths, set(run.dataset.genes["chrom"])
    lengths = {chrom: length for chrom, length in genome.items() if chrom in chroms}
    found = {}
    for name in names:
        with open_signal(run.request.sources[name], specs[name]) as track:
            found[name] = call_peaks(program, track, lengths, settings, folder / f"macs3_{name}.narrowPeak")
    return found


def call_peaks(
    program: Macs3, track: SignalTrack[Any], lengths: Mapping[str, int], settings: PeakSettings, path: Path
) -> CalledPeaks:
    """Call the peaks of a track.

    Parameters
    ----------
    program : Macs3
    track : SignalTrack
    lengths : mapping of str to int
        The chromosomes to read, and their lengths in bp.
    settings : PeakSettings
    path : Path
        The narrowPeak to write; its folder must exist.

    Raises
    ------
    InputError
        If the track is 0 everywhere, or no peak reaches the cutoff.
    ConfigError
        If MACS3 fails.
    OutputError
        If the folder cannot be written to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".macs3.", dir=path.parent) as name:
            folder = Path(name)
            signal, found = f"{path.stem}.bedGraph", path.name
            with (folder / signal).open("w", encoding="utf-8") as handle:
                mean, largest = write_bedgraph(track, lengths, handle)
            if not largest:
                raise InputError(f"{track.where} is 0 on {listing(lengths)}: there are no peaks to call.")
            cutoff = float(f"{settings.fold * mean:.6g}") if settings.cutoff is None else settings.cutoff
            words = ["bdgpeakcall", "-i", signal, "-o", found, "-c", f"{cutoff:g}"]
            words += ["-l", str(settings.min_length_bp), "-g", str(settings.max_gap_bp), "--no-trackline"]
            _run([program.file, *words], folder)
            count = _count(folder / found)
            if not count:
                raise InputError(
                    f"{track.where}: {program.version} calls no peak at a cutoff of {cutoff:g} (the largest value is "
                    f"{largest:g}, the mean {mean:.3g}): give a lower one (--macs3-cutoff)."
                )
            (folder / found).replace(path)
    except OSError as error:
        raise output_error(path, error) from None
    return CalledPeaks(path, count, cutoff, mean, shlex.join([PROGRAM, *words]), program.version)


def write_bedgraph(track: SignalTrack[Any], lengths: Mapping[str, int], handle: TextIO) -> tuple[float, float]:
    """Write whole chromosomes of a track as bedGraph; return its mean and its largest value.

    Bases without a value are written as 0: MACS3 reads ends and values alone, so that a gap would get the value that
    follows it.
    """
    total, largest = 0.0, 0.0
    for chrom, length in lengths.items():
        for start, end, value in _runs(track, chrom, length):
            handle.write(f"{chrom}\t{start}\t{end}\t{value:g}\n")
            total += value * (end - start)
            largest = max(largest, value)
    return total / max(sum(lengths.values()), 1), largest


def _runs(track: SignalTrack[Any], chrom: str, length: int) -> Iterator[tuple[int, int, float]]:
    """Yield runs of equal values, from the chromosome's first base to its last."""
    for first in range(0, length, _PIECE_BP):
        last = min(first + _PIECE_BP, length)
        values = track.values(chrom, first, last)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [last - first]])
        for start, end, value in zip(edges[:-1].tolist(), edges[1:].tolist(), values[edges[:-1]].tolist(), strict=True):
            yield first + start, first + end, value


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder.

    Raises
    ------
    ConfigError
        If it cannot be started or fails; the message has the last line of its output.
    """
    shown = shlex.join([PROGRAM, *words[1:]])
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"{words[0]} cannot be run ({error.strerror}): {_INSTALL}.") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise ConfigError(
            f"`{shown}` failed with status {done.returncode} ({said}): check that {PROGRAM} runs by itself, or give "
            f"called peaks (--peaks)."
        )
    return done


def _count(path: Path) -> int:
    """Count the lines of the result; MACS3 may leave none at all where nothing reaches the cutoff."""
    if not path.exists():
        return 0
    with path.open(encoding="utf-8") as lines:
        return sum(1 for _ in lines)
