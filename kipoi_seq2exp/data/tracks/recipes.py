"""Where a track in a given unit comes from: ENCODE's name for such a file, and the public command that makes one.

Contract: the cards of weights and the documentation both take this from the one table here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kipoi_seq2exp.config import TrackKind, TrackSpec


@dataclass(frozen=True)
class Recipe:
    """How to get a track in one unit.

    Attributes
    ----------
    unit : str
        In the words of the cards.
    pattern : str
        What the unit of a track says, as a regular expression; case does not matter.
    encode : str
        ENCODE's output type for such files; empty: ENCODE has none.
    command : str
        Makes such a file from one's own reads with public tools; several lines where it takes several steps.
    caveat : str
        What must be the same as in training, or differs.
    """

    unit: str
    pattern: str
    encode: str
    command: str
    caveat: str = ""


_PEAKS_DIFFER = "signal values of another peak caller are another unit: a warning tells when they lie far from training"

RECIPES = (
    Recipe(
        "signal value of narrow peaks",
        r"narrow ?peaks?|signal value of the peaks",
        "peaks (narrowPeak), given as they are",
        "macs3 callpeak -t reads.bam -f BAM -g hs -n sample   # sample_peaks.narrowPeak",
        _PEAKS_DIFFER,
    ),
    Recipe(
        "signal value of broad peaks",
        r"broad ?peaks?",
        "peaks (broadPeak), given as they are",
        "macs3 callpeak -t chip.bam -c input.bam -f BAM -g hs --broad -n sample   # sample_peaks.broadPeak",
        _PEAKS_DIFFER,
    ),
    Recipe(
        "-log10 p-value",
        r"p-value|log10 p\b",
        "signal p-value",
        "macs3 callpeak -t chip.bam -c input.bam -f BAM -g hs -B -n sample\n"
        "macs3 bdgcmp -t sample_treat_pileup.bdg -c sample_control_lambda.bdg -m ppois -o sample.bedGraph",
        "p-values grow with sequencing depth; fold change is another unit",
    ),
    Recipe(
        "fold change over control",
        r"fold (change|over)",
        "fold change over control",
        "macs3 callpeak -t chip.bam -c input.bam -f BAM -g hs -B --SPMR -n sample\n"
        "macs3 bdgcmp -t sample_treat_pileup.bdg -c sample_control_lambda.bdg -m FE -o sample.bedGraph",
        "a p-value is another unit",
    ),
    Recipe(
        "reads per kb, in peaks",
        r"reads per kb",
        "",
        "bedtools coverage -counts -a peaks.bed -b reads.bam | "
        "awk -v OFS='\\t' '{print $1, $2, $3, 1000 * $NF / ($3 - $2)}' | sort -k1,1 -k2,2n > sample.bedGraph",
        "counts grow with sequencing depth; peaks must not overlap (bedtools merge)",
    ),
    Recipe(
        "reads per base",
        r"reads per base",
        "",
        "bedtools genomecov -bg -ibam reads.bam > sample.bedGraph",
        "counts grow with sequencing depth",
    ),
    Recipe(
        "read-depth normalised signal",
        r"normali[sz]ed",
        "read-depth normalized signal",
        "bamCoverage -b reads.bam -o sample.bw --normalizeUsing CPM --binSize 1",
        "CPM, RPKM and RPGC are different units: use the one that the weights were trained on",
    ),
)
"""Most specific first: the first pattern found in a unit decides."""


def recipe_of(spec: TrackSpec) -> Recipe | None:
    """Return how to get a track of a model; None for contacts and for units that are not in `RECIPES`."""
    if spec.kind is not TrackKind.BIGWIG:
        return None
    return next((recipe for recipe in RECIPES if re.search(recipe.pattern, spec.unit, re.IGNORECASE)), None)
