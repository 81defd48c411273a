"""Both doors, `kipoi predict` and `seq2exp predict`: the same files and options give the same numbers and elements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kipoi_door import EXAMPLE, GENES, example_arguments, make_group, make_home, python

from kipoi_seq2exp.cli import main
from kipoi_seq2exp.elements.calls import CallSettings
from kipoi_seq2exp.elements.outputs import summarise
from kipoi_seq2exp.prediction.store import read_predictions

CASES = ("half of a feature", "genes of a GTF", "no contacts, no blacklist, peaks")
KIPOI = """
import json, sys
from kipoi.__main__ import main
for output, arguments in json.loads({runs!r}):
    sys.argv = ["kipoi", "predict", "Seq2Exp/K562", "--source", "dir", "--dataloader_args", arguments]
    sys.argv += ["--keep_metadata", "--batch_size", "2", "-o", output]
    main()
"""


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    return make_group(tmp_path_factory.mktemp("zoo"))


def loader_arguments(group: Path, folder: Path) -> dict[str, dict[str, object]]:
    """Return the arguments of Kipoi's loader for each case."""
    genes = pd.read_csv(group / "example" / "genes.tsv", sep="\t", dtype=str)
    genes["CDSGC"] = ["", *genes["CDSGC"][1:]]
    genes.to_csv(folder / "half.tsv", sep="\t", index=False)
    peaks = zip(genes["chrom"], genes["tss"].astype(int) + 900, strict=True)
    (folder / "x.narrowPeak").write_text("".join(f"{c}\t{at}\t{at + 900}\t.\t0\t.\t2.5\n" for c, at in peaks))
    mean = {"missing_features": "mean"}
    changes = (
        {"genes_file": str(folder / "half.tsv"), **mean},
        {"genes_file": str(group / "example" / "genes.gtf"), "gene_ids": list(GENES), **mean},
        {"hic_file": "powerlaw", "blacklist_file": None, "dnase_file": f"{folder / 'x.narrowPeak'}::presence"},
    )
    return {case: example_arguments(group, **change) for case, change in zip(CASES, changes, strict=True)}


def command(weights: Path, arguments: dict[str, object], output: Path) -> list[str]:
    """Return the arguments of `seq2exp predict` that mean the same."""
    words = ["predict", str(weights), "--device", "cpu", "-o", str(output)]
    for name in EXAMPLE:
        value = arguments.get(name)
        option = name.removesuffix("_file")
        if value is not None:
            words += [f"--{option}", str(value)] if option in ("genes", "fasta", "blacklist") else []
            words += ["--track", f"{option}={value}"] if option in ("h3k27ac", "dnase", "hic") else []
    words += ["--missing-features", str(arguments.get("missing_features", "error"))]
    return words + (["--gene-ids", *arguments["gene_ids"]] if "gene_ids" in arguments else [])


@pytest.fixture(scope="module")
def doors(group, tmp_path_factory):
    """The results of both doors by case: the .h5 of Kipoi, the folder of the command."""
    folder = tmp_path_factory.mktemp("doors")
    given = loader_arguments(group, folder)
    outputs = {case: (folder / f"{number}.h5", folder / str(number)) for number, case in enumerate(given)}
    runs = json.dumps([(str(outputs[case][0]), json.dumps(arguments)) for case, arguments in given.items()])
    done = python(KIPOI.replace("{runs!r}", repr(runs)), cwd=group.parent, home=make_home(folder / "home"))
    assert done.returncode == 0, done.stderr
    for case, arguments in given.items():
        assert main(command(group / "weights" / "K562.safetensors", arguments, outputs[case][1])) == 0
    return outputs


@pytest.mark.parametrize("case", CASES)
def test_numbers_and_elements_agree(doors, case):
    kipoi, ours = doors[case]
    calls = CallSettings(threshold=0.5, min_length_bp=1)
    with read_predictions(kipoi) as one, read_predictions(ours) as other:
        assert len(one) == len(other) == len(GENES)
        np.testing.assert_allclose(one.genes["expression"], other.genes["expression"], rtol=0, atol=1e-6)
        for gene in GENES:
            masks = [found.mask(found.index(gene)) for found in (one, other)]
            np.testing.assert_allclose(*masks, rtol=0, atol=1e-6)
        called = [summarise(found, calls) for found in (one, other)]
    pd.testing.assert_frame_equal(called[0].elements, called[1].elements, rtol=0, atol=1e-5)
    assert len(called[0].elements)
    kept = [found.genes.set_index("gene_id")["kept_fraction"] for found in called]
    pd.testing.assert_series_equal(*kept, rtol=0, atol=1e-5)


def test_no_element_lies_beyond_a_chromosome(doors, tmp_path):
    """The window of the second gene begins before its chromosome; `predict` and `elements` call the same bases."""
    kipoi, ours = doors[CASES[0]]
    options = ["--threshold", "0.5", "--min-length", "1"]
    for name, source in (("kipoi", kipoi), ("ours", ours)):
        assert main(["elements", "--from", str(source), *options, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name / "element_mask.bw").is_file()
    with read_predictions(ours) as found:
        assert found.locus(found.index(GENES[1])).start < 0
        assert found.network_mask(found.index(GENES[1]))[0] > 0
        called = summarise(found, CallSettings(threshold=0.5, min_length_bp=1)).elements
    columns = ["chrom", "start", "end", "gene_id"]
    for name in ("kipoi", "ours"):
        table = pd.read_csv(tmp_path / name / "elements.tsv", sep="\t", comment="#")
        assert (table["start"] >= 0).all()
        pd.testing.assert_frame_equal(table[columns], called[columns])
