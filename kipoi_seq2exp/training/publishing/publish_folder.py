"""From a run folder to a Kipoi group of its own: weights, card, data loader, example and expected predictions.

The folder needs nothing of this package's own group: `seq2exp register --from FOLDER` makes it known to Kipoi, and it
can be given to others as it is. It is prepared beside its place and put there whole.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kipoi_seq2exp.config import InputSpec
from kipoi_seq2exp.errors import ConfigError, OutputError
from kipoi_seq2exp.files import make_folder, output_error, staging_folder, write_text
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.training.config import TrainingConfig
from kipoi_seq2exp.training.data import CellSet, open_cells
from kipoi_seq2exp.training.publishing.publish import Published, ServedAs, check_member_name, publish, read_run
from kipoi_seq2exp.training.sections import AugmentConfig
from kipoi_seq2exp.zoo.example import write_example
from kipoi_seq2exp.zoo.group import Author, GroupAbout, check_track_names
from kipoi_seq2exp.zoo.registry import GROUP, GROUP_ABOUT, group_dir
from kipoi_seq2exp.zoo.served import refresh, write_example_predictions

EXAMPLE_GENES = 3


@dataclass(frozen=True)
class Signature:
    """Whose weights they are, which a run does not state.

    Attributes
    ----------
    authors : tuple of str
    licence : str
        Of the weights, e.g. "MIT" or "CC-BY-4.0".
    cite_as : str or None
        A link to the work to cite.
    """

    authors: tuple[str, ...]
    licence: str
    cite_as: str | None = None


def publish_folder(
    run: str | Path,
    folder: str | Path,
    signature: Signature,
    *,
    name: str | None = None,
    status: str = "trained",
    overwrite: bool = False,
) -> Published:
    """Write a Kipoi group that serves the weights of a run.

    Parameters
    ----------
    run : path
        A run folder written by `fit`; its data are read once more for the example.
    folder : path
        The folder to make; its name is the group's name.
    signature : Signature
        Authors and licence.
    name : str, optional
        Name of the member; by default the run's cell type.
    status : str
        As in `publish`.
    overwrite : bool
        Replace a group of that folder.

    Returns
    -------
    Published
        Weights, card and rows, in the new folder.

    Raises
    ------
    ConfigError
        If authors or licence are missing, or a name cannot be one of Kipoi's.
    InputError
        If the run is not finished, or its data are no longer there.
    OutputError
        If the folder exists, or cannot be written.
    """
    run, folder = Path(run), Path(folder).resolve()
    model, _, config = read_run(run)
    member = name or config.inputs.cell_type
    check_member_name(member)
    about = GroupAbout(folder.name, member, tuple(Author(author) for author in signature.authors), signature.licence)
    about = dataclasses.replace(about, cite_as=signature.cite_as)
    if about.name == GROUP:
        raise ConfigError(f"{folder}: '{GROUP}' is the name of this package's own group: choose another for yours.")
    check_track_names(config.inputs.tracks)
    _check_place(folder, overwrite)
    cells = open_cells(_served(config, model.inputs))
    make_folder(folder.parent)
    staging = _staging(folder)
    try:
        make_folder(staging)
        example = write_example(cells[0].windows, example_rows(cells[0]), staging / "example")
        about = dataclasses.replace(about, example={key: f"example/{file}" for key, file in example.items()})
        write_text(staging / GROUP_ABOUT, yaml.safe_dump(to_mapping(about), sort_keys=False, allow_unicode=True))
        shutil.copyfile(group_dir() / "model.py", staging / "model.py")
        published = publish(run, member, staging, status=status, choice=ServedAs(signature.licence))
        refresh(staging)
        write_example_predictions(member, staging)
        _put(staging, folder)
    except OSError as error:
        raise output_error(folder, error) from None
    finally:
        shutil.rmtree(staging.parent, ignore_errors=True)
        for cell in cells:
            cell.windows.close()
    places = {field: folder / getattr(published, field).relative_to(staging) for field in ("weights", "card")}
    return dataclasses.replace(published, **places)


def _served(config: TrainingConfig, inputs: InputSpec | None) -> TrainingConfig:
    """Return the settings that read the run's data as the served model does: whole windows, its training means."""
    split = dataclasses.replace(config.split, allow_overlap=True)  # whole windows reach further than training's
    changes: dict[str, Any] = {"train_window_bp": None, "augment": AugmentConfig(), "split": split}
    return dataclasses.replace(config, inputs=inputs or config.inputs, **changes)


def example_rows(cell: CellSet, count: int = EXAMPLE_GENES) -> Sequence[int]:
    """Choose genes for the example: held-out ones first, because their predictions show what the weights can do."""
    parts = ("test", "validation", "train")
    rows = [int(row) for part in parts for row in cell.split.rows(part)]
    return rows[:count]


def _check_place(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is there, unless it is a group of this package's making that may be replaced."""
    if not folder.exists():
        return
    if not (folder / GROUP_ABOUT).is_file():
        raise OutputError(f"{folder}: exists and is not a group made by 'seq2exp publish': choose another folder.")
    if not overwrite:
        raise OutputError(f"{folder}: holds a group already: give --overwrite to replace it, or another folder.")


def _staging(folder: Path) -> Path:
    """Return where the folder is prepared, beside its place."""
    try:
        return staging_folder(folder) / folder.name
    except OSError as error:
        raise output_error(folder, error) from None


def _put(staging: Path, folder: Path) -> None:
    """Move the prepared folder to its place; one that is replaced goes aside first."""
    aside = staging.parent / "replaced"
    if folder.exists():
        folder.replace(aside)
    staging.replace(folder)
