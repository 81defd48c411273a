"""An invented genome whose every regulatory effect is known, of any size, from a seed: three tasks for a network.

    expression = log10(noise * promoter * (1 + GAIN * sum over enhancers of activity * contact) + 1)

over the enhancers in a gene's window; contact is that of the 5-kb bin of the enhancer's middle with the TSS, as the
track of contacts shows it. No TSS lies in the window of another gene. What tells enhancers from decoys, and where
they lie, is the task:

    tracks   a decoy lacks one of the two tracks; all elements carry the motifs
    dna      a decoy has both tracks and no motif; a third of enhancers, weaker than the others, and a third of decoys
             have faint tracks
    far      as tracks, but most elements lie 20 kb and more from every TSS

Contract: the same settings give the same genome everywhere, and every number is short enough to survive a text file.
Chromosomes, not genes, are held out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.config import FeatureSpec, InputSpec, TrackKind, TrackSpec, Transform
from kipoi_seq2exp.data.dataset import WindowInputs, transformed
from kipoi_seq2exp.data.sequence import encode_bases
from kipoi_seq2exp.data.tracks.contacts import expand_bins
from kipoi_seq2exp.data.windows import Window, pad
from kipoi_seq2exp.errors import ConfigError, InputError
from kipoi_seq2exp.judge import invented
from kipoi_seq2exp.judge.invented import BIN_BP, STEP_BP, Bases

Floats = NDArray[np.float64]
Values = TypeVar("Values", NDArray[np.uint8], NDArray[np.float32])
Tracks = dict[str, dict[str, NDArray[np.float32]]]

GAIN = 8.0
NOISE, PROMOTERS = 0.1, 0.1
"""Expression varies by +-10 % and promoters by +-0.1 of log10; neither is explained by any enhancer."""

PROMOTER_BP = 2_048  # a whole number of tokens of 16, 32 and 64 bases
PROMOTER_FLANK_BP = 500  # of the features
FAR_BP = 20_000
WINDOWS_BP = {"tracks": 50_048, "dna": 30_080, "far": 200_000}  # that the tasks are made for
GAP_BP = 3_200  # between the middles of two elements at the least: a mask of +-1 kb changes one alone
FREE_BP = 3_000  # round a TSS, without elements
SPACING_BP = {"tracks": 5_000, "dna": 4_200, "far": 9_000}  # of elements on average
NEAR_SHARE = 0.1  # task far: share of elements that may lie within 20 kb of a TSS
FAINT = 0.04  # height of faint tracks
MOTIFS = 4  # in the weakest enhancer; four more for each unit of activity
KINDS = {
    "tracks": {"enhancer": 0.5, "open_decoy": 0.25, "marked_decoy": 0.25},
    "dna": {"enhancer": 0.33, "faint_enhancer": 0.17, "decoy": 0.33, "faint_decoy": 0.17},
    "far": {"enhancer": 0.5, "open_decoy": 0.25, "marked_decoy": 0.25},
}
FEATURES = {"H3K27AC_500": "h3k27ac", "DNASE_500": "dnase"}  # of a gene: what its track is at the TSS +-500 bp
ENHANCERS = ("enhancer", "faint_enhancer")
PARTS = ("train", "validation", "test")


class Task(str, enum.Enum):
    """What tells an enhancer from a decoy, or where it lies."""

    TRACKS = "tracks"
    DNA = "dna"
    FAR = "far"


@dataclass(frozen=True)
class GenomeSettings:
    """What an invented genome follows from.

    Attributes
    ----------
    task : Task
    seed : int
    genes : int
        Number of genes, spread evenly over the chromosomes.
    window_bp : int
        Length of a gene's window; enhancers within it act on the gene.
    chromosomes : int
        A fifth of them (rounded) is held out for the test, a tenth for validation, at least one each.
    """

    task: Task = Task.TRACKS
    seed: int = 1
    genes: int = 800
    window_bp: int = 50_048
    chromosomes: int = 20

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, found {self.seed}.")
        least = 2 * (PROMOTER_BP // 2 + FREE_BP + GAP_BP) if self.task is not Task.FAR else 4 * FAR_BP
        if self.window_bp < least or self.window_bp % 2:
            raise ConfigError(
                f"window_bp must be even and at least {least:,} for the task '{self.task.value}', so that elements fit "
                f"into it, found {self.window_bp:,}."
            )
        if self.chromosomes < 3 or self.genes < 2 * self.chromosomes:
            raise ConfigError(
                f"{self.genes} genes on {self.chromosomes} chromosomes leave no gene to hold out: give at least 3 "
                f"chromosomes, and at least 2 genes for each."
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The part of the split that each chromosome belongs to."""
        test = max(1, round(self.chromosomes / 5))
        validation = max(1, round(self.chromosomes / 10))
        return ("train",) * (self.chromosomes - test - validation) + ("validation",) * validation + ("test",) * test

    @property
    def inputs(self) -> InputSpec:
        """What a network reads: H3K27ac and DNase as ln(x + 1), contact as log10(x + 1), promoters' heights."""
        return InputSpec(
            cell_type="invented",
            tracks=(
                TrackSpec("h3k27ac", transform=Transform.LOG1P, unit="invented"),
                TrackSpec("dnase", transform=Transform.LOG1P, unit="invented"),
                TrackSpec("hic", TrackKind.CONTACT, Transform.LOG10P1, "contact with the TSS, 1 within 5 kb"),
            ),
            features=tuple(
                FeatureSpec(name, unit="ln(mean + 1)", description=f"{track}, mean over the TSS +-500 bp")
                for name, track in FEATURES.items()
            ),
            assembly=f"invented-{self.task.value}-{self.seed}",
            window_bp=self.window_bp,
            promoter_bp=PROMOTER_BP,
            label="log10(x + 1) of an invented expression",
        )


@dataclass(frozen=True)
class KnownTruth:
    """The genes and elements of an invented genome, and what each element does to each gene.

    Attributes
    ----------
    settings : GenomeSettings
    genes : DataFrame
        gene_id, chrom, tss, strand, part (of the split), promoter (x of log10(x + 1) without any enhancer), truth
        (expression without noise), expression; H3K27AC_500 and DNASE_500, ln(mean + 1) of the track at the TSS
        +-500 bp.
    elements : DataFrame
        name, chrom, start, end, kind, strength (what the tracks' heights follow), activity (0 for decoys).
    pairs : DataFrame
        A row for each element in the window of a gene: gene_id, name, chrom, start, end, distance_bp, contact,
        regulated (an enhancer), effect (fall of log10 expression without noise when the element is taken away).
    """

    settings: GenomeSettings
    genes: pd.DataFrame
    elements: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def inputs(self) -> InputSpec:
        """What a network reads of the genome."""
        return self.settings.inputs

    def rows(self, part: str) -> NDArray[np.int64]:
        """Return the rows of the genes of one part of the split."""
        return np.flatnonzero((self.genes["part"] == part).to_numpy())

    def __len__(self) -> int:
        return len(self.genes)


@dataclass(frozen=True)
class RecoveryGenome(KnownTruth):
    """An invented genome in memory.

    Attributes
    ----------
    bases : dict of str to ndarray of uint8
        Letters of each chromosome.
    tracks : dict of str to dict of str to ndarray of float32
        A value for each `STEP_BP` of each chromosome.
    contacts : dict of str to (int, ndarray)
        First bin of a gene's window, and the contact of each bin from there on.
    """

    bases: dict[str, Bases]
    tracks: Tracks
    contacts: dict[str, tuple[int, NDArray[np.float32]]]

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Chromosomes and their lengths in bp."""
        return {chrom: len(letters) for chrom, letters in self.bases.items()}

    def __getitem__(self, index: int) -> WindowInputs:
        """Return the window of a gene as a `WindowDataset` over its files would."""
        gene = self.genes.iloc[index]
        window = Window.around(str(gene["chrom"]), int(gene["tss"]), self.settings.window_bp)
        first, last = window.inside(self.lengths[window.chrom])
        onehot = _padded(encode_bases(self.bases[window.chrom][first:last].tobytes()), window, first)
        signals = np.empty((len(window), 3), dtype=np.float32)
        for column, spec in enumerate(self.inputs.tracks):
            if spec.kind is TrackKind.CONTACT:
                bin_, contact = self.contacts[str(gene["gene_id"])]
                span = (max(window.start, bin_ * BIN_BP), window.end)
                inside = expand_bins(contact.astype(np.float64), BIN_BP, span, self.lengths[window.chrom])
                values = _padded(inside, window, span[0])
            else:
                steps = self.tracks[spec.name][window.chrom][first // STEP_BP : -(-last // STEP_BP)]
                offset = first % STEP_BP
                values = _padded(np.repeat(steps, STEP_BP)[offset : offset + last - first], window, first)
            signals[:, column] = transformed(values, spec.transform)
        return WindowInputs(
            gene_id=str(gene["gene_id"]),
            chrom=window.chrom,
            tss=int(gene["tss"]),
            strand=str(gene["strand"]),
            start=window.start,
            end=window.end,
            onehot=onehot,
            signals=signals,
            features=np.array([gene[name] for name in FEATURES], dtype=np.float32),
            blacklist=np.zeros(len(window), dtype=np.bool_),
        )


def _padded(values: Values, window: Window, start: int) -> Values:
    return pad(values, window, start)  # type: ignore[return-value]


def invent_genome(settings: GenomeSettings) -> RecoveryGenome:
    """Make a genome.

    Raises
    ------
    InputError
        If its held-out genes have no enhancer or no decoy to tell apart.
    """
    chroms = [f"chr{number}" for number in range(1, settings.chromosomes + 1)]
    counts = np.diff(np.linspace(0, settings.genes, settings.chromosomes + 1).astype(int))
    layouts = [_lay_out(settings, chrom, int(count)) for chrom, count in zip(chroms, counts, strict=True)]
    genes = pd.concat([layout.genes for layout in layouts], ignore_index=True)
    genes.insert(0, "gene_id", [f"G{number:05d}" for number in range(1, len(genes) + 1)])
    genes["part"] = genes["chrom"].map(dict(zip(chroms, settings.parts, strict=True)))
    elements = pd.concat([layout.elements for layout in layouts], ignore_index=True)
    elements.insert(0, "name", [f"E{number:05d}" for number in range(1, len(elements) + 1)])
    boundaries = {chrom: layout.boundaries for chrom, layout in zip(chroms, layouts, strict=True)}
    lengths = {chrom: layout.length for chrom, layout in zip(chroms, layouts, strict=True)}
    pairs, contacts = _join(settings, genes, elements, boundaries, lengths)
    _express(settings, genes, pairs)
    held_out = genes.loc[genes["part"] == "test", "gene_id"]
    if pairs.loc[pairs["gene_id"].isin(held_out), "regulated"].nunique() < 2:
        raise InputError(
            f"seed {settings.seed} leaves the {len(held_out)} held-out genes without an enhancer or without a decoy: "
            "take more genes, or another seed."
        )
    bases = {chrom: _write_bases(settings, number, chrom, elements, lengths) for number, chrom in enumerate(chroms)}
    tracks: Tracks = {"h3k27ac": {}, "dnase": {}}
    for number, chrom in enumerate(chroms):
        of_chrom = genes[genes["chrom"] == chrom], elements[elements["chrom"] == chrom]
        tracks["h3k27ac"][chrom], tracks["dnase"][chrom] = _measure(settings, number, *of_chrom, lengths[chrom])
    for name, track in FEATURES.items():
        genes[name] = [
            _height(tracks[track][chrom], tss) for chrom, tss in zip(genes["chrom"], genes["tss"], strict=True)
        ]
    return RecoveryGenome(settings, genes, elements, pairs.drop(columns="activity"), bases, tracks, contacts)


@dataclass(frozen=True)
class _Layout:
    """Where the genes, elements and domains of a chromosome lie."""

    length: int
    genes: pd.DataFrame
    elements: pd.DataFrame
    boundaries: NDArray[np.int64]


def _draws(settings: GenomeSettings, part: str, number: int = 0) -> np.random.Generator:
    """Return a generator for one part and one chromosome."""
    task = list(Task).index(settings.task)
    parts = ("layout", "loops", "noise", "bases", "tracks")
    return np.random.Generator(np.random.PCG64([settings.seed, task, parts.index(part), number]))


def _lay_out(settings: GenomeSettings, chrom: str, count: int) -> _Layout:
    """Place the genes of a chromosome, then elements between them, then the boundaries of domains."""
    rng = _draws(settings, "layout", int(chrom[3:]))
    half = settings.window_bp // 2
    apart = half + PROMOTER_BP + (0.1 * half * rng.random(count)).astype(int)  # no TSS in another gene's window
    tss = np.cumsum(apart) - apart[0] + int(0.8 * half)  # the outer windows reach beyond the chromosome
    length = int(tss[-1] + 0.8 * half)
    strands = np.where(rng.random(count) < 0.5, "+", "-")
    promoters = np.round(10 ** (1.5 + PROMOTERS * (2 * rng.random(count) - 1)), 3)
    genes = pd.DataFrame({"chrom": chrom, "tss": tss, "strand": strands, "promoter": promoters})
    spacing = SPACING_BP[settings.task.value] - GAP_BP
    gaps = GAP_BP + (-np.log1p(-rng.random(2 * length // GAP_BP)) * spacing).astype(int)
    centres = np.cumsum(gaps)
    centres = centres[centres < length - GAP_BP]
    distance = np.abs(centres[:, None] - tss[None]).min(axis=1)
    free = np.full(len(centres), FREE_BP)
    if settings.task is Task.FAR:
        free[rng.random(len(centres)) >= NEAR_SHARE] = FAR_BP
    centres = centres[distance >= free]
    boundaries = np.cumsum((60_000 + 120_000 * rng.random(length // 60_000 + 1)).astype(int))
    return _Layout(length, genes, _draw_elements(settings, chrom, centres, rng), boundaries[boundaries < length])


def _draw_elements(
    settings: GenomeSettings, chrom: str, centres: NDArray[np.int64], rng: np.random.Generator
) -> pd.DataFrame:
    kinds = KINDS[settings.task.value]
    edges = np.cumsum(list(kinds.values()))
    drawn = np.array(list(kinds))[np.searchsorted(edges[:-1], rng.random(len(centres)), side="right")]
    widths = 500 + (300 * rng.random(len(centres))).astype(int)
    spread = np.where(np.char.startswith(drawn, "faint"), 0.5, 1.25)
    strength = np.round(0.25 + spread * rng.random(len(centres)), 3)
    start = centres - widths // 2
    return pd.DataFrame(
        {
            "chrom": chrom,
            "start": start,
            "end": start + widths,
            "kind": drawn,
            "strength": strength,
            "activity": np.where(np.isin(drawn, ENHANCERS), strength, 0.0),
        }
    )


def _join(
    settings: GenomeSettings,
    genes: pd.DataFrame,
    elements: pd.DataFrame,
    boundaries: dict[str, NDArray[np.int64]],
    lengths: dict[str, int],
) -> tuple[pd.DataFrame, dict[str, tuple[int, NDArray[np.float32]]]]:
    """Pair every gene with the elements of its window, and work out the contacts of its bins."""
    rng, half = _draws(settings, "loops"), settings.window_bp // 2
    by_chrom = {str(chrom): rows for chrom, rows in elements.groupby("chrom", sort=False)}
    tables, contacts = [], {}
    for gene in genes.itertuples():
        of_chrom = by_chrom.get(gene.chrom, elements.iloc[:0])
        centre = ((of_chrom["start"] + of_chrom["end"]) // 2).to_numpy()
        inside = np.abs(centre - gene.tss) < half - BIN_BP // 5
        near, centre = of_chrom[inside], centre[inside]
        far = np.flatnonzero(np.abs(centre - gene.tss) >= min(FAR_BP, half // 2))
        loops = [(int(centre[far[int(len(far) * rng.random())]]), int(gene.tss))] if far.size else []
        first, last = max(0, gene.tss - half) // BIN_BP, -(-min(gene.tss + half, lengths[gene.chrom]) // BIN_BP)
        ends = boundaries[gene.chrom]
        reached = ends[np.abs(ends - gene.tss) <= half + BIN_BP]
        middles = np.arange(first, last) * BIN_BP + BIN_BP // 2
        exact = invented.contact(middles, int(gene.tss), reached.tolist(), loops)
        profile = np.round(exact, 4).astype(np.float32)
        contacts[str(gene.gene_id)] = (int(first), profile)
        pairs = near[["name", "chrom", "start", "end", "activity"]].assign(
            gene_id=gene.gene_id,
            distance_bp=np.abs(centre - gene.tss),
            contact=np.round(exact, 4)[centre // BIN_BP - first],
            regulated=near["kind"].isin(ENHANCERS),
        )
        tables.append(pairs)
    return pd.concat(tables, ignore_index=True), contacts


def _express(settings: GenomeSettings, genes: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Fill in the genes' expression and the pairs' effects."""
    rng = _draws(settings, "noise")
    parts = GAIN * pairs["activity"] * pairs["contact"]
    sums = parts.groupby(pairs["gene_id"]).sum().reindex(genes["gene_id"], fill_value=0.0).to_numpy()
    amount = genes["promoter"].to_numpy() * (1 + sums)
    genes["truth"] = np.round(np.log10(amount + 1), 5)
    noise = 1 - NOISE + 2 * NOISE * rng.random(len(genes))
    genes["expression"] = np.round(np.log10(noise * amount + 1), 5)
    row = pd.Series(np.arange(len(genes)), index=genes["gene_id"])[pairs["gene_id"]].to_numpy()
    without = amount[row] - genes["promoter"].to_numpy()[row] * parts.to_numpy()
    pairs["effect"] = np.round(np.log10(amount[row] + 1) - np.log10(without + 1), 5)


def _write_bases(
    settings: GenomeSettings, number: int, chrom: str, elements: pd.DataFrame, lengths: dict[str, int]
) -> Bases:
    """Write the DNA of a chromosome: background, then the motifs of its elements."""
    rng = _draws(settings, "bases", number)
    gc = np.repeat(0.36 + 0.14 * rng.random(lengths[chrom] // 20_000 + 1), 20_000)[: lengths[chrom]]
    bases = invented.deplete_cpg(invented.random_bases(rng, gc), rng)
    for element in elements[elements["chrom"] == chrom].itertuples():
        bases[element.start : element.end] = invented.random_bases(rng, np.full(element.end - element.start, 0.5))
        if settings.task is Task.DNA and element.kind not in ENHANCERS:
            continue
        copies = MOTIFS + round(4 * element.strength)
        middle = (element.start + element.end) // 2
        invented.plant_motifs(bases, middle, invented.ENHANCER_MOTIFS, copies, rng)
    return bases


def _measure(
    settings: GenomeSettings, number: int, genes: pd.DataFrame, elements: pd.DataFrame, length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw H3K27ac and DNase of a chromosome: background, promoters, elements."""
    rng = _draws(settings, "tracks", number)
    size = -(-length // STEP_BP)
    dnase, h3k27ac = invented.background(rng, size)
    at: Floats = np.arange(size, dtype=np.float64) * STEP_BP + STEP_BP / 2
    places = [(int(gene.tss), float(np.log10(gene.promoter) - 0.5), "promoter") for gene in genes.itertuples()]
    places += [((e.start + e.end) // 2, float(e.strength), str(e.kind)) for e in elements.itertuples()]
    for centre, strength, kind in places:
        wobble = 0.8 + 0.4 * rng.random(3) if kind != "promoter" else np.ones(3)
        around = slice(max(0, (centre - 3_000) // STEP_BP), (centre + 3_000) // STEP_BP)
        height = FAINT if kind.startswith("faint") else strength
        if kind != "marked_decoy":
            dnase[around] += invented.dnase_peak(at[around], centre, height, float(wobble[0]))
        if kind != "open_decoy":
            for nucleosome in invented.h3k27ac_peaks(at[around], centre, height, wobble[1:]):
                h3k27ac[around] += nucleosome
    return np.round(h3k27ac, 2).astype(np.float32), np.round(dnase, 2).astype(np.float32)


def _height(steps: NDArray[np.float32], tss: int) -> float:
    """Return ln(mean + 1) of a track at a TSS +-500 bp."""
    around = steps[(tss - PROMOTER_FLANK_BP) // STEP_BP : (tss + PROMOTER_FLANK_BP) // STEP_BP]
    return round(float(np.log1p(around.mean(dtype=np.float64))), 5)


def near_share(genome: KnownTruth, beyond_bp: int = FAR_BP) -> float:
    """Return the share of the variance of expression without noise that elements within a distance explain alone.

    It is one minus the variance that is left when the sums of nearer elements are known exactly and those beyond are
    put at their mean.
    """
    genes = genome.genes
    pairs = genome.pairs.merge(genome.elements[["name", "activity"]], on="name")
    parts = (GAIN * pairs["activity"] * pairs["contact"]).to_numpy()
    index = pd.Index(genes["gene_id"])
    near = pd.Series(np.where(pairs["distance_bp"] < beyond_bp, parts, 0)).groupby(pairs["gene_id"].to_numpy()).sum()
    every = pd.Series(parts).groupby(pairs["gene_id"].to_numpy()).sum()
    near, every = near.reindex(index, fill_value=0).to_numpy(), every.reindex(index, fill_value=0).to_numpy()
    guess = np.log10(genes["promoter"] * (1 + near + (every - near).mean()) + 1)
    truth = genes["truth"]
    return float(1 - np.mean((truth - guess) ** 2) / np.var(truth))
