"""Kipoi models that are not ours, run and described by Kipoi's own command line, in a separate process.

Contract: the name of a model, or a folder with one, in; a file of its predictions, or the labels of its outputs, out.
Their code may be named as ours is (`model.py`, `dataloader.py`), so none of it is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kipoi_seq2exp.errors import InputError

# Kipoi's own writers need names that NumPy 2 lacks; `fixes` gives them, and changes nothing else for models not ours.
_KIPOI = "from kipoi_seq2exp.zoo import fixes; fixes.install(); from kipoi.__main__ import main; main()"
_TARGETS = """
import json, sys, kipoi
targets = kipoi.get_model_descr(sys.argv[1], source=sys.argv[2]).schema.targets
arrays = targets.values() if hasattr(targets, "values") else targets if isinstance(targets, list) else [targets]
print(json.dumps([list(array.column_labels) for array in arrays if array.column_labels]))
"""


def predict_by_kipoi(model: str, arguments: str, out: Path) -> Path:
    """Run `kipoi predict` for a model.

    Parameters
    ----------
    model : str
        Name of a Kipoi model, or a folder with one.
    arguments : str
        Arguments of its dataloader, as JSON.
    out : Path
        The .h5 to write, replaced if it is there.

    Raises
    ------
    InputError
        If Kipoi fails; the last line of its output is in the message.
    """
    out.unlink(missing_ok=True)
    source = ["--source", "dir"] if Path(model).is_dir() else []
    words = ["predict", model, *source, "--dataloader_args", arguments, "--keep_metadata", "-o", str(out)]
    done = subprocess.run([sys.executable, "-c", _KIPOI, *words], capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        raise InputError(f"kipoi predict {model} failed ({_last_line(done.stderr)}).")
    return out


def described_labels(model: str) -> list[tuple[str, ...]] | None:
    """Return the labels of a model's outputs as its description gives them (`column_labels`), None where it has none.

    Raises
    ------
    InputError
        If Kipoi cannot read the description.
    """
    source = "dir" if Path(model).is_dir() else "kipoi"
    command = [sys.executable, "-W", "ignore", "-c", _TARGETS, model, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"the description of {model} cannot be read ({_last_line(done.stderr)}).")
    labels = json.loads(done.stdout.splitlines()[-1])
    return [(str(label),) for label in labels[0]] if len(labels) == 1 else None


def _last_line(text: str) -> str:
    """Return the last line of a program's output, without its full stop."""
    said = [line for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return said[-1].strip().rstrip(".")
