"""What variants do to the expression and the masks of the genes around them.

Contract: a variant reaches a gene when it changes a base of the gene's window. The alternative window is centred on the
TSS too: an insertion or deletion moves the bases that lie beyond it, seen from the TSS, and the far end of the window
gives or takes what is needed. Tracks were measured on the reference: each base keeps its values, an inserted base has
those of its left neighbour, and gene features stay as they are, so an effect is that of the DNA alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowDataset, WindowInputs
from kipoi_seq2exp.data.sequence import encode_bases
from kipoi_seq2exp.data.variants import Variant
from kipoi_seq2exp.effects.variant_table import VariantTable
from kipoi_seq2exp.errors import InputError, counted
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
        Bases that come from the variant.
    """

    window: WindowInputs
    origin: Positions
    inserted: NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """A gene without any variant: its row of the gene table, its window and its prediction."""

    gene: int
    window: WindowInputs
    row: Row


def predict_reference(model: Seq2Exp, dataset: WindowDataset, gene: int) -> Reference:
    """Predict a gene without any variant."""
    window = dataset[gene]
    return Reference(gene, window, predict_windows(model, [window])[0])


def gene_effects(
    model: Seq2Exp,
    dataset: WindowDataset,
    reference: Reference,
    numbers: Sequence[int],
    variants: Sequence[Variant],
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """Predict one gene with each of some variants.

    Windows that look the same to the network are predicted once: those of variants that give the same DNA and, for a
    network that reads no DNA, those of substitutions, which equal the reference.

    Parameters
    ----------
    model : Seq2Exp
    dataset : WindowDataset
    reference : Reference
    numbers : sequence of int
        Value of the column `variant` for each variant.
    variants : sequence of Variant
    batch_size : int
        Windows that go through the network together.

    Returns
    -------
    list of dict
        A row per variant: `COLUMNS`, variant, and line, its line in the VCF.
    """
    rows: list[dict[str, Any]] = []
    tracks = _digest(reference.window.signals, reference.window.blacklist)
    known = {_as_read(model, reference.window, reference.window, tracks): reference.row}
    for first in range(0, len(variants), batch_size):
        batch = range(first, min(first + batch_size, len(variants)))
        made = [alternative_window(dataset, reference.gene, reference.window, variants[place]) for place in batch]
        digests = [_as_read(model, alternative.window, reference.window, tracks) for alternative in made]
        new = {digest: alternative.window for digest, alternative in zip(digests, made, strict=True)}
        new = {digest: window for digest, window in new.items() if digest not in known}
        if new:
            known.update(zip(new, predict_windows(model, list(new.values())), strict=True))
        for place, alternative, digest in zip(batch, made, digests, strict=True):
            variant, after = variants[place], known[digest]
            effect = _effect(variant, reference, after)
            change = _mask_change(variant, _masks(model, reference, alternative, after))
            row = dict(zip(COLUMNS, (*effect, *change), strict=True))
            rows.append({**row, "variant": numbers[place], "line": variant.line})
    return rows


def _as_read(model: Seq2Exp, window: WindowInputs, reference: WindowInputs, tracks: bytes) -> bytes:
    """Return a digest of what the network reads of a window; `tracks` is that of the reference, which it may share."""
    if window.signals is not reference.signals:
        tracks = _digest(window.signals, window.blacklist)
    return tracks + (_digest(window.onehot) if model.config.reads_dna else b"")


def _digest(*arrays: NDArray[Any]) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def spans_in_reach(dataset: WindowDataset, table: VariantTable) -> list[tuple[int, tuple[str, int, int]]]:
    """Return the rows of the gene table that any variant reaches, each with its window: chrom, start, end.

    Raises
    ------
    InputError
        If there is none.
    """
    half = dataset.inputs.window_bp // 2
    places = enumerate(zip(dataset.genes["chrom"], dataset.genes["tss"], strict=True))
    spans = [(gene, (str(chrom), int(tss) - half, int(tss) + half)) for gene, (chrom, tss) in places]
    found = [(gene, span) for gene, span in spans if table.count(*span)]
    if not found:
        raise InputError(
            f"no variant lies in the window of a gene ({counted(len(table), 'variant')}, "
            f"{counted(len(dataset), 'gene')}, {half:,} bp to either side of each TSS)."
        )
    return found


def alternative_window(dataset: WindowDataset, gene: int, reference: WindowInputs, variant: Variant) -> AltWindow:
    """Return the window of a gene with a variant in it, centred on the TSS and as long as the reference's."""
    origin, inserted, letters = place_variant(reference.start, reference.end, reference.tss, variant)
    _, ref, alt = variant.core()
    if len(ref) == len(alt):  # every base stays in its place, and keeps its tracks
        dna = reference.onehot.copy()
        dna[inserted] = encode_bases(letters)
        return AltWindow(dataclasses.replace(reference, onehot=dna), origin, inserted)
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


def _effect(variant: Variant, reference: Reference, after: Row) -> tuple[object, ...]:
    window, before = reference.window, reference.row
    direction = -1 if window.strand == "-" else 1
    named = (variant.chrom, variant.pos + 1, variant.ident, variant.ref, variant.alt, window.gene_id)
    place = (window.strand, int(variant.core()[0] - window.tss) * direction)
    return (*named, *place, before.expression, after.expression, after.expression - before.expression)


def _masks(
    model: Seq2Exp, reference: Reference, alternative: AltWindow, after: Row
) -> tuple[Positions, Floats, Floats] | None:
    """Return the bases that both windows have outside the promoter, and their masks without and with the variant."""
    before = reference.row
    if before.mask is None or after.mask is None:
        return None
    place = alternative.origin - reference.window.start
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
        Result of `variant_effects`.
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


def annotated_lines(lines: Iterable[tuple[int, str]], tables: Iterable[pd.DataFrame]) -> Iterator[str]:
    """Yield the VCF again with the effects in its INFO: one entry per allele and gene, separated by commas.

    Parameters
    ----------
    lines : iterable of (int, str)
        Of the VCF, as `vcf_lines` yields them.
    tables : iterable of DataFrame
        Effects in stretches of rows, in the order of the variants, which is that of the lines: `COLUMNS` and line.
    """
    rows = (row for table in tables for row in table.to_dict("records"))
    by_line = itertools.groupby(rows, lambda row: row["line"])
    following = next(by_line, None)
    description = (
        f'##INFO=<ID={INFO},Number=.,Type=String,Description="Seq2Exp effects: ALT|gene_id|delta_expression (log10)|'
        f'delta_mask (mean within {FLANK_BP} bp)|delta_mask_max">'
    )
    stated = False
    for number, line in lines:
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
