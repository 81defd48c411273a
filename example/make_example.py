"""Make the example: a small invented genome whose expression follows from planted elements, in real file formats.

    python example/make_example.py            # writes the files beside this script, the same bytes every time

The assembly is called `seq2exp-example`; it is hg38-like in its habits (chr names, soft-masked repeats, CpG islands,
N at the telomeres and in a gap) but no base of it comes from any organism. The truth is written down:

    CAGE = promoter * (1 + GAIN * sum over enhancers of activity * contact),    expression = log10(CAGE + 1)

with the sum over every enhancer within 100 kb of the TSS and contact = (distance / 5 kb) ** -0.87, weakened across a
domain boundary and raised in a loop: what contacts.cool shows. Decoys (open but inactive, marked but closed, motifs
that nothing reads) look like enhancers in one source of evidence and change nothing. README.md lists the files.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from example_files import write_bigwig, write_cooler

from kipoi_seq2exp.judge.invented import (
    BIN_BP,
    ENHANCER_MOTIFS,
    STEP_BP,
    background,
    deplete_cpg,
    dnase_peak,
    h3k27ac_peaks,
    motif_copies,
    plant_motifs,
    random_bases,
    write_fasta,
)
from kipoi_seq2exp.judge.invented import contact as contact_of

ASSEMBLY = "seq2exp-example"
SEED = 22
LENGTHS = {"chr1": 640_000, "chr2": 480_000}
BOUNDARIES = {"chr1": (213_000, 424_000), "chr2": (222_000,)}  # between contact domains
TELOMERE_BP = 10_000  # N at both ends of each chromosome
GAPS = (("chr1", 331_000, 333_500),)  # N inside a chromosome
BLACKLIST = (("chr1", 150_500, 152_500), ("chr1", 509_000, 512_000), ("chr2", 330_500, 331_700))
REACH_BP = 100_000  # half the published window
GAIN = 8.0
GENES = (  # name, chromosome, TSS, strand, log10 of the promoter's own CAGE, exons, gene length
    ("GENE01", "chr1", 118_000, "+", 1.7, 6, 21_000),
    ("GENE02", "chr1", 196_500, "-", 1.2, 4, 16_000),
    ("GENE03", "chr1", 243_000, "+", 0.0, 5, 30_000),
    ("GENE04", "chr1", 325_200, "-", 2.1, 9, 26_000),
    ("GENE05", "chr1", 371_800, "+", 0.9, 3, 9_000),
    ("GENE06", "chr1", 466_000, "+", 1.4, 7, 33_000),
    ("GENE07", "chr1", 562_300, "-", 0.4, 5, 19_000),
    ("GENE08", "chr1", 606_400, "+", 1.9, 4, 14_000),
    ("GENE09", "chr2", 41_700, "+", 1.5, 8, 38_000),
    ("GENE10", "chr2", 152_400, "-", -0.5, 5, 24_000),
    ("GENE11", "chr2", 268_900, "+", 1.1, 6, 27_000),
    ("GENE12", "chr2", 391_000, "-", 2.3, 10, 35_000),
)
KINDS = {"enhancer": 30, "open_decoy": 10, "marked_decoy": 6, "motif_decoy": 10}  # how many of each are planted
MOTIFS = {
    "promoter": ("GGGGCGGGGC", "CCGGAAGTGA"),
    "enhancer": ENHANCER_MOTIFS,
    "open_decoy": ("CCACCAGGGGGCGCT",),
    "motif_decoy": ENHANCER_MOTIFS,
    "marked_decoy": (),
}
LENGTH_FEATURES, GC_FEATURES = ("UTR5LEN", "CDSLEN", "INTRONLEN", "UTR3LEN"), ("UTR5GC", "CDSGC", "UTR3GC")


@dataclass
class Element:
    """A stretch of planted DNA; `activity` is that of an enhancer (0 for decoys), `target` the gene it changes most."""

    chrom: str
    start: int
    end: int
    kind: str
    strength: float
    name: str = ""
    target: str = "."
    effect: float = 0.0  # fall of log10(CAGE + 1) of the target when the element is taken away

    @property
    def centre(self) -> int:
        """Middle of the element."""
        return (self.start + self.end) // 2

    @property
    def activity(self) -> float:
        """What it gives to a gene at contact 1."""
        return self.strength if self.kind == "enhancer" else 0.0


@dataclass
class Gene:
    """A gene with its one transcript: exons and coding parts in genome order, 0-based half-open."""

    name: str
    chrom: str
    tss: int
    strand: str
    promoter: float
    exons: list[tuple[int, int]] = field(default_factory=list)
    coding: list[tuple[int, int]] = field(default_factory=list)
    cage: int = 0

    @property
    def span(self) -> tuple[int, int]:
        """First and last base + 1."""
        return self.exons[0][0], self.exons[-1][1]

    def utr(self, five: bool) -> list[tuple[int, int]]:
        """Untranslated parts of the exons on the 5' or the 3' side."""
        before = five == (self.strand == "+")
        low, high = self.coding[0][0], self.coding[-1][1]
        parts = [(s, min(e, low)) if before else (max(s, high), e) for s, e in self.exons]
        return [(s, e) for s, e in parts if s < e]


def draws(part: int) -> np.random.Generator:
    """Give a generator of its own to each part; only `.random()` is called, whose stream NumPy keeps stable."""
    return np.random.Generator(np.random.PCG64([SEED, part]))


# ------------------------------------------------------------------------------------------------ genes and elements


def make_genes() -> list[Gene]:
    """Lay out exons and coding parts from the table `GENES`."""
    rng, genes = draws(1), []
    for name, chrom, tss, strand, log_promoter, n_exons, length in GENES:
        widths = (100 + 260 * rng.random(n_exons)).astype(int)
        widths[-1] += int(300 + 900 * rng.random())  # the 3' UTR's exon is long
        gaps = 0.2 + rng.random(n_exons - 1)
        introns = (gaps / gaps.sum() * (length - widths.sum())).astype(int)
        starts = np.concatenate([[0], np.cumsum(widths[:-1] + introns)])
        ends = starts + widths
        first = int(widths[0] * (0.3 + 0.4 * rng.random()))  # where translation starts, in the first exon
        last = int(starts[-1] + 30 + 60 * rng.random())  # where it ends, in the last
        exons = [(int(s), int(e)) for s, e in zip(starts, ends, strict=True)]
        coding = [(max(s, first), min(e, last)) for s, e in exons]
        gene = Gene(name, chrom, tss, strand, 10.0**log_promoter)
        gene.exons, gene.coding = (_on_strand(parts, tss, strand) for parts in (exons, coding))
        genes.append(gene)
    return genes


def _on_strand(parts: list[tuple[int, int]], tss: int, strand: str) -> list[tuple[int, int]]:
    """Move parts counted from the TSS onto the chromosome (the TSS is the first transcribed base)."""
    if strand == "+":
        return [(tss + s, tss + e) for s, e in parts]
    return sorted((tss + 1 - e, tss + 1 - s) for s, e in parts)


def place_elements(genes: list[Gene]) -> list[Element]:
    """Plant a promoter at each TSS, then enhancers and decoys away from genes' starts, exons, N and one another."""
    rng = draws(2)
    elements = []
    for gene in genes:
        up, down = (400, 100) if gene.strand == "+" else (100, 400)
        elements.append(
            Element(gene.chrom, gene.tss - up, gene.tss + down, "promoter", min(1.0, np.sqrt(gene.promoter / 100)))
        )
    for kind, count in KINDS.items():
        placed = 0
        while placed < count:
            place = int(rng.random() * sum(LENGTHS.values()))
            chrom, start = ("chr1", place) if place < LENGTHS["chr1"] else ("chr2", place - LENGTHS["chr1"])
            strength = 0.25 + 1.25 * rng.random()
            element = Element(chrom, start, start + 350 + int(400 * rng.random()), kind, strength)
            if _is_free(element, genes, elements):
                elements.append(element)
                placed += 1
    elements.sort(key=lambda e: (e.chrom, e.start))
    for number, element in enumerate(elements, 1):
        element.name = f"E{number:02d}_{element.kind}"
    return elements


def _is_free(element: Element, genes: list[Gene], elements: list[Element]) -> bool:
    """Tell whether there is room for an element."""
    length = LENGTHS[element.chrom]
    taken = [(c, s - 2_000, e + 2_000) for c, s, e in (*GAPS, *BLACKLIST)]
    taken += [(e.chrom, e.start - 4_000, e.end + 4_000) for e in elements]
    taken += [(g.chrom, g.tss - 6_000, g.tss + 6_000) for g in genes]
    taken += [(g.chrom, s - 300, e + 300) for g in genes for s, e in g.exons]
    inside = element.start > TELOMERE_BP + 2_000 and element.end < length - TELOMERE_BP - 2_000
    return inside and not any(c == element.chrom and s < element.end and element.start < e for c, s, e in taken)


# ---------------------------------------------------------------------------------------------------------- sequence


def make_sequence(genes: list[Gene], elements: list[Element]) -> dict[str, np.ndarray]:
    """Write the DNA: background, repeats (lower case), CpG islands, exons, motifs, N; one byte per base."""
    rng = draws(3)
    families = [random_bases(rng, np.full(length, gc)) for length, gc in ((300, 0.56), (900, 0.38), (500, 0.45))]
    families = [deplete_cpg(family, rng) for family in families]
    genome = {}
    for chrom, length in LENGTHS.items():
        isochores = np.repeat(0.36 + 0.14 * rng.random(length // 20_000 + 1), 20_000)[:length]
        bases = deplete_cpg(random_bases(rng, isochores), rng)
        start = TELOMERE_BP
        while (start := start + int(400 + 3_200 * rng.random())) < length - TELOMERE_BP - 1_000:
            copy = families[int(3 * rng.random())].copy()
            mutated = rng.random(copy.size) < 0.12
            copy[mutated] = random_bases(rng, np.full(int(mutated.sum()), 0.45))
            bases[start : start + copy.size] = copy + 32  # lower case
            start += copy.size
        genome[chrom] = bases
    for gene in genes:
        bases = genome[gene.chrom]
        for start, end in gene.exons:
            bases[start:end] = random_bases(rng, np.full(end - start, 0.46 + 0.12 * rng.random()))
        bases[gene.tss - 500 : gene.tss + 400] = random_bases(rng, np.full(900, 0.64))
    for element in elements:
        _plant_motifs(genome[element.chrom], element, rng)
    for chrom, bases in genome.items():
        bases[:TELOMERE_BP] = bases[-TELOMERE_BP:] = ord("N")
        for _, start, end in (gap for gap in GAPS if gap[0] == chrom):
            bases[start:end] = ord("N")
    return genome


def _plant_motifs(bases: np.ndarray, element: Element, rng: np.random.Generator) -> None:
    """Make the element unique sequence (upper case) and put three to six motifs of its kind into its middle."""
    size = element.end - element.start
    bases[element.start : element.end] = random_bases(rng, np.full(size, 0.62 if element.kind == "promoter" else 0.5))
    motifs = MOTIFS[element.kind]
    if not motifs:
        return
    plant_motifs(bases, element.centre, motifs, motif_copies(element.strength), rng)


# --------------------------------------------------------------------------------------------- tracks and contacts


def make_tracks(elements: list[Element]) -> dict[str, dict[str, np.ndarray]]:
    """Draw DNase (read-depth normalised) and H3K27ac (-log10 p), one value per 25 bp; 0 where nothing was measured."""
    rng = draws(4)
    tracks: dict[str, dict[str, np.ndarray]] = {"dnase": {}, "h3k27ac": {}}
    for chrom, length in LENGTHS.items():
        at = np.arange(0, length, STEP_BP) + STEP_BP / 2
        dnase, h3k27ac = background(rng, at.size)
        for element in (e for e in elements if e.chrom == chrom):
            wobble = 0.8 + 0.4 * rng.random(3)
            if element.kind in ("promoter", "enhancer", "open_decoy"):
                dnase += dnase_peak(at, element.centre, element.strength, wobble[0])
            if element.kind in ("promoter", "enhancer", "marked_decoy"):
                for nucleosome in h3k27ac_peaks(at, element.centre, element.strength, wobble[1:]):
                    h3k27ac += nucleosome
        for _, start, end in (region for region in BLACKLIST if region[0] == chrom):
            for values in (dnase, h3k27ac):  # the artefact that a blacklist is for
                values[start // STEP_BP : end // STEP_BP] += 20 + 60 * rng.random((end - start) // STEP_BP)
        unknown = [(0, TELOMERE_BP), (length - TELOMERE_BP, length), *((s, e) for c, s, e in GAPS if c == chrom)]
        for name, values in (("dnase", dnase), ("h3k27ac", h3k27ac)):
            for start, end in unknown:
                values[start // STEP_BP : end // STEP_BP] = 0
            tracks[name][chrom] = np.round(values, 2)
    return tracks


def contact(chrom: str, a: np.ndarray, b: int, loops: list[tuple[str, int, int]]) -> np.ndarray:
    """Give the expected contact of the places `a` (bp) with the place `b`: 1 at a distance of 5 kb or less."""
    return contact_of(a, b, BOUNDARIES[chrom], [(left, right) for name, left, right in loops if name == chrom])


def choose_loops(genes: list[Gene], elements: list[Element]) -> list[tuple[str, int, int]]:
    """Tie every second gene to its farthest enhancer of the same domain within reach."""
    loops = []
    for gene in genes[::2]:
        cuts = BOUNDARIES[gene.chrom]
        same = [
            e
            for e in elements
            if e.kind == "enhancer" and e.chrom == gene.chrom and abs(e.centre - gene.tss) < REACH_BP - BIN_BP
            if np.searchsorted(cuts, e.centre) == np.searchsorted(cuts, gene.tss)
        ]
        if same:
            loops.append((gene.chrom, max(same, key=lambda e: abs(e.centre - gene.tss)).centre, gene.tss))
    return loops


def express(genes: list[Gene], elements: list[Element], loops: list[tuple[str, int, int]]) -> None:
    """Fill in each gene's CAGE, and for each enhancer the gene it matters most to and by how much."""
    rng = draws(5)
    for gene in genes:
        near = [e for e in elements if e.activity and e.chrom == gene.chrom and abs(e.centre - gene.tss) <= REACH_BP]
        given = [GAIN * e.activity * float(contact(e.chrom, np.array(e.centre), gene.tss, loops)) for e in near]
        noise = 0.9 + 0.2 * rng.random()
        gene.cage = round(noise * gene.promoter * (1 + sum(given)))
        for element, part in zip(near, given, strict=True):
            without = gene.promoter * (1 + sum(given) - part)
            effect = np.log10(gene.promoter * (1 + sum(given)) + 1) - np.log10(without + 1)
            if effect > element.effect:
                element.effect, element.target = float(effect), gene.name
    promoters = [e for e in elements if e.kind == "promoter"]
    for gene in genes:
        own = next(e for e in promoters if e.chrom == gene.chrom and e.start <= gene.tss < e.end)
        own.target, own.effect = gene.name, float(np.log10(gene.cage + 1))


def count_contacts(loops: list[tuple[str, int, int]]) -> dict[str, np.ndarray]:
    """Give each chromosome's symmetric matrix of contact counts in 5-kb bins, none where the genome is N."""
    rng, matrices = draws(6), {}
    for chrom, length in LENGTHS.items():
        bins = np.arange(0, length, BIN_BP)
        expected = 400 * np.stack([contact(chrom, bins, int(b), loops) for b in bins])
        reach = 0.7 + 0.6 * rng.random(bins.size)  # some bins are easier to see: what VC corrects
        reach *= (bins >= TELOMERE_BP) & (bins < length - TELOMERE_BP)
        counts = np.floor(expected * np.outer(reach, reach) * (0.9 + 0.2 * rng.random(expected.shape)))
        matrices[chrom] = np.triu(counts) + np.triu(counts, 1).T
    return matrices


# ------------------------------------------------------------------------------------------------- tables of text


def write_genes(path: Path, genes: list[Gene], genome: dict[str, np.ndarray]) -> None:
    """Write the gene table: place, mRNA features (lengths as z-scores of log10, over these genes), CAGE, expression."""
    sizes, contents, density = [], [], []
    for gene in genes:
        parts = {"UTR5": gene.utr(five=True), "CDS": gene.coding, "UTR3": gene.utr(five=False)}
        base = {k: np.concatenate([genome[gene.chrom][s:e] for s, e in v]) for k, v in parts.items()}
        exonic = sum(e - s for s, e in gene.exons)
        start, end = gene.span
        sizes.append([base["UTR5"].size, base["CDS"].size, end - start - exonic, base["UTR3"].size])
        contents.append([float(np.isin(b | 32, (ord("g"), ord("c"))).mean()) for b in base.values()])
        density.append(1_000 * (len(gene.exons) - 1) / base["CDS"].size)  # exon junctions per kb of coding sequence
    logs = np.log10(np.array(sizes, dtype=float))
    scores = (logs - logs.mean(axis=0)) / logs.std(axis=0)
    columns = ["gene_id", "chrom", "tss", "strand", *(f"{name}_log10zscore" for name in LENGTH_FEATURES)]
    lines = ["\t".join([*columns, *GC_FEATURES, "ORFEXONDENSITY", "CAGE", "expression"])]
    for gene, score, content, junctions in zip(genes, scores, contents, density, strict=True):
        numbers = [f"{value:.4f}" for value in (*score, *content, junctions)]
        label = [str(gene.cage), f"{np.log10(gene.cage + 1):.4f}"]
        lines.append("\t".join([gene.name, gene.chrom, str(gene.tss), gene.strand, *numbers, *label]))
    path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")


def write_gtf(path: Path, genes: list[Gene]) -> None:
    """Write gene, transcript, exon and CDS lines (GTF: 1-based, closed)."""
    lines = []
    for gene in genes:
        named = f'gene_id "{gene.name}"; gene_name "{gene.name}"; gene_type "protein_coding";'
        whole = f'{named} transcript_id "{gene.name}.1"; transcript_type "protein_coding";'
        rows = [("gene", *gene.span, ".", named), ("transcript", *gene.span, ".", whole)]
        ordered = gene.exons if gene.strand == "+" else gene.exons[::-1]
        rows += [("exon", *exon, ".", f"{whole} exon_number {i};") for i, exon in enumerate(ordered, 1)]
        rows += [("CDS", *part, phase, whole) for part, phase in _phases(gene)]
        for kind, start, end, phase, notes in rows:
            lines.append(f"{gene.chrom}\tseq2exp\t{kind}\t{start + 1}\t{end}\t.\t{gene.strand}\t{phase}\t{notes}\n")
    path.write_text("".join(lines), encoding="ascii", newline="\n")


def _phases(gene: Gene) -> list[tuple[tuple[int, int], str]]:
    """Pair each coding part, in the order of translation, with its GTF phase."""
    result, read = [], 0
    for start, end in gene.coding if gene.strand == "+" else gene.coding[::-1]:
        result.append(((start, end), str(-read % 3)))
        read += end - start
    return result


def write_beds(folder: Path, elements: list[Element]) -> None:
    """Write the blacklist, and the truth: BED6, then kind, target gene, and its fall in log10(CAGE + 1)."""
    lines = [f"{chrom}\t{start}\t{end}\tHigh Signal Region\n" for chrom, start, end in BLACKLIST]
    (folder / "blacklist.bed").write_text("".join(lines), encoding="ascii", newline="\n")
    lines = []
    for e in elements:
        score = min(1000, round(1000 * e.effect))
        row = (e.chrom, e.start, e.end, e.name, score, ".", e.kind, e.target, f"{e.effect:.4f}")
        lines.append("\t".join(map(str, row)) + "\n")
    (folder / "elements.bed").write_text("".join(lines), encoding="ascii", newline="\n")


def make_example(folder: Path) -> None:
    """Write every file of the example into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    genes = make_genes()
    elements = place_elements(genes)
    loops = choose_loops(genes, elements)
    express(genes, elements, loops)
    genome = make_sequence(genes, elements)
    write_fasta(folder / "genome.fa", genome)
    for name, track in make_tracks(elements).items():
        write_bigwig(folder / f"{name}.bw", track, LENGTHS, STEP_BP)
    write_cooler(folder / "contacts.cool", count_contacts(loops), LENGTHS, BIN_BP, ASSEMBLY)
    write_genes(folder / "genes.tsv", genes, genome)
    write_gtf(folder / "genes.gtf", genes)
    write_beds(folder, elements)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    make_example(parser.parse_args().out)
