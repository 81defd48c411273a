"""A cell type of one's own, from files to `kipoi predict`: one ATAC track, no Hi-C, no row in the package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from kipoi_door import REPOSITORY, kipoi, make_home

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.training.config import read_training_config
from kipoi_seq2exp.zoo.register import register, unregister

EXAMPLE = REPOSITORY / "example"
FILES = ["--fasta", str(EXAMPLE / "genome.fa"), "--genes", str(EXAMPLE / "genes.tsv")]
ATAC = ["--track", f"atac={EXAMPLE / 'dnase.bw'}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def run_file(place):
    """The YAML that new-cell writes."""
    path = place / "mycell.yaml"
    words = ["new-cell", str(path), *FILES, *ATAC, "--label", "expression", "--unit", "atac=reads per base"]
    assert main([*words, "--assembly", "seq2exp-example", "--blacklist", str(EXAMPLE / "blacklist.bed")]) == 0
    return path


@pytest.fixture(scope="module")
def trained(place, run_file):
    """The run folder."""
    tiny = {"optimiser.max_steps": 2, "optimiser.warmup_steps": 1, "run.validate_every": 2, "run.progress": "false"}
    tiny |= {"run.tensorboard": "false", "network.d_model": 8, "network.d_state": 4, "network.token_bp": 50}
    changes = [word for name, value in tiny.items() for word in ("--set", f"{name}={value}")]
    assert main(["train", str(run_file), *changes, "-o", str(place / "runs")]) == 0
    return place / "runs" / "mycell"


@pytest.fixture(scope="module")
def group(place, trained):
    """The published group."""
    words = ["publish", str(trained), "--to", str(place / "MyLab"), "--author", "A. Person", "--licence", "CC0-1.0"]
    assert main(words) == 0
    return place / "MyLab"


@pytest.fixture(scope="module")
def home(place, group):
    """A home whose Kipoi knows the group."""
    home = make_home(place / "home")
    register(home, offline=True, group=group)
    return home


def test_the_written_files_are_a_cell_type_and_a_run(run_file):
    inputs = read_cells(run_file.with_name("mycell.cells.yaml"))["mycell"]
    assert inputs.track_names == ("atac",)
    assert inputs.tracks[0].unit == "reads per base"
    assert inputs.features[-1].from_tracks == ("atac",)
    config = read_training_config(run_file)
    assert config.inputs == inputs
    assert config.split.test == ("chr2",)
    assert len(config.network.prior_weights) == len(config.network.signal_betas) == 1
    text = run_file.read_text()
    assert "# prior_weights" in text


def test_nothing_is_held_out_only_where_the_user_says_so(tmp_path, capsys):
    """Genes of one neighbourhood."""
    lines = (EXAMPLE / "genes.tsv").read_text().splitlines(keepends=True)
    near = [line for line in lines if line.split("\t")[1] in ("chrom", "chr2")][:4]
    (tmp_path / "genes.tsv").write_text("".join(near))
    words = ["new-cell", str(tmp_path / "near.yaml"), *FILES[:2], "--genes", str(tmp_path / "genes.tsv"), *ATAC]
    words += ["--label", "expression"]
    assert main(words) == 1
    assert "or --train-on-all to go without any test" in capsys.readouterr().err
    assert not (tmp_path / "near.yaml").exists()
    assert main([*words, "--train-on-all"]) == 0
    assert "split: none: all genes train" in capsys.readouterr().out
    assert read_training_config(tmp_path / "near.yaml").split.scheme.value == "all"


def test_at_most_a_tenth_of_the_bases_are_evidence_at_the_start(run_file):
    from kipoi_seq2exp.data.dataset import WindowDataset

    config = read_training_config(run_file)
    with WindowDataset(
        config.inputs, EXAMPLE / "genes.tsv", EXAMPLE / "genome.fa", {"atac": EXAMPLE / "dnase.bw"}
    ) as w:
        share = np.mean([(window.signals > config.network.signal_betas[0]).mean() for window in w])
    assert 0 < share <= 0.12  # less than a tenth where most of the window has no signal, as here


def test_the_group_names_its_own_tracks_authors_and_licence(group):
    loader = yaml.safe_load((group / "dataloader.yaml").read_text())
    required = [name for name, field in loader["args"].items() if not field.get("optional")]
    assert required == ["genes_file", "fasta_file", "atac_file"]
    model = yaml.safe_load((group / "model.yaml").read_text())
    assert model["info"]["authors"] == [{"name": "A. Person"}]
    assert model["info"]["license"] == "CC0-1.0"
    assert "Xingyu" not in "".join(path.read_text() for path in group.glob("*.*"))
    assert "| Licence | CC0-1.0 |" in (group / "weights" / "mycell.md").read_text()
    assert model["schema"]["inputs"]["signals"]["shape"] == "(200000, 1)"


def test_the_example_gives_the_model_the_arrays_of_the_users_files(group):
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.zoo import served
    from kipoi_seq2exp.zoo.group import member_inputs

    inputs = member_inputs(group, "mycell")
    with served.example_windows("mycell", group) as windows:
        ids = windows.genes["gene_id"].tolist()
        arguments = (EXAMPLE / "genes.tsv", EXAMPLE / "genome.fa", {"atac": EXAMPLE / "dnase.bw"})
        with WindowDataset(inputs, *arguments, EXAMPLE / "blacklist.bed", gene_ids=ids) as originals:
            for window, original in zip(windows, originals, strict=True):
                for name in ("onehot", "signals", "features", "blacklist"):
                    np.testing.assert_array_equal(getattr(window, name), getattr(original, name))
    assert len(ids) == 3
    expected = pd.read_csv(group / "example" / "predictions.tsv", sep="\t")
    assert expected["gene_id"].tolist() == ids


def test_genes_of_one_tss_share_a_window_of_the_example(tmp_path):
    """Chromosomes of a FASTA are named once."""
    from kipoi_seq2exp.data.cells import cell_inputs
    from kipoi_seq2exp.data.dataset import WindowDataset
    from kipoi_seq2exp.zoo.example import write_example

    inputs = replace(cell_inputs("K562"), features=())
    sources = {track.name: str(EXAMPLE / "dnase.bw") for track in inputs.tracks} | {"hic": "powerlaw"}
    genes = pd.read_csv(EXAMPLE / "genes.tsv", sep="\t").iloc[[0, 0, 1]].assign(gene_id=["A", "B", "C"])
    with WindowDataset(inputs, genes, EXAMPLE / "genome.fa", sources, EXAMPLE / "blacklist.bed") as windows:
        files = write_example(windows, [0, 1, 2], tmp_path)
        originals = list(windows)
    of = {track.name: str(tmp_path / files[f"{track.name}_file"]) for track in inputs.tracks}
    blacklist = tmp_path / files["blacklist_file"] if "blacklist_file" in files else None
    with WindowDataset(inputs, tmp_path / "genes.tsv", tmp_path / "genome.fa", of, blacklist) as written:
        for window, original in zip(written, originals, strict=True):
            for name in ("onehot", "signals", "blacklist"):
                np.testing.assert_array_equal(getattr(window, name), getattr(original, name))


def test_kipoi_test_and_kipoi_predict_know_the_group(group, home, place, trained):
    """Both doors give the same numbers."""
    done = kipoi("test", "MyLab/mycell", cwd=place, home=home)
    assert done.returncode == 0, done.stderr
    arguments = {"genes_file": str(EXAMPLE / "genes.tsv"), "fasta_file": str(EXAMPLE / "genome.fa")}
    arguments |= {"atac_file": str(EXAMPLE / "dnase.bw"), "blacklist_file": str(EXAMPLE / "blacklist.bed")}
    words = ["predict", "MyLab", "-m", f"--dataloader_args={json.dumps(arguments)}", "-o", place / "out.h5"]
    done = kipoi(*words, cwd=place, home=home)
    assert done.returncode == 0, done.stderr
    weights = str(trained / "best.safetensors")
    options = ["--blacklist", str(EXAMPLE / "blacklist.bed"), "--device", "cpu", "-o", str(place / "results")]
    assert main(["predict", weights, *FILES, *ATAC, *options]) == 0
    ours = pd.read_csv(place / "results" / "predictions.tsv", sep="\t", comment="#")
    with h5py.File(place / "out.h5") as file:
        assert [name.decode() for name in file["metadata/gene_id"][:]] == ours["gene_id"].tolist()
        np.testing.assert_allclose(file["preds/expression"][:, 0], ours["expression"], atol=1e-4)


def test_registration_can_be_taken_back(group, tmp_path):
    home = make_home(tmp_path / "home")
    directory = register(home, offline=True, group=group).directory
    assert directory.name == "MyLab"
    unregister(home, "MyLab")
    assert not directory.exists()
    assert (group / "model.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["publish", "{run}", "--to", "{place}/New"], "give the authors of the weights and the licence"),
        (["publish", "{run}", "--to", "{place}/New", "--author", "A", "--licence", " "], "the licence is missing"),
        (["publish", "{run}", "--to", "{place}/My Lab", "--author", "A", "--licence", "MIT"], "group's name 'My Lab'"),
        (["publish", "{run}", "--to", "{place}/MyLab", "--author", "A", "--licence", "MIT"], "give --overwrite"),
        (["publish", "{run}", "--to", "{place}/runs", "--author", "A", "--licence", "MIT"], "is not a group made by"),
        (["publish", "{run}", "--to", "{place}/Seq2Exp", "--author", "A", "--licence", "MIT"], "package's own group"),
        (["publish", "{run}"], "give the name to publish under"),
        (["register", "--from", "{place}/runs", "--offline"], "lacks group.yaml"),
        (["new-cell", "{place}/x.yaml", *FILES, "--label", "expression"], "needs at least one track"),
        (["new-cell", "{place}/x.yaml", *FILES, *ATAC, "--label", "expresion"], "did you mean 'expression'"),
        (["new-cell", "{place}/mycell.yaml", *FILES, *ATAC, "--label", "expression"], "exists; give --overwrite"),
        (["new-cell", "{place}/x.yaml", *FILES, *ATAC, "--label", "expression", "--unit", "b=x"], "no track of that"),
        (["new-cell", "{place}/x", *FILES, *ATAC, "--label", "expression"], "with the ending .yaml"),
        (["predict", "{run}/best.safetensors", *FILES, *ATAC, "--cell-type", "mycel", "--cells",
          "{place}/mycell.cells.yaml", "-o", "{place}/x"], "did you mean 'mycell'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(group, trained, place, capsys, words, message):
    before = sorted(path.name for path in place.iterdir())
    filled = [word.format(run=trained, place=place) if "{" in word else word for word in words]
    assert main(filled) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in place.iterdir()) == before


def test_publishing_again_replaces_the_group_whole(group, trained, place):
    (group / "stray").write_text("x")
    words = ["publish", str(trained), "--to", str(group), "--author", "B", "--licence", "MIT", "--overwrite"]
    assert main(words) == 0
    assert not (group / "stray").exists()
    assert not [path for path in Path(place).iterdir() if path.name.startswith(".MyLab")]
