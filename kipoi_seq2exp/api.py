"""The commands as Python functions: they return arrays and tables, print nothing, and write only into a named folder.

    model = kipoi_seq2exp.load_model("K562")
    windows = kipoi_seq2exp.WindowDataset(model.inputs, "genes.tsv", "genome.fa", {"dnase": "dnase.bw", ...})
    predictions = kipoi_seq2exp.predict(model, windows)
    elements = kipoi_seq2exp.call_elements(predictions, model=model, windows=windows, perturb=True).elements

Each function shares its code with the command of its name, and gives the same numbers. `predictions` may also be those
of a results folder (`read_results`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.variants import Variant
from kipoi_seq2exp.elements.calls import CallSettings
from kipoi_seq2exp.elements.fdr import NullSettings
from kipoi_seq2exp.elements.find import ElementSettings, Found, find_elements, results_here
from kipoi_seq2exp.errors import ConfigError, ShapeError
from kipoi_seq2exp.prediction.store import Layout, Predictions, PredictionStore, read_predictions
from kipoi_seq2exp.prediction.units import Bench

if TYPE_CHECKING:
    from kipoi_seq2exp.effects.contributions import Contributions
    from kipoi_seq2exp.judge.compare import Comparison
    from kipoi_seq2exp.nn.network import Seq2Exp
    from kipoi_seq2exp.training.fit import FitResult


@dataclass(frozen=True)
class Explained:
    """What the predictions of genes are made of.

    Attributes
    ----------
    table : DataFrame
        A row per gene: gene_id, expression, baseline, what dna, each track and each gene feature contribute, and
        not_explained, all in the unit of the prediction.
    genes : mapping of str to Contributions
        Contributions of every base and track value, by gene id.
    """

    table: pd.DataFrame
    genes: Mapping[str, Contributions]


def predict(
    model: Seq2Exp | str | Path,
    windows: WindowDataset,
    *,
    mask: NDArray[np.floating] | str | Path | None = None,
    batch_size: int = 1,
    save_beta: bool = False,
    on_gene: Callable[[], None] | None = None,
) -> Predictions:
    """Predict the expression and the mask of every gene of a data set, in memory.

    Parameters
    ----------
    model : Seq2Exp, str or Path
        A network, the name of a served one, or a .safetensors file.
    windows : WindowDataset
        G genes with windows of L bases, read as the model's `inputs` say.
    mask : ndarray, (L,) or (G, L), str or Path, optional
        Mask in place of the model's own: numbers from 0 to 1, used exactly as given; or a BED of regions to keep, to
        which the promoter is added and from which the blacklist is removed.
    batch_size : int
        Windows that go through the network together; changes memory and speed only.
    save_beta : bool
        Keep the concentrations of every base too, for credible intervals and evidence.
    on_gene : callable, optional
        Called after each gene.

    Returns
    -------
    Predictions
        `genes`, a table with a row per gene (expression in the unit of the weights' label), and the masks one by one,
        compressed: `mask(index)`, (L,).

    Raises
    ------
    ShapeError
        If the mask has another shape.
    InputError, WeightsError, ConfigError
        If the model or the mask cannot be used with these windows.
    """
    from kipoi_seq2exp.prediction.request import origin_of
    from kipoi_seq2exp.prediction.run import batches_of, gene_rows, open_peaks, predict_batches

    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, found {batch_size}.")
    network, name = _opened(model)
    peaks = masks = None
    if mask is None or isinstance(mask, str | Path):
        peaks = open_peaks(mask, network, windows)
    else:
        masks = _masks(mask, windows)
    own = network.config.generates_mask and mask is None
    kind = "given" if masks is not None else "peaks" if peaks is not None else network.config.mask_mode.value
    layout = Layout(
        gene_rows(windows),
        window_bp=windows.inputs.window_bp,
        has_mask=own or mask is not None,
        has_beta=save_beta and own,
        has_spread=network.config.members > 1,
        request={},
        provenance={
            **origin_of(network, name, None, windows),
            "mask": kind if own or mask is not None else None,
            "label": None,
        },
    )
    store = PredictionStore.in_memory(layout)
    batches = batches_of(len(windows), batch_size)
    results = predict_batches(network, windows, batches, batch_size, peaks=peaks, masks=masks, save_beta=save_beta)
    for batch, rows in results:
        for row, found in zip(batch, rows, strict=True):
            store.write(row, found)
            if on_gene is not None:
                on_gene()
    return store.predictions()


def _opened(model: Seq2Exp | str | Path) -> tuple[Seq2Exp, str]:
    """Return a network and its name in results."""
    from kipoi_seq2exp.nn.network import Seq2Exp
    from kipoi_seq2exp.zoo.models import load_model

    if isinstance(model, Seq2Exp):
        cell_type = "" if model.inputs is None else model.inputs.cell_type
        return model, cell_type or "network"
    return load_model(model), str(model)


def _masks(mask: NDArray[np.floating], windows: WindowDataset) -> NDArray[np.float32]:
    """Return given masks, (L,) or (G, L), as (G, L)."""
    values, shape = np.asarray(mask, dtype=np.float32), (len(windows), windows.inputs.window_bp)
    if values.shape not in (shape, shape[1:]):
        raise ShapeError(f"the mask must have the shape {shape[1:]} or {shape}, found {values.shape}.")
    return np.broadcast_to(values, shape)


def read_results(path: str | Path, genes: str | Path | pd.DataFrame | None = None) -> Predictions:
    """Open finished predictions of `seq2exp predict` or `kipoi predict`.

    Parameters
    ----------
    path : str or Path
        A results folder, its predictions.zarr, or an .h5 or .zarr of `kipoi predict`.
    genes : str, Path or DataFrame, optional
        The gene table that was predicted; needed only for an output of Kipoi without metadata.

    Returns
    -------
    Predictions
        `genes`, a table with a row per gene, and the masks one by one: `mask(index)`, (L,). A context that closes the
        file.

    Raises
    ------
    InputError
        If the file is missing or damaged, holds no predictions, or names other genes than the table.
    """
    from kipoi_seq2exp.data.genes import read_genes

    return read_predictions(path, None if genes is None else read_genes(genes))


def call_elements(
    predictions: Predictions,
    calls: CallSettings | None = None,
    *,
    model: Seq2Exp | str | Path | None = None,
    windows: WindowDataset | None = None,
    null: NullSettings | None = None,
    perturb: bool = False,
    batch_size: int = 1,
) -> Found:
    """Call the elements that drive each gene, with the evidence for them.

    Parameters
    ----------
    predictions : Predictions
        Of `predict` or `read_results`, with masks.
    calls : CallSettings, optional
        How masks are cut; by default the top 5 % of each window.
    model : Seq2Exp, str or Path, optional
        The model that made the predictions; with `windows` it gives the evidence of DNA and each track (where the
        predictions hold the concentrations of each base), and a null or perturbations.
    windows : WindowDataset, optional
        The windows that were predicted.
    null : NullSettings, optional
        Choose the threshold by a false discovery rate.
    perturb : bool
        Predict expression with each element masked out.
    batch_size : int
        Masks that go through the network together; changes memory and speed only.

    Returns
    -------
    Found
        `elements` and `promoters`, tables with a row per element and per gene: 0-based, half-open; distances in bp.

    Raises
    ------
    InputError
        If the predictions hold no masks.
    ConfigError
        If a null or perturbations are asked for without model and windows, or one of these without the other.
    """
    if (model is None) != (windows is None):
        raise ConfigError("give the model and its windows together, or neither.")
    settings = ElementSettings(calls or CallSettings(), null, perturb)
    if model is None or windows is None:
        return find_elements(predictions, settings)
    return find_elements(predictions, settings, results_here(Bench(_opened(model)[0], windows, batch_size)))


def variant_effects(
    model: Seq2Exp | str | Path,
    windows: WindowDataset,
    variants: Sequence[Variant] | str | Path,
    *,
    batch_size: int = 1,
    skip_mismatch: bool = False,
) -> pd.DataFrame:
    """Predict every gene with every variant within its reach.

    Parameters
    ----------
    model : Seq2Exp, str or Path
        A network, the name of a served one, or a .safetensors file.
    windows : WindowDataset
        The genes.
    variants : sequence of Variant, str or Path
        Variants, or a VCF of them (plain or compressed); all are held in memory, so use `seq2exp variants` for
        millions.
    batch_size : int
        Windows that go through the network together; changes memory and speed only.
    skip_mismatch : bool
        Leave out variants whose REF differs from the FASTA, instead of raising an error.

    Returns
    -------
    DataFrame
        A row per variant and gene (`effects.variants.COLUMNS`): expressions in the unit of the prediction, distances in
        bp along the gene, POS counted from 1, as in a VCF; then variant, its place in the list.

    Raises
    ------
    InputError
        If the file cannot be read, a REF differs, or no variant lies in the window of any gene.
    """
    from kipoi_seq2exp.effects import run
    from kipoi_seq2exp.effects.variant_table import VariantTable

    with VariantTable() as table:
        if isinstance(variants, str | Path):
            table.read(Path(variants), windows.genome, skip_mismatch=skip_mismatch)
        else:
            table.add_fitting(variants, windows.genome, "the variants", skip_mismatch=skip_mismatch)
        return run.variant_effects(Bench(_opened(model)[0], windows, batch_size), table)


def contributions(
    model: Seq2Exp | str | Path,
    windows: WindowDataset,
    *,
    method: str = "integrated",
    steps: int = 32,
    on_step: Callable[[], None] | None = None,
) -> Explained:
    """Compute how much each base, track value and feature contributes to the prediction of each gene.

    Parameters
    ----------
    model : Seq2Exp, str or Path
        A network, the name of a served one, or a .safetensors file.
    windows : WindowDataset
        The genes; all their contributions are held in memory (L x (5 + S) numbers each).
    method : {"integrated", "gradient"}
        Integrated gradients, whose parts add up to the prediction minus that of the baseline; or gradient x input.
    steps : int
        Steps of integrated gradients.
    on_step : callable, optional
        Called after each step.

    Returns
    -------
    Explained
        `table`, a row per gene, and `genes`, the contributions of every base; in units of the prediction.

    Raises
    ------
    ConfigError
        If the method is unknown, there is no step, or captum is missing.
    """
    from kipoi_seq2exp.effects.contributions import ContributionJob, summary

    job, bench = ContributionJob.of(method, steps, on_step), Bench(_opened(model)[0], windows)
    ids = [str(gene_id) for gene_id in windows.genes["gene_id"]]
    genes = {gene_id: job(bench, row)[1] for row, gene_id in enumerate(ids)}
    return Explained(pd.DataFrame([summary(name, found, windows) for name, found in genes.items()]), genes)


def compare(
    models: Mapping[str, str | Path],
    genes: str | Path | pd.DataFrame,
    label: str | None = None,
    *,
    bootstrap: int = 1_000,
) -> Comparison:
    """Compare saved predictions of several models on the same genes, with the label.

    Parameters
    ----------
    models : mapping of str to str or Path
        The name of each model, and its predictions: a results folder, an .h5 or .zarr of `kipoi predict`, or a table
        ("FILE::COLUMN" names the prediction). The first is what the others are compared with.
    genes : str, Path or DataFrame
        The gene table.
    label : str, optional
        Column of it with the observed expression; by default the first usual one there is.
    bootstrap : int
        Resamples of the genes; 0 gives no intervals.

    Returns
    -------
    Comparison
        `genes` (a column per model), `scores` (a row per model, with intervals) and `notes`.

    Raises
    ------
    InputError
        If a file cannot be read, there is no label, or fewer than two genes are shared.
    ConfigError
        If fewer than two models are given.
    """
    from kipoi_seq2exp.data.genes import read_genes
    from kipoi_seq2exp.errors import InputError
    from kipoi_seq2exp.judge.compare import compare_models
    from kipoi_seq2exp.judge.compare_files import read_model_predictions
    from kipoi_seq2exp.prediction.request import observed_label

    if len(models) < 2:
        raise ConfigError(f"a comparison needs at least two models, found {len(models)}.")
    table = read_genes(genes)
    observed = observed_label(table, label)[1]
    if observed is None:
        raise InputError("the gene table has no label: name its column.")
    read = [read_model_predictions(name, str(source), table) for name, source in models.items()]
    return compare_models(read, table, observed, bootstrap)


def train(
    config: str | Path,
    out: str | Path = "runs",
    *,
    data_root: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    cells: str | Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Train a network from the settings of a YAML file.

    Parameters
    ----------
    config : str or Path
        The run's settings.
    out : str or Path
        Folder of run folders; the run's is named as the settings say.
    data_root : str or Path, optional
        What relative paths of the settings are relative to.
    overrides : mapping, optional
        Fields to replace, by dotted name.
    cells : str or Path, optional
        A table of cell types of your own, beside the package's.
    resume : bool
        Continue from the run's last checkpoint.

    Returns
    -------
    FitResult
        `folder`, `weights` (its best.safetensors) and `scores` on the test genes, in the unit of the label.

    Raises
    ------
    ConfigError
        If a field is wrong, the checkpoint belongs to other settings, or the extra `train` is not installed.
    InputError
        If the settings or the data cannot be used.
    OutputError
        If the run folder exists (and `resume` is false) or cannot be written.
    """
    result: FitResult = training_module("fit").fit(config, out, data_root, overrides, cells=cells, resume=resume)
    return result


def training_module(name: str) -> Any:
    """Import a module of `kipoi_seq2exp.training`; the error names the extra that is missing.

    Parameters
    ----------
    name : str
        Below the package, e.g. "publishing.publish".

    Raises
    ------
    ConfigError
        If the extra `train` is not installed.
    """
    try:
        return importlib.import_module(f"kipoi_seq2exp.training.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("kipoi_seq2exp"):
            raise
        raise ConfigError(f"training needs {error.name}: pip install 'kipoi-seq2exp[train]'.") from None
