"""What variants do to the expression of the genes round them, and to their masks.

Contract: a variant reaches a gene when it changes a base of the gene's window. The alternative window is centred on the
TSS too: an insertion or deletion moves the bases that lie beyond it, seen from the TSS, and the far end of the window
gives or takes what is needed. Tracks were measured on the reference: each base keeps its values, an inserted base has
those of its left neighbour, and gene features stay as they are, so an effect is that of the DNA alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.sequence import encode_bases
from kipoi_seq2exp.data.variants import Variant, VariantFile
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.prediction.run import predict_windows
from kipoi_seq2exp.prediction.store import Row

if TYPE_CHECKING:
    from kipoi_seq2exp.nn.network import Seq2Exp

Positions = NDArray[np.int64]
Floats = NDArray[np.float64]

FLANK_BP = 100
COLUMNS = (
    "#CHROM",
    "POS",
    "ID",
    "REF",
    "ALT",
    "gene_id",
    "gene_strand",
    "distance_to_tss",
    "expression_ref",
    "expression_alt",
    "delta_expression",
    "mask_ref",
    "delta_mask",
    "delta_mask_max",
)
INFO = "SEQ2EXP"
SCORE = "{model}/expression/diff"
"""kipoi-veff2's name of a score, MODEL/TARGET/FUNCTION: the prediction for ALT minus that for REF."""


@dataclass(frozen=True)
class AltWindow:
    """A window with a variant in it.

    Attributes
    ----------
    window : WindowInputs
    origin : ndarray of int64, (L,)
        Position on the reference that each base comes from.
    inserted : ndarray of bool, (L,)
        Bases that the variant wrote.
    """

    window: WindowInputs
    origin: Positions
    inserted: NDArray[np.bool_]


def variant_effects(
    model: Seq2Exp,
    dataset: WindowDataset,
    variants: Sequence[Variant],
    batch_size: int = 1,
) -> pd.DataFrame:
    """Predict every gene with every variant within its reach.

    Parameters
    ----------
    model : Seq2Exp
    dataset : WindowDataset
    variants : sequence of Variant
        Checked against the data set's genome.
    batch_size : int
        Windows that go through the network together; changes memory and speed only.

    Returns
    -------
    DataFrame
        A row per variant and gene, in the order of the variants, then of the genes: `COLUMNS` (POS as in the VCF,
        distance_to_tss in bp along the gene, expressions as log10; mask_ref is the mean mask within `FLANK_BP` of the
        variant, delta_mask its change, delta_mask_max the largest change of any base of the window), then variant, the
        row of `variants`. The promoter, which is forced into the mask, has no part in the mask's columns: they are NaN
        for a variant inside it and for a network without a mask. Only bases that both alleles have are
        compared.

    Raises
    ------
    InputError
        If no variant lies in the window of any gene.
    """
    reach = genes_in_reach(dataset, variants)
    rows = [
        {**row, "gene": gene}
        for gene, chosen in reach.items()
        for row in gene_effects(model, dataset, gene, chosen, [variants[number] for number in chosen], batch_size)
    ]
    table = pd.DataFrame(rows).sort_values(["variant", "gene"], ignore_index=True)
    return table.drop(columns="gene")


def gene_effects(
    model: Seq2Exp,
    dataset: WindowDataset,
    gene: int,
    numbers: Sequence[int],
    variants: Sequence[Variant],
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """Predict one gene without and with each of some variants; without them once.

    Parameters
    ----------
    model : Seq2Exp
    dataset : WindowDataset
    gene : int
        Row of the gene table.
    numbers : sequence of int
        What the column `variant` says of each variant.
    variants : sequence of Variant
    batch_size : int
        Windows that go through the network together.

    Returns
    -------
    list of dict
        A row per variant: `COLUMNS` and variant.
    """
    reference = dataset[gene]
    before = predict_windows(model, [reference])[0]
    rows: list[dict[str, Any]] = []
    for first in range(0, len(variants), batch_size):
        batch = range(first, min(first + batch_size, len(variants)))
        alternatives = [alternative_window(dataset, gene, reference, variants[place]) for place in batch]
        after = predict_windows(model, [alternative.window for alternative in alternatives])
        for place, alternative, row in zip(batch, alternatives, after, strict=True):
            effect = _effect(variants[place], reference, before, row)
            change = _mask_change(variants[place], _masks(model, reference, before, alternative, row))
            rows.append({**dict(zip(COLUMNS, (*effect, *change), strict=True)), "variant": numbers[place]})
    return rows


def genes_in_reach(dataset: WindowDataset, variants: Sequence[Variant]) -> dict[int, list[int]]:
    """Return, for each row of the gene table that any variant reaches, the rows of those variants.

    Raises
    ------
    InputError
        If no variant lies in the window of any gene.
    """
    half = dataset.inputs.window_bp // 2
    starts, ends = np.empty(len(variants), dtype=np.int64), np.empty(len(variants), dtype=np.int64)
    by_chrom: dict[str, list[int]] = defaultdict(list)
    for number, variant in enumerate(variants):
        pos, ref, _ = variant.core()
        starts[number], ends[number] = pos, pos + max(len(ref), 1)
        by_chrom[variant.chrom].append(number)
    reach = {}
    for gene, (chrom, tss) in enumerate(zip(dataset.genes["chrom"], dataset.genes["tss"], strict=True)):
        rows = np.array(by_chrom.get(chrom, []), dtype=np.int64)
        inside = rows[(starts[rows] < tss + half) & (ends[rows] > tss - half)]
        if inside.size:
            reach[gene] = inside.tolist()
    if not reach:
        raise InputError(
            f"none of the {len(variants)} variants lies in the window of one of the {len(dataset)} genes "
            f"({dataset.inputs.window_bp // 2:,} bp to either side of the TSS)."
        )
    return reach


def alternative_window(dataset: WindowDataset, gene: int, reference: WindowInputs, variant: Variant) -> AltWindow:
    """Return the window of a gene with a variant in it, centred on the TSS and as long as the reference's."""
    origin, inserted, letters = place_variant(reference.start, reference.end, reference.tss, variant)
    first, last = int(origin.min()), int(origin.max()) + 1
    onehot, signals, blacklist = dataset.read(gene, first, last)
    rows = origin - first
    dna = onehot[rows]
    dna[inserted] = encode_bases(letters)
    window = dataclasses.replace(reference, onehot=dna, signals=signals[rows], blacklist=blacklist[rows])
    return AltWindow(window, origin, inserted)


def place_variant(start: int, end: int, tss: int, variant: Variant) -> tuple[Positions, NDArray[np.bool_], bytes]:
    """Return where each base of the alternative window comes from, which are the variant's, and their letters.

    What lies on the TSS's side of the variant stays in place. A deletion of the TSS itself keeps the left side.
    """
    pos, ref, alt = variant.core()
    after = pos + len(ref)
    own = np.minimum(pos + np.arange(len(alt)), after - 1)  # an insertion: its left neighbour
    upstream = after <= tss
    left = np.arange(min(start, pos) - len(ref) if upstream else start, pos)
    right = np.arange(after, end if upstream else max(end, after) + len(ref))
    origin = np.concatenate([left, own, right])
    written = np.zeros(len(origin), dtype=bool)
    written[len(left) : len(left) + len(alt)] = True
    letters = np.zeros(len(origin), dtype=np.uint8)
    letters[written] = np.frombuffer(alt.encode(), dtype=np.uint8)
    length = end - start
    kept = slice(len(origin) - length, None) if upstream else slice(0, length)
    return origin[kept], written[kept], letters[kept][written[kept]].tobytes()


def _effect(variant: Variant, reference: WindowInputs, before: Row, after: Row) -> tuple[object, ...]:
    direction = -1 if reference.strand == "-" else 1
    named = (variant.chrom, variant.pos + 1, variant.ident, variant.ref, variant.alt, reference.gene_id)
    place = (reference.strand, int(variant.core()[0] - reference.tss) * direction)
    return (*named, *place, before.expression, after.expression, after.expression - before.expression)


def _masks(
    model: Seq2Exp, reference: WindowInputs, before: Row, alternative: AltWindow, after: Row
) -> tuple[Positions, Floats, Floats] | None:
    """Return the bases that both windows have outside the promoter, and their masks without and with the variant."""
    if before.mask is None or after.mask is None:
        return None
    place = alternative.origin - reference.start
    shared = (place >= 0) & (place < len(before.mask)) & ~alternative.inserted
    promoter = model.promoter(len(before.mask))
    shared &= (place < promoter.start) | (place >= promoter.stop)
    shared[promoter] = False
    return (
        alternative.origin[shared],
        before.mask[place[shared]].astype(np.float64),
        after.mask[shared].astype(np.float64),
    )


def _mask_change(variant: Variant, masks: tuple[Positions, Floats, Floats] | None) -> tuple[float, float, float]:
    """Return the mean mask near the variant, its change, and the largest change of the window."""
    if masks is None or not masks[0].size:
        return float("nan"), float("nan"), float("nan")
    origin, before, after = masks
    pos, ref, _ = variant.core()
    change = after - before
    near = (origin >= pos - FLANK_BP) & (origin < pos + len(ref) + FLANK_BP)
    largest = float(change[np.abs(change).argmax()])
    if not near.any():
        return float("nan"), float("nan"), largest
    return float(before[near].mean()), float(change[near].mean()), largest


def effects_table(effects: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the effects under kipoi-veff2's columns (#CHROM POS ID REF ALT, then the score), with ours after them.

    Parameters
    ----------
    effects : DataFrame
        Of `variant_effects`.
    model : str
        A served model, or the file of its weights.

    Returns
    -------
    DataFrame
        A row per variant and gene (kipoi-veff2 has one per variant and exon). A variant without an ID has an empty ID,
        as in kipoi-veff2, and not ".".
    """
    table = effects[list(COLUMNS)].assign(ID=effects["ID"].replace(".", ""))
    name = Path(model).stem if model.endswith(".safetensors") else f"Seq2Exp/{model}"
    ours = [column for column in COLUMNS[5:] if column != "delta_expression"]
    table = table[[*COLUMNS[:5], "delta_expression", *ours]]
    return table.rename(columns={"delta_expression": SCORE.format(model=name)})


def annotated_lines(vcf: VariantFile, variants: Sequence[Variant], tables: Iterable[pd.DataFrame]) -> Iterator[str]:
    """Yield the VCF again with the effects in its INFO: one entry per allele and gene, separated by commas.

    The effects come in stretches of rows in the order of the variants, which is that of the file's lines.
    """
    rows = (row for table in tables for row in table.to_dict("records"))
    by_line = itertools.groupby(rows, lambda row: variants[row["variant"]].line)
    following = next(by_line, None)
    description = (
        f'##INFO=<ID={INFO},Number=.,Type=String,Description="Seq2Exp effects: ALT|gene_id|delta_expression (log10)|'
        f'delta_mask (mean within {FLANK_BP} bp)|delta_mask_max">'
    )
    stated = False
    for number, line in vcf.lines:
        if not line.startswith("##") and not stated:
            yield description
            stated = True
        if following is None or following[0] != number:
            yield line
            continue
        fields = line.split("\t")
        fields += ["."] * (8 - len(fields))
        info = f"{INFO}={','.join(map(_entry, following[1]))}"
        following = next(by_line, None)
        fields[7] = info if fields[7] in (".", "") else f"{fields[7]};{info}"
        yield "\t".join(fields)


def _entry(row: Mapping[Hashable, Any]) -> str:
    numbers = (
        "" if np.isnan(row[n]) else f"{row[n]:.6g}" for n in ("delta_expression", "delta_mask", "delta_mask_max")
    )
    gene = "".join("_" if letter in ",;=| " else letter for letter in row["gene_id"])
    return "|".join([row["ALT"], gene, *numbers])
