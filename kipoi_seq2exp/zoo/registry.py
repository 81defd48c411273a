"""Where the served models live: the group's folder, its table `models.tsv`, the weights and the example.

The folder is the repository root in a checkout, and `kipoi_seq2exp/group/` inside an installed wheel. `models.tsv` is
the one table of the served models: Kipoi renders `model-template.yaml` with its rows, loading by name reads it, and
publishing rewrites it. Every row names a weights file, its SHA-256, and what the weights were trained on.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kipoi_seq2exp.errors import ConfigError, InputError, WeightsError, damage_as
from kipoi_seq2exp.files import check_regular, verify_sha256, write_text
from kipoi_seq2exp.settings import suggest

GROUP = "Seq2Exp"
DEFAULT_MODEL = "K562"  # what the bare name `Seq2Exp` serves
GROUP_ABOUT = "group.yaml"  # see `zoo.group`
GROUP_ENTRIES = (
    GROUP_ABOUT,
    "model.yaml",
    "model-template.yaml",
    "models.tsv",
    "dataloader.yaml",
    "dataloader.py",
    "model.py",
    "weights",
    "example",
)
PROVISIONAL = "provisional"


@dataclass(frozen=True)
class ServedModel:
    """One row of `models.tsv`; the columns are the fields, in this order.

    Attributes
    ----------
    model : str
        Name inside the group, e.g. "K562".
    cell_type : str
        As the weights say, e.g. "K562".
    outputs : str
        Names of the outputs, separated by commas: "expression,element_mask" or "expression".
    weights : str
        Weights file, relative to the group's folder.
    weights_sha256 : str
        SHA-256 of the weights file, checked when the weights are loaded.
    status : str
        "provisional", "trained" or "converted".
    trained_on, training_procedure : str
        One sentence each, for the description that Kipoi shows.
    label, signals : str
        What the expression is and what the tracks are, with their units, as the weights say; filled in by
        `served.refresh`.
    """

    model: str
    cell_type: str
    outputs: str
    weights: str
    weights_sha256: str
    status: str
    trained_on: str
    training_procedure: str
    label: str = "-"
    signals: str = "-"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the model's order."""
        return tuple(name.strip() for name in self.outputs.split(","))


COLUMNS = tuple(field.name for field in dataclasses.fields(ServedModel))
_REQUIRED = {field.name for field in dataclasses.fields(ServedModel) if field.default is dataclasses.MISSING}


def group_dir() -> Path:
    """Return the folder that holds model.yaml, models.tsv, weights/ and example/.

    Raises
    ------
    ConfigError
        If this installation has no such folder.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent, package / "group"):
        if (folder / "model-template.yaml").is_file():
            return folder
    raise ConfigError(f"{package}: this installation has no model group (model-template.yaml): install it again.")


def example_dir() -> Path:
    """Return the folder of the bundled example."""
    return group_dir() / "example"


def expected_path(model: str, group: Path | None = None) -> Path:
    """Return the file of expected predictions of a served model (Kipoi's `test.expect`)."""
    return (group or group_dir()) / "example" / "expected" / f"{model}.h5"


def read_served(group: Path | None = None) -> dict[str, ServedModel]:
    """Read `models.tsv`: name -> row, in the file's order.

    Raises
    ------
    InputError
        If the file is missing or has other columns than `ServedModel`.
    """
    path = (group or group_dir()) / "models.tsv"
    check_regular(path, str(path))
    with (
        damage_as(lambda what: InputError(f"{path} is damaged ({what}): restore it from the release it came with.")),
        path.open(encoding="utf-8", newline="") as handle,
    ):
        rows = list(csv.DictReader(handle, delimiter="\t"))
    served: dict[str, ServedModel] = {}
    for number, row in enumerate(rows, start=2):
        if not _REQUIRED <= set(row) <= set(COLUMNS) or None in row.values():
            raise InputError(f"{path}: row {number} must hold the columns {', '.join(COLUMNS)}.")
        served[row["model"]] = ServedModel(**row)
    return served


def write_served(rows: Iterable[ServedModel], group: Path) -> None:
    """Rewrite `models.tsv`, whole or not at all.

    Raises
    ------
    ConfigError
        If a text holds a tab, a line break or "#" (a comment to Kipoi's reader).
    OutputError
        If the file cannot be written.
    """
    path = group / "models.tsv"
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        for name, value in dataclasses.asdict(row).items():
            if not value or set(value) & set('\t\r\n#"'):
                raise ConfigError(
                    f"models.tsv: {name} of '{row.model}' may not be empty or hold tab, newline, quote or #."
                )
        lines.append("\t".join(dataclasses.astuple(row)))
    write_text(path, "\n".join(lines) + "\n")


def served_model(name: str, group: Path | None = None) -> ServedModel:
    """Return the row of a served model, given "K562", "Seq2Exp/K562" or the bare group name.

    Raises
    ------
    WeightsError
        If no served model has that name.
    """
    served = read_served(group)
    short = name.rpartition("/")[2] if group is not None else name.removeprefix(f"{GROUP}/")
    short = DEFAULT_MODEL if short == GROUP else short
    if short not in served:
        raise WeightsError(f"no model is called '{name}'{suggest(short, served)}.")
    return served[short]


def weights_path(name: str, group: Path | None = None) -> Path:
    """Return the weights file of a served model, after checking that it is the published one.

    Raises
    ------
    WeightsError
        If the name is unknown, or the file is missing or not the one whose hash `models.tsv` quotes.
    """
    group = group or group_dir()
    row = served_model(name, group)
    path = group / row.weights
    verify_sha256(path, row.weights_sha256)
    return path
