"""The scalar features of genes: read from the gene table, computed from tracks, or filled by an explicit choice."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import FeatureSpec, InputSpec, Transform
from kipoi_seq2exp.data.genes import MISSING, place
from kipoi_seq2exp.errors import ConfigError, InputError, counted
from kipoi_seq2exp.settings import suggest

if TYPE_CHECKING:
    import pandas as pd


class MissingFeatures(str, enum.Enum):
    """What to do about a feature that a gene table does not hold."""

    ERROR = "error"
    MEAN = "mean"  # the mean of the training genes (FeatureSpec.mean), or else of the genes of the table that have it


@dataclass(frozen=True)
class FeatureTable:
    """Features of genes.

    Attributes
    ----------
    values : ndarray of float32, (G, F)
        NaN in the columns `from_tracks`, which are computed from the tracks of each window.
    from_tracks : tuple of int
        Columns to compute from tracks.
    sources : dict
        Where each feature comes from, by name; for the record of a run.
    filled : dict
        Number of genes that a feature was filled for, by name; features that every gene has are left out.
    """

    values: NDArray[np.float32]
    from_tracks: tuple[int, ...]
    sources: dict[str, str] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)

    def filled_line(self) -> str | None:
        """Say in one sentence how many features were filled, or return None where none was."""
        if not self.filled:
            return None
        n_genes, n_features = self.values.shape
        each = ", ".join(
            f"{name}{'' if count == n_genes else f' ({count:,} of {n_genes:,} genes)'}"
            for name, count in self.filled.items()
        )
        return (
            f"{len(self.filled)} of {counted(n_features, 'gene feature')} filled by means, which are the same for "
            f"every gene: {each} (seq2exp features makes a table that has them)"
        )


def parse_missing(policy: str | MissingFeatures) -> MissingFeatures:
    """Return the policy of that name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    try:
        return MissingFeatures(policy)
    except ValueError:
        names = [member.value for member in MissingFeatures]
        raise ConfigError(f"missing features: unknown choice '{policy}'{suggest(str(policy), names)}.") from None


def resolve_features(
    genes: pd.DataFrame, inputs: InputSpec, missing: str | MissingFeatures = MissingFeatures.ERROR
) -> FeatureTable:
    """Collect the features that a model reads.

    Each is read from the first of its columns that the table has; with none, it is computed from tracks if it can be,
    and is missing otherwise.

    Parameters
    ----------
    genes : DataFrame
        From `read_genes`.
    inputs : InputSpec
    missing : {"error", "mean"}
        What to do about a missing column or an empty entry.

    Raises
    ------
    InputError
        If an entry is not a number or beyond the feature's `limit`, or is missing under "error"; the row is named.
    """
    policy = parse_missing(missing)
    values = np.full((len(genes), len(inputs.features)), np.nan, dtype=np.float32)
    sources: dict[str, str] = {}
    filled: dict[str, int] = {}
    computed = []
    for column, feature in enumerate(inputs.features):
        if feature.from_strand:
            values[:, column] = np.where(genes["strand"] == "-", -1, 1)
            sources[feature.name] = "the gene's strand"
            continue
        name = next((name for name in feature.columns or (feature.name,) if name in genes), None)
        if name is None and feature.from_tracks:
            computed.append(column)
            sources[feature.name] = f"computed from {_listed(feature.from_tracks)} at the TSS +-{feature.flank_bp} bp"
            continue
        numbers = np.full(len(genes), np.nan) if name is None else _numbers(genes, feature, name)
        sources[feature.name] = f"column {name}" if name else "no column"
        absent = np.isnan(numbers)
        if absent.any():
            mean, source = _fill(genes, feature, numbers, policy)
            numbers = np.where(absent, mean, numbers)
            filled[feature.name] = int(absent.sum())
            sources[feature.name] += f"; {int(absent.sum())} of {len(genes)} genes: {source}"
        values[:, column] = numbers
    return FeatureTable(values, tuple(computed), sources, filled)


def _listed(tracks: Sequence[str]) -> str:
    return f"the track{'s' if len(tracks) > 1 else ''} {' and '.join(tracks)}"


def _numbers(genes: pd.DataFrame, feature: FeatureSpec, column: str) -> NDArray[np.float64]:
    numbers = np.empty(len(genes))
    for row, entry in enumerate(genes[column]):
        numbers[row] = _number(entry)
        if np.isinf(numbers[row]):
            raise InputError(f"{place(genes, row)}: {column} is '{entry}', not a number.")
        if feature.transform is not Transform.NONE and numbers[row] < 0:
            raise InputError(
                f"{place(genes, row)}: {column} is {numbers[row]:g}, but {feature.name} is read as "
                f"{feature.transform.value} and must not be negative."
            )
        if feature.limit is not None and abs(numbers[row]) > feature.limit:
            unit = f" ({feature.unit})" if feature.unit else ""
            raise InputError(
                f"{place(genes, row)}: {column} is {numbers[row]:g}, which no {feature.name}{unit} can be (at most "
                f"{feature.limit:g}): the column seems to hold something else, such as raw lengths or percentages; "
                f"convert it, or name the right column {' or '.join(feature.columns or (feature.name,))}."
            )
    return numbers


def _number(entry: Any) -> float:
    """Return a number, NaN for an empty entry, infinity for anything else."""
    if entry is None or entry in MISSING:
        return float("nan")
    try:
        return float(entry)
    except (TypeError, ValueError):
        return float("inf")


def _fill(
    genes: pd.DataFrame, feature: FeatureSpec, numbers: NDArray[np.float64], policy: MissingFeatures
) -> tuple[float, str]:
    """Return the value for an absent entry and how to record it, or raise under the policy "error"."""
    absent = np.isnan(numbers)
    names = " or ".join(feature.columns or (feature.name,))
    if policy is MissingFeatures.ERROR:
        where = place(genes, int(np.flatnonzero(absent)[0]))
        what = f"{genes.attrs.get('source', 'gene table')} has no column" if absent.all() else f"{where}: no value"
        raise InputError(
            f"{what} for the feature '{feature.name}' (column {names}): add it, or choose to fill missing features by "
            f"their mean."
        )
    if feature.mean is not None:
        return feature.mean, f"mean of the training genes ({feature.mean:g})"
    if absent.all():
        raise InputError(
            f"{genes.attrs.get('source', 'gene table')}: the feature '{feature.name}' cannot be filled by its mean, "
            f"for no gene has it and the model states none: add the column {names}."
        )
    mean = float(numbers[~absent].mean())
    return mean, f"mean of the other genes of the table ({mean:g})"
