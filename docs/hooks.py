"""What the documentation site makes from the project itself, so that no text is written twice.

- Pages that are files of the repository: README.md is the start page; their links are turned into links of the site.
- ``{{ commands }}`` in a page: the help text of every command. ``{{ fields MODULE.CLASS }}``: the settings of a
  dataclass, from its docstring. ``{{ models }}``: the served models.
- Notebooks of docs/tutorials: executed on the bundled example, then shown as pages.

The build fails if a public name of the package has no entry in python.md, a field no description, or a notebook fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import html
import importlib
import inspect
import os
import posixpath
import re
import tempfile
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "example/README.md": "example/invented.md",
    "example/human/README.md": "example/human.md",
    **{
        f"benchmarks/{path.name}": f"benchmarks/{path.name}"
        for path in sorted((ROOT / "benchmarks").glob("*.md"))
        if not path.stem.endswith("_notes")
    },
}
_SHIM = "vendor/iframe-worker.js"  # vendor/LICENSE.txt
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
_MARK = re.compile(r"^\{\{ (\w+)(?: ([\w.]+))? \}\}$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every measurement of benchmarks/ in the navigation."""
    measured = next(section["Measured"] for section in config.nav or [] if "Measured" in section)
    listed = {page for entry in measured for page in entry.values()}
    measured += [page for page in REPOSITORY_PAGES.values() if page.startswith("benchmarks/") and page not in listed]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files of the repository, the cards of the weights, and the executed notebooks."""
    cards = sorted((ROOT / "weights").glob("*.md"))
    pages = {**REPOSITORY_PAGES, **{f"weights/{card.name}": f"cards/{card.name}" for card in cards}}
    for source, target in pages.items():
        files.append(File.generated(config, target, content=_relink(source, target, pages)))
        for picture in _LINK.findall((ROOT / source).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), picture))
            if path.endswith(".png") and not path.startswith("docs/") and path not in files.src_uris:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    notebooks = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
    with ThreadPoolExecutor(len(notebooks)) as pool:  # each runs in a process of its own
        executed = list(pool.map(_execute, notebooks))
    for notebook, (text, pictures) in zip(notebooks, executed, strict=True):
        files.append(File.generated(config, f"tutorials/{notebook.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=picture))
    _check_public_names((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the marks of a page by what they stand for."""
    makers = {"commands": lambda _: _commands(), "fields": _fields, "models": lambda _: _models()}
    makers |= {"quickstart": lambda _: _first_python_block(), "units": lambda _: _units()}
    return _MARK.sub(lambda found: makers[found[1]](found[2]), markdown)


def _units() -> str:
    """Return the table of the units of tracks and where files in them come from."""
    from kipoi_seq2exp.data.tracks.recipes import RECIPES

    rows = ["| the card says | ENCODE output type | from your own reads |", "|---|---|---|"]
    for recipe in RECIPES:
        lines = (html.escape(line).replace("|", "&#124;") for line in recipe.command.splitlines())  # | ends a cell
        commands = "<br>".join(f"<code>{line}</code>" for line in lines)
        caveat = f"<br>{recipe.caveat}" if recipe.caveat else ""
        rows.append(f"| {recipe.unit} | {recipe.encode or 'none'} | {commands}{caveat} |")
    return "\n".join(rows)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take the one script that the theme would fetch from the network from this site; allow no other."""
    return _local(output, get_relative_url(_SHIM, page.url), page.url)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Do the same for pages without a source, such as 404.html."""
    return _local(output_content, _SHIM, template_name)


def _local(html: str, shim: str, where: str) -> str:
    html = html.replace("https://unpkg.com/iframe-worker/shim", shim)
    fetched = re.search(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""", html)
    if fetched:
        raise PluginError(f"{where} would fetch from the network: {fetched[0]}")
    return html


def _relink(source: str, target: str, pages: dict[str, str]) -> str:
    """Return a file of the repository with its relative links as links between pages of the site."""

    def move(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        if not (ROOT / path).exists():
            raise PluginError(f"{source}: dead link to {found[1]}")
        path = pages.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(path, posixpath.dirname(target) or ".")

    return _LINK.sub(move, (ROOT / source).read_text(encoding="utf-8"))


def _check_public_names(page: str) -> None:
    """Fail if a public name of the package has no entry in the page of the Python interface."""
    import kipoi_seq2exp

    shown = set(re.findall(r"^::: kipoi_seq2exp\.(\w+)$", page, re.MULTILINE))
    missing = sorted(set(kipoi_seq2exp.__all__) - shown - {"__version__"})
    if missing:
        raise PluginError(f"docs/python.md has no entry for {', '.join(missing)}")


# ----------------------------------------------------------------------------------------------- commands and settings


def _commands() -> str:
    """Return the help of every command, as the terminal shows it."""
    from kipoi_seq2exp.cli import build_parser

    os.environ["COLUMNS"] = "100"
    parts = []
    for name, parser in _parsers(build_parser()):
        parts.append(f"## seq2exp {name}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def _parsers(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, child in (pair for group in groups for pair in group.choices.items()):
        inner = list(_parsers(child, f"{prefix}{name} "))
        yield from inner or [(f"{prefix}{name}", child)]


def _fields(place: str) -> str:
    """Return a table of the fields of a dataclass; each must be described in its docstring."""
    module, _, name = place.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    described = _attributes(inspect.getdoc(cls) or "")
    hints, rows = typing.get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        if not described.get(field.name, ("", ""))[1]:
            raise PluginError(f"{place}: the field '{field.name}' has no description in the class's docstring")
        kind, text = described[field.name]
        if isinstance(hints[field.name], type) and issubclass(hints[field.name], enum.Enum):
            kind = "one of " + ", ".join(f"`{member.value}`" for member in hints[field.name])
        rows.append(f"| `{field.name}`<br><small>{kind}{_default(field)}</small> | {text} |")
    head = "| field, type, default | what |\n|---|---|\n"
    return "\n".join([(inspect.getdoc(cls) or "").split("\n\n")[0], "", head + "\n".join(rows), ""])


def _attributes(document: str) -> dict[str, tuple[str, str]]:
    """Read the Attributes section of a NumPy docstring: type and description by name."""
    section = re.search(r"^Attributes\n-+\n(.*?)(?=^\w[^\n]*\n-+\n|\Z)", document, re.MULTILINE | re.DOTALL)
    found: dict[str, tuple[str, str]] = {}
    for entry in re.split(r"^(?=\S)", section[1] if section else "", flags=re.MULTILINE):
        names, _, kind = entry.partition("\n")[0].partition(" : ")
        text = " ".join(entry.partition("\n")[2].split()).replace("|", "\\|")
        found.update({name.strip(): (kind.replace("|", "\\|"), text) for name in names.split(",") if name.strip()})
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = getattr(field.default, "value", field.default)
        value = list(value) if isinstance(value, tuple) else value
        return "; none" if value is None or value in ("", []) else f"; `{value}`"
    return "; **needed**" if field.default_factory is dataclasses.MISSING else ""


def _first_python_block() -> str:
    """Return the Python of the README, which is tested there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text[text.index("```python") : text.index("```", text.index("```python") + 3) + 3]


def _models() -> str:
    """Return a table of the served models, from models.tsv."""
    import pandas as pd

    table = pd.read_csv(ROOT / "models.tsv", sep="\t")
    rows = [
        f"| [`Seq2Exp/{row.model}`](cards/{Path(row.weights).stem}.md)<br><small>{row.outputs.replace(',', ', ')}; "
        f"{row.status}</small> | {row.label} |"
        for row in table.itertuples()
    ]
    return "\n".join(["| model, outputs, weights | predicts |", "|---|---|", *rows])


# ----------------------------------------------------------------------------------------------------------- notebooks


def _execute(path: Path) -> tuple[str, dict[str, bytes]]:
    """Run a notebook from the top of the repository; return it as Markdown, and its pictures by file name."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import MarkdownExporter
    from traitlets.config import Config

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:  # of its own, or two kernels would answer each other
        client = NotebookClient(
            notebook,
            timeout=600,
            startup_timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(ROOT)}},
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise PluginError(f"{path.relative_to(ROOT)} fails: {error}") from None
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    pictures = {f"{path.stem}_{name}": data for name, data in resources["outputs"].items()}
    for name in resources["outputs"]:
        text = text.replace(f"({name})", f"({path.stem}_{name})")
    text = re.sub(r"\x1b\[[\d;]*\w\n?", "", text)  # colours of a terminal
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)
    text = text.replace('<table border="1" class="dataframe">', "<table>")
    where = f"*This page is the notebook [{path.name}]({path.name}), run when the site was built.*"
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{where}\n{rest}", pictures
