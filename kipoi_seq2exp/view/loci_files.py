"""Loci in files beside the page of `seq2exp report`, where there are too many genes for one page.

Contract: a small page per gene, which the report opens in a hidden frame. Its only script, the same in all pages and
named in their policy, hands the data over as text; so no text of a file ever runs, in the report or in the frame, and
everything works from disk without a server.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kipoi_seq2exp.files import make_folder, remove_folder, whole_file

FOLDER = "report_loci"
_SCRIPT = 'parent.postMessage(document.getElementById("locus").textContent, "*");'


def script_hash(script: str) -> str:
    """Return the hash that names a script in a page's policy: the browser runs no other, and never a file's text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def json_text(data: Any) -> str:
    """Return data as JSON that can stand in a page."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def locus_page(data: Mapping[str, Any]) -> str:
    """Return the page that hands over the data of one locus."""
    return (
        '<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; script-src {script_hash(_SCRIPT)}\">"
        f'<script type="application/json" id="locus">{json_text(data)}</script><script>{_SCRIPT}</script>\n'
    )


@contextmanager
def locus_writer(folder: Path) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """Yield a function that writes the locus of a row; an earlier report's files are replaced when all are written.

    Raises
    ------
    OutputError
        If they cannot be written; then none is.
    """
    make_folder(folder)
    target = folder / FOLDER
    with whole_file(target) as temporary:
        temporary.mkdir()

        def write(row: int, data: Mapping[str, Any]) -> None:
            (temporary / f"{row}.html").write_text(locus_page(data), encoding="utf-8")

        yield write
        if target.is_dir():
            remove_folder(target)
