"""The table of cell types: which tracks and features the model of each reads (`cells.yaml`, or the user's own file)."""

from __future__ import annotations

from pathlib import Path

from kipoi_seq2exp.config import InputSpec
from kipoi_seq2exp.errors import ConfigError
from kipoi_seq2exp.settings import from_mapping, read_yaml, suggest

_TABLE = Path(__file__).with_name("cells.yaml")
_SECTIONS = ("tracks", "features", "cells")


def read_cells(path: str | Path | None = None) -> dict[str, InputSpec]:
    """Read the table of cell types.

    Parameters
    ----------
    path : str or Path, optional
        A YAML file whose `cells` maps names to the fields of `InputSpec`; other top-level keys (`tracks`, `features`)
        hold lists that several rows share. By default the package's own table.

    Returns
    -------
    dict
        Inputs by cell type.

    Raises
    ------
    InputError
        If the file cannot be read.
    ConfigError
        If it has no cell types, or a field is unknown, missing or of the wrong type.
    """
    table = _TABLE if path is None else Path(path)
    values = read_yaml(table)
    for name in values:
        if name not in _SECTIONS:
            raise ConfigError(f"{table}: unknown section '{name}'{suggest(str(name), _SECTIONS)}.")
    rows = values.get("cells")
    if not isinstance(rows, dict) or not rows:
        raise ConfigError(f"{table}: the section 'cells' is missing or holds no cell types.")
    return {str(name): from_mapping(InputSpec, row, f"{table}: {name}") for name, row in rows.items()}


def cell_inputs(name: str, table: str | Path | None = None) -> InputSpec:
    """Return the row of a cell type, from the user's table or else from the package's own.

    Parameters
    ----------
    name : str
    table : str or Path, optional
        The user's table (``--cells FILE``).

    Raises
    ------
    InputError
        If the table cannot be read.
    ConfigError
        If neither has such a row.
    """
    cells = {**read_cells(), **({} if table is None else read_cells(table))}
    if name not in cells:
        more = f"{table} and the package's own table have" if table is not None else "the table of cell types has"
        raise ConfigError(f"no cell type '{name}': {more} no such row{suggest(name, cells)}.")
    return cells[name]
