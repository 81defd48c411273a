"""The rules of the house that no other tool checks: what is documented and pinned, and how big it is."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kipoi_seq2exp

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kipoi_seq2exp"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOOR = [ROOT / "model.py", ROOT / "dataloader.py"]  # what Kipoi imports

MAX_LINES, MAX_CODE_LINES, MAX_ARGUMENTS, MAX_FILES = 450, 60, 7, 17
# Kipoi hands over the arguments of dataloader.yaml one by one; the scan is Mamba's, an array for each symbol, and
# kernels take the arrays that they fill.
MANY_ARGUMENTS = re.compile(r"dataloader\.py:__init__|kipoi_seq2exp/nn/(cpu/)?(scan\w*|\w+_kernels)\.py:")


def tracked_files() -> list[Path]:
    """Every file of the project, without what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_point_down_and_in_no_circle():
    """The contracts of pyproject.toml, which `make lint` checks too."""
    pytest.importorskip("importlinter")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def test_every_room_has_a_floor():
    layers = read_pyproject()["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip().removeprefix("kipoi_seq2exp.") for layer in layers for name in layer.split("|")}
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in MODULES} - {"__init__"}
    assert named == rooms


def test_no_folder_is_a_heap():
    full = {}
    for path in MODULES:
        full[path.parent] = full.get(path.parent, 0) + 1
    assert {str(folder): count for folder, count in full.items() if count > MAX_FILES} == {}


def test_only_the_door_imports_kipoi():
    found = {str(p.relative_to(PACKAGE)) for p in MODULES if any(n.split(".")[0] == "kipoi" for n in imports(p))}
    assert found == {"zoo/fixes.py", "zoo/writers.py", "zoo/loader.py"}


def test_importing_the_package_does_no_work():
    code = "import sys, kipoi_seq2exp; print(sorted({'torch', 'numpy', 'pandas', 'kipoi', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def undocumented(document: str, parameters: list[str], returns: object) -> list[str]:
    """What a NumPy docstring lacks: a section, or the type of a parameter (with the shape, where it is an array)."""
    sections = dict(re.findall(r"^(\w+)\n-+\n(.*?)(?=^\w+\n-+$|\Z)", document, re.MULTILINE | re.DOTALL))
    wanted = ["Parameters"] * bool(parameters) + ["Returns"] * (returns not in (None, "None")) + ["Raises"]
    missing = [name for name in wanted if not sections.get(name, "").strip()]
    for name in parameters:
        found = re.search(rf"^[\w, ]*\b{name}\b[\w, ]* : (.+)$", sections.get("Parameters", ""), re.MULTILINE)
        if found is None or (re.search(r"ndarray|Tensor|array_like", found[1]) and "(" not in found[1]):
            missing.append(name)
    return missing


def test_undocumented_finds_what_is_missing():
    document = (
        "Do.\n\nParameters\n----------\na : ndarray, (L,)\n    A.\nb : ndarray\n    B.\n\nRaises\n------\nE\n    X."
    )
    assert undocumented(document, ["a", "b", "c"], "int") == ["Returns", "b", "c"]


@pytest.mark.parametrize("name", [n for n in kipoi_seq2exp.__all__ if n != "__version__"])
def test_every_public_name_is_documented_with_all_its_parameters(name):
    thing = getattr(kipoi_seq2exp, name)
    document = inspect.getdoc(thing)
    assert document
    assert document.splitlines()[0].endswith((".", ":"))
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert undocumented(document, list(signature.parameters), signature.return_annotation) == []


def test_public_names_are_sorted_and_what_the_loader_knows():
    assert kipoi_seq2exp.__all__ == sorted(kipoi_seq2exp.__all__)
    assert set(kipoi_seq2exp.__all__) <= set(dir(kipoi_seq2exp))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kipoi_seq2exp.no_such_name


def test_every_module_says_what_it_is():
    for path in [*MODULES, *(path for path in DOOR if path.exists())]:
        document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert document, path
        assert len(document) > 20, path


def test_files_are_short():
    long = [p for p in tracked_files() if p.suffix == ".py" and len(text_of(p).splitlines()) > MAX_LINES]
    assert long == []


def function_sizes(path: Path) -> list[tuple[str, int, int]]:
    """Name, lines of code without the docstring, and arguments without self, of each function."""
    sizes = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
        lines = (node.end_lineno or 0) - body[0].lineno + 1
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        sizes.append((node.name, lines, len([a for a in every if a.arg not in ("self", "cls")])))
    return sizes


def test_functions_fit_a_screen_and_take_few_arguments():
    wrong = []
    for path in [*MODULES, *(path for path in DOOR if path.exists())]:
        for name, lines, arguments in function_sizes(path):
            if lines > MAX_CODE_LINES:
                wrong.append(f"{path.relative_to(ROOT)}:{name} has {lines} lines")
            where = f"{path.relative_to(ROOT)}:{name}"
            if arguments > MAX_ARGUMENTS and not MANY_ARGUMENTS.match(where):
                wrong.append(f"{where} takes {arguments} arguments")
    assert wrong == []


def test_nothing_is_left_unfinished():
    words = re.compile("|".join(("NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME", "X" + "XX")))
    wrong = [p for p in [*MODULES, *DOOR] if p.exists() and words.search(text_of(p))]
    assert wrong == []


@pytest.mark.parametrize(
    ("what", "home"),
    [
        (r"\.multinomial\(|np\.quantile\([^)]*level", "metrics.py"),  # the bootstrap and its intervals
        (r"partition\(\"=\"\)", "commands/options.py"),  # NAME=VALUE
        (r"def __exit__", "data/handles.py"),
        (r"\.to_csv\(", "data/tables.py"),  # which does without it, too
        (r"kipoi-seq2exp\[train\]", "api.py"),
    ],
)
def test_one_thing_is_written_once(what, home):
    places = {str(path.relative_to(PACKAGE)) for path in MODULES if re.search(what, text_of(path))}
    assert places <= {home, "training/fetch.py"}


def test_hictkpy_is_imported_without_its_handlers_of_forks():
    """Imported elsewhere it makes one fork in nine of the same process hang: a data loader's worker, or a test."""
    everywhere = [path for path in tracked_files() if path.suffix == ".py"]
    importing = {path.name for path in everywhere if re.search(r"^\s*import hictkpy", text_of(path), re.MULTILINE)}
    assert importing == {"contact_files.py"}


def test_the_fixtures_stand_in_one_conftest():
    """A second one would be imported in its place by tests that say `from conftest import ...`."""
    assert [path.parent.name for path in tracked_files() if path.name == "conftest.py"] == ["tests"]


def test_no_file_names_a_place_of_somebodys_machine():
    folders = "|".join(("work", "root", "home", "Users", "farm"))
    somewhere = re.compile(rf"(^|[^A-Za-z0-9_.\]\"'}}])/({folders})/|\.\./sha" + "red")
    wrong = []
    for path in tracked_files():
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if len(line) < 1_000 and somewhere.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert wrong == []


def test_sizes():
    for path in tracked_files():
        assert path.stat().st_size < 20e6, f"{path} is too large to serve"
    example = [p for p in tracked_files() if p.is_relative_to(ROOT / "example")]
    human = [p for p in example if p.is_relative_to(ROOT / "example" / "human")]
    assert sum(p.stat().st_size for p in human) < 4e6
    assert sum(p.stat().st_size for p in example if p not in human) < 3e6


# ------------------------------------------------------------------------------------------- versions and dependencies


def read_pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == kipoi_seq2exp.__version__
    assert importlib.metadata.version("kipoi-seq2exp") == kipoi_seq2exp.__version__


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pins() -> dict[str, str]:
    names = ("requirements-bench.txt", "requirements-ci.txt", "requirements.txt")  # the first is another environment's
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines()]
    torch = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert torch is not None
    pinned = [line for line in [*lines, torch[1]] if line and line[0] not in "#-"]
    assert all("==" in line for line in pinned)
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pinned)}


NOT_PINNED = {"kipoi-seq2exp", "macs3"}  # itself; a program without wheels


def test_the_pins_lie_in_the_ranges():
    project, pinned = read_pyproject()["project"], pins()
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for name, requirement in requirements([*project["dependencies"], *extras]).items():
        if name in NOT_PINNED or (requirement.marker and not requirement.marker.evaluate()):
            continue
        assert name in pinned, f"{name} has no pin"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{requirement} but {pinned[name]}"


IMPORT_NAMES = {"yaml": "pyyaml", "pyBigWig": "pybigwig", "sklearn": "scikit-learn"}
NOT_IMPORTED = {
    "biopython",
    "numcodecs",
    "six",
    "setuptools",
    "tensorboard",
}  # needed by others of the list; pyproject.toml says why
OPTIONAL = {"mamba_ssm", "triton", "kipoi_interpret"}  # used only where the user has them


def third_party(paths: list[Path]) -> set[str]:
    ours = {"kipoi_seq2exp", "model", "dataloader"}
    names = {name.split(".")[0] for path in paths if path.exists() for name in imports(path)}
    return {canonicalize_name(IMPORT_NAMES.get(n, n)) for n in names - set(sys.stdlib_module_names) - ours - OPTIONAL}


def test_every_import_is_declared_and_every_declared_dependency_is_used():
    project = read_pyproject()["project"]
    always = set(requirements(project["dependencies"]))
    used = third_party([*MODULES, *DOOR])
    extras = {
        name
        for extra, lines in project["optional-dependencies"].items()
        if extra != "dev"
        for name in requirements(lines)
    }
    come_along = {"kipoi-utils", "llvmlite", "typing-extensions"}  # with kipoi, with numba, with torch
    assert used - always - extras - come_along == set()
    assert always - used - NOT_IMPORTED == set()


# --------------------------------------------------------------------------------------------- documents and commands


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "example/README.md", "example/human/README.md"])
def test_paths_named_in_the_documents_exist(name):
    document = ROOT / name
    text = document.read_text(encoding="utf-8")
    quoted = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|md|yaml|tsv|toml|bed|fa|bw|cool|gtf))`", text)
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", text)
    made = re.compile(r"^(runs|results|dist|site|Seq2Exp|~)\b")  # what a command of the text makes, names of models
    missing = [
        path
        for path in {*quoted, *linked}
        if not made.search(path) and not ((ROOT / path).exists() or (document.parent / path).exists())
    ]
    assert missing == []


def test_every_row_of_contributing_names_where_to_look():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ") and "to change" not in line]
    assert len(rows) > 20
    assert [
        what.strip() for what, where in rows if not re.search(r"`[^`]*[./][^`]*`", where) and "`make " not in where
    ] == []


def test_make_help_names_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony is not None
    described = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert described == set(phony[1].split())


def test_ci_runs_make_test():
    run = ROOT / ".ci" / "run"
    if not run.exists():
        pytest.skip("not in a source distribution")
    assert os.access(run, os.X_OK)
    assert "make test" in run.read_text()
