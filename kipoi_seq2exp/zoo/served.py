"""What follows from the served weights and the example: `model.yaml`, the expected predictions, the example's inputs.

`refresh` brings the first two up to date after weights were published; the tests check that nobody forgot.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kipoi_seq2exp.config import InputSpec, Transform, read_yaml, suggest
from kipoi_seq2exp.errors import ConfigError, OutputError, WeightsError
from kipoi_seq2exp.files import make_folder, whole_file, write_text
from kipoi_seq2exp.zoo.registry import (
    DEFAULT_MODEL,
    PROVISIONAL,
    ServedModel,
    expected_path,
    group_dir,
    read_served,
    write_served,
)

EXPECTED_ROWS = 1
EXPECTED_DECIMALS = 4  # of the mask: half a unit of these is a third of the tolerance of the test, and saves space


def refresh(group: Path | None = None) -> tuple[Path, ...]:
    """Rewrite what follows from the weights: their units in `models.tsv`, `model.yaml`, the expected predictions.

    Returns
    -------
    tuple of Path
        The files written.
    """
    group = group or group_dir()
    rows = [with_units(row, group) for row in read_served(group).values()]
    write_served(rows, group)
    path = group / "model.yaml"
    write_text(path, render_model_yaml(group))
    return group / "models.tsv", path, *(write_expected(row, group) for row in rows)


def with_units(row: ServedModel, group: Path) -> ServedModel:
    """Return the row with what the weights themselves say of their label and tracks.

    Raises
    ------
    WeightsError
        If the weights do not name their inputs.
    """
    from kipoi_seq2exp.zoo.models import load_model

    inputs = load_model(group / row.weights, "cpu", sha256=row.weights_sha256).inputs
    if inputs is None:
        raise WeightsError(f"{group / row.weights}: does not name its inputs: publish weights of this version.")
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

    row = read_served(group)[DEFAULT_MODEL]
    template = jinja2.Template((group / "model-template.yaml").read_text(encoding="utf-8"))
    head = f"# Made from model-template.yaml and the row {DEFAULT_MODEL} of models.tsv: change those instead.\n"
    body: str = template.render(dataclasses.asdict(row))
    return head + body.lstrip("\n") + "\n"


def write_expected(row: ServedModel, group: Path) -> Path:
    """Write the inputs and predictions of the first example gene, as `kipoi test` compares them (`test.expect`).

    Kipoi reads one HDF5 file per model: `inputs/<name>` and `preds/<name>`, one row per gene.
    """
    import h5py

    from kipoi_seq2exp.zoo.array_model import ArrayModel
    from kipoi_seq2exp.zoo.models import load_model

    inputs = example_inputs(row.cell_type, group, EXPECTED_ROWS)
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


def example_inputs(cell_type: str, group: Path, rows: int | None = None) -> dict[str, np.ndarray]:
    """Return the model's inputs for the genes of the bundled example: onehot (B, L, 4), signals (B, L, S), ..."""
    from kipoi_seq2exp.data.dataset import WindowDataset

    files = {name: group / value for name, value in example_files(group).items()}
    sources = {"h3k27ac": files["h3k27ac_file"], "dnase": files["dnase_file"], "hic": files["hic_file"]}
    spec = inputs_of(cell_type)
    with WindowDataset(spec, files["genes_file"], files["fasta_file"], sources, files["blacklist_file"]) as windows:
        chosen = [windows[i] for i in range(len(windows) if rows is None else min(rows, len(windows)))]
    names = ("onehot", "signals", "features", "blacklist")
    return {name: np.stack([getattr(window, name) for window in chosen]) for name in names}


def inputs_of(cell_type: str) -> InputSpec:
    """Return the row of the table of cell types.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    from kipoi_seq2exp.data.cells import read_cells

    cells = read_cells()
    if cell_type not in cells:
        raise ConfigError(f"cell_type: unknown '{cell_type}'{suggest(cell_type, cells)}.")
    return cells[cell_type]


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
            f"{weights}: PROVISIONAL weights: predictions exercise the software and say nothing of biology.\n"
        )
        sys.stderr.flush()
