"""A network that learned from DNA what is an enhancer: variants, contributions and other packages find its motifs.

Trained in seconds by the recipe of `seq2exp benchmark recovery --task dna` on a smaller genome; nothing is set by hand.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kipoi_seq2exp import load_model, save_model
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.effects.sequence_model import SequenceModel
from kipoi_seq2exp.judge.invented import ENHANCER_MOTIFS
from kipoi_seq2exp.judge.recovery import recipe_of
from kipoi_seq2exp.judge.recovery_files import CONTACTS, FASTA, write_genome
from kipoi_seq2exp.judge.recovery_genome import ENHANCERS, GenomeSettings, Task, invent_genome
from kipoi_seq2exp.judge.recovery_train import train_network
from kipoi_seq2exp.prediction.masking import resolution_line

COMPLEMENT = str.maketrans("ACGT", "TGCA")
WRITTEN = re.compile("|".join({m for one in ENHANCER_MOTIFS for m in (one, one.translate(COMPLEMENT)[::-1])}))


@dataclasses.dataclass(frozen=True)
class Truth:
    """An invented genome, its files with weights trained on it, and a held-out gene with an enhancer of its."""

    genome: object
    folder: object
    row: int
    gene_id: str
    enhancer: tuple[int, int]
    motifs: tuple[tuple[int, int], ...]  # of the enhancer, on the chromosome

    @property
    def inputs(self):
        tracks = [f"{name}={self.folder / f'{name}.bw'}" for name in ("h3k27ac", "dnase")]
        words = ["--fasta", str(self.folder / FASTA), "--genes", str(self.folder / "genes.tsv"), "--device", "cpu"]
        return [*words, *(w for track in (*tracks, f"hic={self.folder / CONTACTS}") for w in ("--track", track))]


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    made = invent_genome(GenomeSettings(Task.DNA, seed=1, genes=200, window_bp=15_104, chromosomes=4))
    folder, recipe, rows = tmp_path_factory.mktemp("truth"), recipe_of(made.settings, 150), made.rows("train")
    write_genome(made, folder)
    labels = made.genes["expression"].to_numpy()[rows]
    config = recipe.config(made.settings, d_state=4)
    save_model(train_network(config, made, rows, labels, recipe.lesson).network, folder / "w.safetensors")
    names = made.genes["gene_id"].tolist()
    held_out = {names[row] for row in made.rows("test")}
    pairs = made.pairs[made.pairs["regulated"] & made.pairs["gene_id"].isin(held_out)]
    pair = pairs.loc[pairs["effect"].idxmax()]
    element = made.elements.set_index("name").loc[pair["name"]]
    assert element["kind"] in ENHANCERS
    start, end = int(element["start"]), int(element["end"])
    letters = made.bases[element["chrom"]][start:end].tobytes().decode()
    motifs = tuple((start + m.start(), start + m.end()) for m in WRITTEN.finditer(letters))
    return Truth(made, folder, names.index(pair["gene_id"]), pair["gene_id"], (start, end), motifs)


def effects(truth, folder, capsys, weights=None):
    """Run `seq2exp variants` with an SNV in the middle of each motif of the enhancer, and one 12 bp beside each."""
    chrom = truth.genome.genes["chrom"].iloc[truth.row]
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for number, (start, end) in enumerate(truth.motifs):
        for name, at in (("motif", (start + end) // 2), ("beside", end + 12)):
            ref = chr(truth.genome.bases[chrom][at])
            lines.append(f"{chrom}\t{at + 1}\t{name}{number}\t{ref}\t{'C' if ref != 'C' else 'A'}\t.\t.\t.")
    (folder / "snv.vcf").write_text("\n".join(lines) + "\n")
    weights = weights or truth.folder / "w.safetensors"
    words = ["variants", str(folder / "snv.vcf"), str(weights), *truth.inputs, "--gene-ids", truth.gene_id]
    assert main([*words, "-o", str(folder / "out"), "--overwrite"]) == 0
    table = pd.read_csv(folder / "out" / "variants.tsv", sep="\t")
    return table.set_index("ID"), capsys.readouterr().out


def changed(truth, folder, scores=None, **network):
    """Write the weights with other settings or scores."""
    model = load_model(truth.folder / "w.safetensors", "cpu")
    model.config = dataclasses.replace(model.config, **network)
    model.provenance = dataclasses.replace(model.provenance, scores=scores or {})
    save_model(model, folder / "w.safetensors")
    return folder / "w.safetensors"


def test_an_snv_on_a_motif_lowers_prediction_and_mask_and_one_beside_it_does_not(truth, tmp_path, capsys):
    rows, said = effects(truth, tmp_path, capsys)
    change = rows["w/expression/diff"]
    motif, beside = (change[change.index.str.startswith(name)] for name in ("motif", "beside"))
    assert len(motif) >= 3
    assert motif.mean() < -0.02
    assert beside.abs().mean() < motif.abs().mean() / 5
    assert rows.loc[motif.index, "delta_mask_max"].mean() < 0
    assert "read no DNA" not in said
    assert "rounding" not in said


def test_weights_that_read_no_dna_say_so_at_once_and_nothing_moves(truth, tmp_path, capsys):
    rows, said = effects(truth, tmp_path, capsys, changed(truth, tmp_path, reads_dna=False))
    assert (rows["w/expression/diff"] == 0).all()
    assert said.index("these weights read no DNA") < said.index("allele")
    assert "the prediction does not depend on them" in said


def test_effects_below_what_the_weights_resolve_are_called_that(truth, tmp_path, capsys):
    _, said = effects(truth, tmp_path, capsys, changed(truth, tmp_path, scores={"mse": 100}))
    assert "off by 10 (root mean square, genes held out): effects this small are below what they resolve" in said
    assert resolution_line(np.array([-0.06, 0.01]), {"mse": 0.25}) is None
    assert resolution_line(np.array([0.04]), {}) is None
    assert resolution_line(np.empty(0), {"mse": 0.25}) is None


def on_motifs(truth, values, start):
    """Mean height of values (L,) on the enhancer's motifs, as a multiple of that on its other bases."""
    first, last = truth.enhancer[0] - start, truth.enhancer[1] - start
    on = np.zeros(len(values), dtype=bool)
    for a, b in truth.motifs:
        on[a - start : b - start] = True
    beside = ~on
    beside[: max(0, first)] = beside[last:] = False
    return np.abs(values[on]).mean() / np.abs(values[beside]).mean()


@pytest.fixture(scope="module")
def wrapped(truth):
    window = truth.genome[truth.row]
    model = SequenceModel(load_model(truth.folder / "w.safetensors", "cpu"), window).eval()
    return model, torch.from_numpy(window.onehot.T.copy())[None].float(), window.start


def test_captum_s_gradients_point_at_the_motifs(truth, wrapped):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed (the extra interpret)")
    model, dna, start = wrapped
    for method in (attr.Saliency(model), attr.InputXGradient(model)):
        found = method.attribute(dna.clone().requires_grad_())[0].detach().numpy()
        assert on_motifs(truth, np.abs(found * dna[0].numpy()).sum(0), start) > 3


def test_tangermeme_s_mutagenesis_points_at_the_motifs(truth, wrapped):
    pytest.importorskip("tangermeme", reason="tangermeme is not installed (the extra interpret)")
    from tangermeme.saturation_mutagenesis import saturation_mutagenesis

    model, dna, start = wrapped
    first, last = truth.motifs[0][0] - 20, truth.motifs[0][1] + 20
    span = {"start": first - start, "end": last - start}
    raw = saturation_mutagenesis(model, dna, device="cpu", raw_outputs=True, batch_size=8, fast=False, **span)
    with torch.inference_mode():
        change = raw.y_hat.reshape(4, -1).numpy() - float(model(dna))
    lowest = change.min(axis=0)
    on = slice(20, len(lowest) - 20)
    assert lowest[on].mean() < 4 * np.concatenate([lowest[:20], lowest[-20:]]).mean() < 0


def test_tf_modisco_finds_the_planted_motifs(truth, tmp_path):
    """The real package on what the command writes, as the docs show it."""
    pytest.importorskip("modiscolite", reason="modisco-lite is not installed (pip install modisco-lite)")
    import h5py

    genes, size = truth.genome.genes["gene_id"].tolist()[-120:], str(truth.genome.settings.window_bp)
    words = ["contributions", *genes, str(truth.folder / "w.safetensors"), *truth.inputs, "--method", "gradient"]
    assert main([*words, "--modisco", size, "-o", str(tmp_path)]) == 0
    arrays = ["-s", str(tmp_path / "modisco_onehot.npz"), "-a", str(tmp_path / "modisco_contributions.npz")]
    words = [str(Path(sys.executable).with_name("modisco")), "motifs", *arrays, "-n", "1000", "-w", size]
    subprocess.run([*words, "-o", str(tmp_path / "found.h5")], check=True, capture_output=True)
    with h5py.File(tmp_path / "found.h5") as found:
        patterns = [pattern["sequence"][:] for pattern in found["pos_patterns"].values()]
    consensus = ["".join("ACGT"[letter] for letter in pattern.argmax(axis=1)) for pattern in patterns]
    strands = [text for one in consensus for text in (one, one.translate(COMPLEMENT)[::-1])]
    for motif in ENHANCER_MOTIFS:
        assert any(motif[1:-1] in text for text in strands), (motif, consensus)
