"""Does the mask find the elements that CRISPRi finds? Scores of tested pairs and their ranking, by distance to the TSS.

Contract: pairs of the benchmark and the predictions of the same genes in; every pair gets a status and, where it can be
judged, the scores of the model and of the baselines. A pair whose element lies beyond the gene's window is a miss of
the model; one that lies in the promoter, which the model always keeps, is left out; both are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.config import TrackKind
from kipoi_seq2exp.data.naming import check_places, listing
from kipoi_seq2exp.data.pairs import file_baselines
from kipoi_seq2exp.data.tables import write_lines, write_tsv
from kipoi_seq2exp.data.windows import Locus, written
from kipoi_seq2exp.elements.find import GeneWindows
from kipoi_seq2exp.errors import InputError, counted
from kipoi_seq2exp.judge.ranking import RECALL, rank_scores
from kipoi_seq2exp.metrics import score_columns
from kipoi_seq2exp.prediction.masking import predict_masked
from kipoi_seq2exp.prediction.run import Run
from kipoi_seq2exp.prediction.store import Predictions
from kipoi_seq2exp.prediction.tracks import read_tracks

Floats = NDArray[np.float64]

JUDGED, BEYOND, PROMOTER, UNKNOWN = "judged", "beyond the window", "in the promoter", "gene not predicted"
TABLE = "crispri.tsv"
BINS = {"0-10 kb": (0, 10_000), "10-100 kb": (10_000, 100_000), "0-100 kb": (0, 100_000), "all": (0, 2**62)}
MASK, EFFECT = "Seq2Exp mask", "Seq2Exp effect"


@dataclass(frozen=True)
class Judgement:
    """Pairs with their scores, and how each score ranks them.

    Attributes
    ----------
    pairs : DataFrame
        As read, with `status` and a column per score (NaN where it has none).
    table : DataFrame
        A row per score and distance bin that holds both kinds of pairs: bin, score, pairs, positives, floor (share of
        positives), missed (positives), auprc and precision (at the recall of `ranking.RECALL`), each with _low and
        _high.
    notes : tuple of str
        What was left out and what counts as a miss.
    """

    pairs: pd.DataFrame
    table: pd.DataFrame
    notes: tuple[str, ...]


@dataclass
class _PairScores:
    """Scores of the pairs as they are found: status (n,) and a column per score (n,)."""

    status: NDArray[np.object_]
    columns: dict[str, Floats] = field(default_factory=dict)

    def put(self, name: str, row: int, value: float) -> None:
        self.columns.setdefault(name, np.full(len(self.status), np.nan))[row] = value


def judge_pairs(
    pairs: pd.DataFrame,
    predictions: Predictions | None = None,
    sources: Mapping[str, str] | None = None,
    run: Run | None = None,
    *,
    bootstrap: int = 1_000,
    where: str = "pairs",
) -> Judgement:
    """Score pairs and rank them, by distance bin.

    Parameters
    ----------
    pairs : DataFrame
        Of `read_pairs`.
    predictions : Predictions, optional
        Without them the baselines that need no model are ranked, on every pair.
    sources : mapping of str to str, optional
        Files of tracks for the raw-signal baselines; by default the files that the predictions were made from.
    run : Run, optional
        Open beside the predictions: adds the change of expression with the element masked out.
    bootstrap : int
        Resamples of the genes, each with all its pairs.
    where : str
        Name of the file, for messages.

    Raises
    ------
    InputError
        If no gene, or no window, is shared, or pairs and predictions are of different genome builds.
    """
    scored, notes = pairs.copy(), [f"{pairs.attrs.get('invalid', 0)} pairs are marked as invalid in the file: left out"]
    for name, values in file_baselines(pairs).items():
        scored[name] = values
    baselines = [name for name in scored.columns if name not in pairs.columns]
    ours: list[str] = []
    if predictions is not None:
        check_overlap(pairs, predictions, where)
        found = _score_pairs(pairs, predictions, sources or {}, run)
        scored["status"] = found.status
        for name, values in found.columns.items():
            scored[name] = values
        ours = list(found.columns)
        notes += _notes(scored)
    else:
        scored["status"] = JUDGED
    judged = scored[scored["status"].isin([JUDGED, BEYOND])]
    if predictions is not None and not (judged["status"] == JUDGED).any():
        raise InputError(f"{where}: no element lies in the window of its gene ({counted(len(pairs), 'pair')}).")
    positive = judged["regulated"].to_numpy(bool)
    if positive.all() or not positive.any():
        raise InputError(
            f"{where}: every pair that can be judged is {'positive' if positive.any() else 'negative'} "
            f"({counted(len(judged), 'pair')}): there is nothing to rank."
        )
    return Judgement(scored, _rank(judged, [*ours, *baselines], bootstrap), tuple(notes))


def check_overlap(pairs: pd.DataFrame, predictions: Predictions, where: str) -> None:
    """Check that pairs and predictions share genes and are of one genome build.

    Raises
    ------
    InputError
        If they share none, place them differently, or an element lies beyond its chromosome.
    """
    places = dict(zip(pairs["gene_id"], zip(pairs["chrom"], pairs["tss"], strict=True), strict=True))
    loci = {gene_id: predictions.locus(index) for gene_id, index in _genes_by_id(predictions).items()}
    reference = {gene_id: (locus.chrom, locus.tss) for gene_id, locus in loci.items()}
    check_places(places, reference, where, "the predictions")
    lengths = pairs["chrom"].map(predictions.provenance.get("chrom_lengths", {}))
    for pair in pairs[pairs["end"] > lengths].head(1).itertuples():
        raise InputError(
            f"{where}: an element ends at {pair.chrom}:{pair.end:,} but {pair.chrom} is {int(lengths[pair.Index]):,} "
            f"bp long in the predictions: they are of different genome builds; lift one over."
        )


def _genes_by_id(predictions: Predictions) -> dict[str, int]:
    return {str(gene_id).split(".")[0]: index for index, gene_id in enumerate(predictions.genes["gene_id"])}


def _score_pairs(
    pairs: pd.DataFrame, predictions: Predictions, sources: Mapping[str, str], run: Run | None
) -> _PairScores:
    """Score the pairs gene by gene, so that each window is read once."""
    found = _PairScores(np.full(len(pairs), UNKNOWN, dtype=object))
    genes = _genes_by_id(predictions)
    windows = None if run is None else GeneWindows(run)
    for gene_id, of_gene in pairs.groupby("gene_id", sort=False):
        if gene_id not in genes:
            continue
        index = genes[str(gene_id)]
        locus, promoter = predictions.locus(index), predictions.promoter
        inside = []
        for pair in of_gene.itertuples():
            bases = _distal_bases(locus, promoter, pair.chrom, pair.start, pair.end)
            overlaps = pair.chrom == locus.chrom and pair.end > locus.start and pair.start < locus.end
            found.status[pair.Index] = JUDGED if bases.size else PROMOTER if overlaps else BEYOND
            if bases.size:
                inside.append((pair.Index, bases))
            elif not overlaps:
                found.put(MASK, pair.Index, -np.inf)
        if inside:
            _score_window(found, predictions, index, inside, sources)
            if windows is not None:
                _score_effects(found, predictions, index, inside, windows)
    if run is not None:
        for row in np.flatnonzero(found.status == BEYOND):
            found.put(EFFECT, int(row), -np.inf)
    return found


def _distal_bases(locus: Locus, promoter: slice, chrom: str, start: int, end: int) -> NDArray[np.int64]:
    """Return the bases of an element, counted from the window's start, that lie in it and outside the promoter."""
    if chrom != locus.chrom:
        return np.empty(0, dtype=np.int64)
    bases = np.arange(max(start, locus.start), min(end, locus.end)) - locus.start
    distal: NDArray[np.int64] = bases[(bases < promoter.start) | (bases >= promoter.stop)]
    return distal


def _score_window(
    found: _PairScores,
    predictions: Predictions,
    index: int,
    inside: list[tuple[int, NDArray[np.int64]]],
    sources: Mapping[str, str],
) -> None:
    """Score the pairs of one gene by its mask, by each signal track, and by DNase x contact as the ABC model does."""
    mask = predictions.mask(index)
    assert mask is not None  # for the type checker: `judge_pairs` needs one
    lines = read_tracks(predictions.provenance, sources, predictions.locus(index))
    signals = {line.spec.name: line.values for line in lines if line.spec.kind is TrackKind.BIGWIG}
    contact = next((line.values for line in lines if line.spec.kind is TrackKind.CONTACT), None)
    for row, bases in inside:
        found.put(MASK, row, float(mask[bases].mean(dtype=np.float64)))
        for name, values in signals.items():
            found.put(f"{name} signal", row, float(values[bases].mean(dtype=np.float64)))
            if contact is not None:
                product = values.astype(np.float64) * contact
                found.put(f"{name} x contact (ABC)", row, float(product[bases].sum() / max(product.sum(), 1e-300)))


def _score_effects(
    found: _PairScores,
    predictions: Predictions,
    index: int,
    inside: list[tuple[int, NDArray[np.int64]]],
    windows: GeneWindows,
) -> None:
    """Score the pairs of one gene by the loss of predicted expression when the element is masked out."""
    mask, gene = predictions.network_mask(index), predictions.genes.iloc[index]
    masks = []
    for _, bases in inside:
        without = np.array(mask, copy=True)
        without[bases] = 0
        masks.append(without)
    expression = predict_masked(windows.run.model, windows[gene["gene_id"]], masks, windows.run.request.batch_size)
    for (row, _), value in zip(inside, expression, strict=True):
        found.put(EFFECT, row, float(gene["expression"]) - float(value))


def _rank(judged: pd.DataFrame, names: list[str], bootstrap: int) -> pd.DataFrame:
    rows = []
    for label, (low, high) in BINS.items():
        chosen = judged[(judged["distance"] >= low) & (judged["distance"] < high)]
        labels = chosen["regulated"].to_numpy(bool)
        if labels.all() or not labels.any():  # nothing to rank (no pairs at all, too)
            continue
        scores = {name: _with_misses(chosen, name) for name in names}
        genes = chosen["gene_id"].to_numpy()  # resampled whole: the pairs of a gene share its window
        for name, ranking in rank_scores(labels, scores, groups=genes, bootstrap=bootstrap).items():
            row = {"bin": label, "score": name, "pairs": len(chosen), "positives": int(labels.sum())}
            row |= {"floor": labels.mean(), "missed": int((labels & (scores[name] == -np.inf)).sum())}
            row |= score_columns({"auprc": ranking.auprc, f"precision_at_{RECALL:.0%}_recall": ranking.precision})
            rows.append(row)
    return pd.DataFrame(rows)


def _with_misses(chosen: pd.DataFrame, name: str) -> Floats:
    """Return a score with -inf for pairs beyond the window, if the score does not reach beyond it: they are missed."""
    values = chosen[name].to_numpy(np.float64)
    return np.where(np.isnan(values) & (chosen["status"] == BEYOND).to_numpy(), -np.inf, values)


def _notes(scored: pd.DataFrame) -> list[str]:
    counts = {status: scored[scored["status"] == status] for status in (UNKNOWN, PROMOTER, BEYOND)}
    what = {
        UNKNOWN: "genes that were not predicted: left out",
        PROMOTER: "elements inside the promoter, which the model always keeps: left out",
        BEYOND: "elements beyond the window: counted as misses",
    }
    notes = [
        f"{counted(len(rows), 'pair')} ({int(rows['regulated'].sum())} positive) with {what[status]}"
        for status, rows in counts.items()
    ]
    missed = counts[BEYOND][counts[BEYOND]["regulated"]]
    if len(missed):
        places = (
            f"{pair.symbol} {written(pair.chrom, pair.start, pair.end)} at {pair.distance:,.0f} bp"
            for pair in missed.itertuples()
        )
        notes.append(f"missed positives: {listing(places)}")
    return notes


def write_judgement(judgement: Judgement, folder: Path, header: list[str]) -> tuple[Path, ...]:
    """Write the ranking, every pair, and the missed ones; return the files."""
    pairs = judgement.pairs
    tables = {TABLE: judgement.table, "crispri_pairs.tsv": pairs}
    if (pairs["status"] == BEYOND).any():
        columns = ["chrom", "start", "end", "gene_id", "symbol", "tss", "distance", "regulated", "name"]
        tables["crispri_missed.tsv"] = pairs.loc[pairs["status"] == BEYOND, columns]
    for name, table in tables.items():
        write_tsv(table, folder / name, [*header, *judgement.notes])
    elements = folder / "crispri_pairs.bed"
    write_lines(list(bed_lines(pairs)), elements)
    return (*(folder / name for name in tables), elements)


def bed_lines(pairs: pd.DataFrame) -> Iterator[str]:
    """Yield the tested elements as BED6 with the outcome in the 7th column, sorted by position."""
    for pair in pairs.sort_values(["chrom", "start", "end"], kind="stable").itertuples():
        outcome = "CRISPRi-positive" if pair.regulated else "CRISPRi-negative"
        yield f"{pair.chrom}\t{pair.start}\t{pair.end}\t{pair.symbol}\t0\t.\t{outcome}"
