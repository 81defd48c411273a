"""The documentation: its commands are commands of the package, its files are there, its notebooks hold no results."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kipoi_seq2exp.cli import build_parser
from kipoi_seq2exp.zoo import register

ROOT = Path(__file__).resolve().parents[1]
FIRST = "predict.md"  # the commands of other pages read its results
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"), key=lambda page: (page.name != FIRST, page.name))]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def commands(page: Path) -> list[list[str]]:
    """The words of each command in the shell blocks of a page; settings of variables are left out."""
    found = []
    for block in re.findall(r"^```sh\n(.+?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        waiting = ""
        for line in block.replace("\\\n", " ").splitlines(keepends=True):
            waiting += line
            try:
                words = shlex.split(waiting, comments=True)
            except ValueError:  # a quotation goes on
                continue
            waiting = ""
            while words and re.fullmatch(r"[A-Z_0-9]+=\S*", words[0]):
                del words[0]
            found += [words] if words else []
        assert waiting == "", f"{page.name}: unfinished command {waiting!r}"
    return found


EVERY = [(page.name, words) for page in PAGES for words in commands(page)]
OURS = [(name, words) for name, words in EVERY if words[0] == "seq2exp"]
ON_THE_EXAMPLE = [
    (name, words) for name, words in EVERY if words[0] in ("seq2exp", "kipoi") and "example" in " ".join(words)
]


@pytest.mark.parametrize(("page", "words"), OURS, ids=lambda value: value if isinstance(value, str) else value[1])
def test_commands_of_the_pages_are_commands_of_the_package(page, words):
    build_parser().parse_args(words[1:])  # a misspelled option exits


def test_commands_that_kipoi_runs_have_the_arguments_of_its_loader():
    known = set(re.findall(r"^  (\w+):$", (ROOT / "dataloader.yaml").read_text().split("info:")[0], re.MULTILINE))
    seen = 0
    for _, words in EVERY:
        for word in words:
            if words[0] == "kipoi" and word.startswith("--dataloader_args="):
                assert set(json.loads(word.split("=", 1)[1])) <= known
                seen += 1
    assert seen >= 2


def test_files_of_the_example_that_commands_name_exist():
    names = {
        part for _, words in ON_THE_EXAMPLE for part in re.findall(r"(?:example|configs)/[\w./-]+", " ".join(words))
    }
    assert len(names) > 5
    assert sorted(name for name in names if not (ROOT / name).exists()) == []


def test_the_score_that_the_docs_recommend_is_the_networks_best():
    """`regulatory_score` of `elements`; the page on elements says so, and that effects rank worse than distance."""
    page = (ROOT / "benchmarks" / "crispri.md").read_text(encoding="utf-8").split("## All")[1].split("\n## ")[0]
    auprc = {name: float(value) for name, value in re.findall(r"^\| ([^|]+?) \| (0\.\d+) ", page, re.MULTILINE)}
    ours = {name: value for name, value in auprc.items() if name.startswith(("mask", "evidence", "effect"))}
    assert len(ours) > 6
    assert max(ours, key=ours.get) == "evidence x contact / expression"
    assert ours["effect"] < auprc["distance to TSS"]


def test_every_command_is_documented():
    parser = build_parser()
    groups = [action for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)]
    shown = {words[1] for _, words in OURS}
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in groups[0].choices if name not in shown and f"`seq2exp {name}" not in text]
    assert missing == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_results(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["source"][0].startswith("# ")
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_build_fails_for_an_undocumented_name_and_for_a_dead_link(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import hooks
    from mkdocs.exceptions import PluginError

    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    hooks._check_public_names(page)
    with pytest.raises(PluginError, match="no entry for load_model"):
        hooks._check_public_names(page.replace("::: kipoi_seq2exp.load_model", ""))
    (tmp_path / "PAGE.md").write_text("[there](nowhere.md)")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    with pytest.raises(PluginError, match=r"dead link to nowhere\.md"):
        hooks._relink("PAGE.md", "page.md", {})


@pytest.mark.pages
def test_commands_on_the_example_run(tmp_path):
    for name in ("example", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "home").mkdir()
    register.register(tmp_path / "home", offline=True)
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for page, words in ON_THE_EXAMPLE:
        if words[1] == "train":
            words = [*words, "--set", "optimiser.max_steps=50"]  # minutes less
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}: {shlex.join(words)}\n{done.stdout}\n{done.stderr}"
