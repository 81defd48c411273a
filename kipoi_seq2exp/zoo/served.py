"""What follows from a group's weights and its example: the files Kipoi reads, the expected predictions.

`refresh` brings them up to date after weights were published; the tests check that nobody forgot.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kipoi_seq2exp.config import Transform
from kipoi_seq2exp.errors import OutputError
from kipoi_seq2exp.files import make_folder, whole_file, write_text
from kipoi_seq2exp.settings import read_yaml
from kipoi_seq2exp.zoo.group import member_inputs, read_about, write_group_files
from kipoi_seq2exp.zoo.registry import (
    PROVISIONAL,
    ServedModel,
    expected_path,
    group_dir,
    read_served,
    write_served,
)

if TYPE_CHECKING:
    from kipoi_seq2exp.data.dataset import WindowDataset

EXPECTED_ROWS = 1
EXPECTED_DECIMALS = 4  # of the mask: half a unit is a third of the test's tolerance; few decimals save space


def refresh(group: Path | None = None) -> tuple[Path, ...]:
    """Rewrite what follows from the weights: their units in `models.tsv`, Kipoi's files, the expected predictions.

    Returns
    -------
    tuple of Path
        The files written.

    Raises
    ------
    ConfigError
        If the members of the group do not read the same tracks and features.
    """
    group = group or group_dir()
    made = write_group_files(group)
    rows = [with_units(row, group) for row in read_served(group).values()]
    write_served(rows, group)
    path = group / "model.yaml"
    write_text(path, render_model_yaml(group))
    return group / "models.tsv", *made, path, *(write_expected(row, group) for row in rows)


def with_units(row: ServedModel, group: Path) -> ServedModel:
    """Return the row with the label and tracks that the weights themselves state.

    Raises
    ------
    WeightsError
        If the weights do not name their inputs.
    """
    inputs = member_inputs(group, row.model)
    tracks = [
        f"{track.name} ({track.description or track.kind.value}; unit: {track.unit or 'that of the file'}; "
        f"read as {_TRANSFORM_WORDS[track.transform]})"
        for track in inputs.tracks
    ]
    return dataclasses.replace(row, label=_cell(inputs.label), signals=_cell(", ".join(tracks)))


_TRANSFORM_WORDS = {Transform.NONE: "it is", Transform.LOG10P1: "log10(x + 1)", Transform.LOG1P: "ln(x + 1)"}


def _cell(text: str) -> str:
    """Make a text fit a cell of models.tsv."""
    return " ".join(text.replace('"', "'").replace("#", "no. ").split())


def render_model_yaml(group: Path) -> str:
    """Return `model.yaml`: the template with the row of the default model, so that the two can never disagree."""
    import jinja2

    default = read_about(group).default
    row = read_served(group)[default]
    template = jinja2.Template((group / "model-template.yaml").read_text(encoding="utf-8"))
    head = f"# Made from model-template.yaml and the row {default} of models.tsv: change those instead.\n"
    body: str = template.render(dataclasses.asdict(row))
    return head + body.lstrip("\n") + "\n"


def write_expected(row: ServedModel, group: Path) -> Path:
    """Write the inputs and predictions of the first example gene, as `kipoi test` compares them (`test.expect`).

    Kipoi reads one HDF5 file per model: `inputs/<name>` and `preds/<name>`, one row per gene.
    """
    import h5py

    from kipoi_seq2exp.zoo.array_model import ArrayModel
    from kipoi_seq2exp.zoo.models import load_model

    inputs = example_inputs(row.model, group, EXPECTED_ROWS)
    network = load_model(group / row.weights, "cpu", sha256=row.weights_sha256)
    predictions = ArrayModel(network, row.output_names).predict(inputs)
    if "element_mask" in predictions:
        predictions["element_mask"] = np.round(predictions["element_mask"], EXPECTED_DECIMALS)
    path = expected_path(row.model, group)
    make_folder(path.parent)
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        for part, arrays in (("inputs", inputs), ("preds", predictions)):
            for name, values in arrays.items():
                file.create_dataset(f"{part}/{name}", data=values, compression="gzip", compression_opts=9, shuffle=True)
    return path


def write_example_predictions(model: str, group: Path) -> Path:
    """Write the predicted expression of every gene of a group's example, for people to compare with."""
    from kipoi_seq2exp.zoo.array_model import ArrayModel
    from kipoi_seq2exp.zoo.models import load_model

    row = read_served(group)[model]
    network = load_model(group / row.weights, "cpu", sha256=row.weights_sha256)
    with example_windows(model, group) as windows:
        genes = windows.genes["gene_id"].tolist()
    values = ArrayModel(network, ["expression"]).predict(example_inputs(model, group))["expression"][:, 0]
    path = group / "example" / "predictions.tsv"
    lines = ["gene_id\texpression", *(f"{gene}\t{value:.4f}" for gene, value in zip(genes, values, strict=True))]
    write_text(path, "\n".join(lines) + "\n")
    return path


def example_inputs(model: str, group: Path, rows: int | None = None) -> dict[str, np.ndarray]:
    """Return a member's inputs for the genes of the group's example: onehot (B, L, 4), signals (B, L, S), ..."""
    with example_windows(model, group) as windows:
        chosen = [windows[i] for i in range(len(windows) if rows is None else min(rows, len(windows)))]
    names = ("onehot", "signals", "features", "blacklist")
    return {name: np.stack([getattr(window, name) for window in chosen]) for name in names}


def example_windows(model: str, group: Path) -> WindowDataset:
    """Open the windows of the genes of a group's example, as a member reads them."""
    from kipoi_seq2exp.data.dataset import WindowDataset

    files, inputs = example_files(group), member_inputs(group, model)
    given = [track for track in inputs.tracks if not track.stand_in or f"{track.name}_file" in files]
    sources = {track.name: _placed(group, files[f"{track.name}_file"]) for track in given}
    blacklist = files.get("blacklist_file")
    genes, fasta = group / files["genes_file"], group / files["fasta_file"]
    return WindowDataset(inputs, genes, fasta, sources, None if blacklist is None else group / blacklist)


def _placed(group: Path, source: str) -> str:
    return source if source == "powerlaw" else str(group / source)


def example_files(group: Path) -> dict[str, str]:
    """Return the example's file for each file argument of the data loader, relative to the group's folder."""
    arguments = read_yaml(group / "dataloader.yaml")["args"]
    return {
        name: field["example"] for name, field in arguments.items() if name.endswith("_file") and "example" in field
    }


def copy_example(group: Path, arguments: Any, folder: Path, absolute: bool, dry_run: bool) -> dict[str, Any]:
    """Copy the example's files to `folder`, and return the data loader arguments that read them there."""
    files = example_files(group)
    values = {name: argument.example for name, argument in arguments.items() if _is_plain(argument.example)}
    for name, relative in files.items():
        if not (group / relative).is_file():  # the word powerlaw
            values[name] = relative
            continue
        source, target = group / relative, folder / Path(relative).name
        values[name] = str(target.absolute() if absolute else target)
        if not dry_run and not (target.exists() and target.samefile(source)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            except OSError as error:
                raise OutputError(f"{target}: cannot be written ({error.strerror}).") from None
    return values


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | list | dict)


@functools.cache
def announce(weights: str, status: str) -> None:
    """Say once per process that weights are provisional, on stderr: Kipoi owns stdout."""
    if status == PROVISIONAL:
        sys.stderr.write(
            f"{weights}: PROVISIONAL weights: predictions are for testing the software and say nothing about biology.\n"
        )
        sys.stderr.flush()
