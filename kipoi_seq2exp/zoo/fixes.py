"""The one place that works around faults of Kipoi 0.8.6, now archived: `install` replaces what is broken.

| fault | what happens instead |
|---|---|
| a misspelled or missing data loader argument is dropped with a warning | ours: a `ConfigError` naming the nearest |
| bed output always raises, zarr output writes nothing and exits with 0 | both are written |
| bed output lacks its ranges unless the metadata is kept (-m) | ours: the writer gets them all the same |
| 10,000 rows in one HDF5 chunk: 8 GB at 200 kb | chunks of megabytes where rows are wide |
| tsv and parquet of 200,000 columns, partial files after a failure | ours: the writers of `writers` |
| NumPy 2 lacks two names that the writers use | `kipoi.writers` sees them; NumPy itself is not touched |
| `kipoi test` compares only the first of several outputs | it compares all |
| a user's error ends in a traceback | ours: one sentence on the command line |
| every log but Kipoi's own is silenced by its command | warnings of this package are shown |
| an .h5 or .zarr does not say which model made it | ours: its attribute `made_by` names weights, files and version |

Replacements are made once, when `model.py` or `dataloader.py` of the group is imported. "Ours" applies to our data
loader alone (recognised by `is_ours`); any other Kipoi model in the process behaves as before.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kipoi.cli.main
import kipoi.pipeline
import kipoi.writers
import numpy as np

from kipoi_seq2exp import __version__
from kipoi_seq2exp.errors import ConfigError, OutputError, Seq2ExpError, excerpt
from kipoi_seq2exp.failures import sentence_of
from kipoi_seq2exp.interruption import interruptible
from kipoi_seq2exp.settings import suggest
from kipoi_seq2exp.zoo import writers

_stock_validate = kipoi.pipeline.validate_kwargs
_stock_get_writer = kipoi.writers.get_writer
_stock_prepare = kipoi.cli.main.prepare_batch
_stock_compare = kipoi.cli.main.compare_numpy_dict
_ENDINGS: dict[str, Callable[[str], Any]] = {
    "tsv": writers.TextWriter,
    "h5": writers.HDF5Writer,
    "hdf5": writers.HDF5Writer,
    "parquet": writers.ParquetWriter,
    "pq": writers.ParquetWriter,
    "pqt": writers.ParquetWriter,
    "zarr": writers.ZarrWriter,
}
_state = {"installed": False, "ours_runs": False}
_our_schemas: list[Any] = []
_lifelong = ExitStack()
_made_by: dict[str, Any] = {"package": f"kipoi-seq2exp {__version__}"}


def install() -> None:
    """Replace the broken parts of the imported Kipoi; calling it again does nothing."""
    if _state["installed"]:
        return
    kipoi.pipeline.validate_kwargs = validate_kwargs
    kipoi.writers.get_writer = get_writer
    kipoi.writers.HDF5BatchWriter = BoundedHDF5Writer
    kipoi.cli.main.prepare_batch = prepare_batch
    kipoi.cli.main.compare_numpy_dict = compare_outputs
    if not hasattr(np, "string_"):
        kipoi.writers.np = _NumpyOneNames("numpy")
    if "kipoi.__main__" in sys.modules or _main_is_kipoi():
        sys.excepthook = functools.partial(one_sentence_hook, sys.excepthook)
        _lifelong.enter_context(interruptible())  # SIGTERM and SIGHUP end a run as Ctrl-C does: nothing is left
        _let_warnings_through()
    _state["installed"] = True


def _let_warnings_through() -> None:
    """Show this package's warnings, as `seq2exp` does: Kipoi's command silences every log but its own."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    logging.getLogger("kipoi_seq2exp").addHandler(handler)


def _main_is_kipoi() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "kipoi.__main__"


# ---------------------------------------------------------------------------------------------------------- arguments


def is_ours(dataloader: Any) -> bool:
    """Return whether a data loader class is the group's."""
    return bool(getattr(dataloader, "strict_arguments", False))


def validate_kwargs(dataloader: Any, dataloader_kwargs: Any) -> Any:
    """Check the arguments of a data loader; for ours an unknown or a missing one is an error, not a warning."""
    _state["ours_runs"] = is_ours(dataloader)
    if is_ours(dataloader) and not isinstance(dataloader_kwargs, Mapping):
        raise ConfigError(f"dataloader_args: expected names and values, found {excerpt(dataloader_kwargs, 80)}.")
    if is_ours(dataloader):
        for name in dataloader_kwargs:
            if name not in dataloader.args:
                raise ConfigError(f"dataloader_args: unknown argument '{name}'{suggest(str(name), dataloader.args)}.")
        for name, argument in dataloader.args.items():
            if not argument.optional and name not in dataloader_kwargs:
                raise ConfigError(
                    f"dataloader_args: the argument '{name}' is missing ({argument.doc.split('. ')[0].rstrip('.')})."
                )
    return _stock_validate(dataloader, dataloader_kwargs)


# ------------------------------------------------------------------------------------------------------------ writers


def claim(schema: Any) -> Any:
    """Remember a data loader's output schema as ours, so that `get_writer` knows its batches; return the schema."""
    if all(schema.metadata is not known for known in _our_schemas):
        _our_schemas.append(schema.metadata)
    return schema


def note(**facts: Any) -> None:
    """Note what makes the next outputs: the weights of the model, the arguments of the data loader."""
    _made_by.update(facts)


def get_writer(output_file: str, metadata_schema: Any = None, **kwargs: Any) -> Any:
    """Return the writer for a file ending: ours for our batches, for others only where Kipoi has none that works."""
    ending = str(output_file).rsplit(".", 1)[-1]
    ours = any(metadata_schema is known for known in _our_schemas)
    if ending == "bed" and metadata_schema is not None:
        return writers.BedTextWriter(output_file, metadata_schema)
    if ending == "zarr" or (ours and ending in _ENDINGS):
        writer = _ENDINGS[ending](output_file)
        if ours and isinstance(writer, writers.HDF5Writer | writers.ZarrWriter):
            writer.made_by(json.dumps(_made_by, default=str))
        return writer
    if ours and not Path(output_file).suffix:
        raise OutputError(f"{output_file}: has no ending, which decides the format: add .tsv, .h5 or .zarr.")
    if ours:
        raise OutputError(f"{output_file}: unknown ending '.{ending}'{suggest(ending, [*_ENDINGS, 'bed'])}.")
    return _stock_get_writer(output_file, metadata_schema, **kwargs)


class PreparedBatch(dict[str, Any]):
    """A batch as Kipoi hands it to its writers, with the metadata that the user did not ask to keep."""

    dropped_metadata: Any = None


def prepare_batch(
    dl_batch: dict[str, Any], pred_batch: Any, keep_inputs: bool = False, keep_metadata: bool = False
) -> dict[str, Any]:
    """Join predictions to a batch and drop what is not kept; a bed file still learns its ranges."""
    metadata = dl_batch.get("metadata")
    prepared = PreparedBatch(_stock_prepare(dl_batch, pred_batch, keep_inputs, keep_metadata))
    prepared.dropped_metadata = metadata
    return prepared


class BoundedHDF5Writer(writers.HDF5Writer):
    """Replaces `kipoi.writers.HDF5BatchWriter`: `kipoi preproc` makes one by that name."""

    def __init__(self, file_path: str, chunk_size: int = 10_000, compression: str = "gzip") -> None:
        super().__init__(file_path, chunk_size, compression, staged=_state["ours_runs"])


class _NumpyOneNames(types.ModuleType):
    """NumPy with the two names of NumPy 1 that Kipoi's writers ask for."""

    string_ = np.bytes_
    unicode_ = np.str_

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


# --------------------------------------------------------------------------------------------- tests and error messages


def compare_outputs(a: Any, b: Any, exact: bool = True, decimal: int = 7) -> Any:
    """Compare predictions with expected ones, every output of a dict (Kipoi stops after the first)."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            raise AssertionError(f"outputs {', '.join(sorted(a))}; expected {', '.join(sorted(b))}")
        for name in a:
            compare_outputs(a[name], b[name], exact, decimal)
        return True
    return _stock_compare(a, b, exact, decimal)


def one_sentence_hook(
    otherwise: Callable[..., Any],
    kind: type[BaseException],
    error: BaseException,
    traceback: types.TracebackType | None,
) -> None:
    """Show a user's error, or a refusal of the machine while we run, as one sentence; everything else as before."""
    if issubclass(kind, Seq2ExpError):
        lines = [line for line in str(error).splitlines() if line.strip()]  # a worker's error carries its traceback
        message = lines[-1].split("Error: ", 1)[-1] if len(lines) > 1 else str(error)
        sys.stderr.write(f"error: {message}\n")
    elif _state["ours_runs"] and issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("error: interrupted before all genes were predicted: nothing was written.\n")
    elif _state["ours_runs"] and issubclass(kind, OSError | MemoryError | RecursionError):
        sys.stderr.write(f"error: {sentence_of(error)[0]}\n")
    else:
        otherwise(kind, error, traceback)
