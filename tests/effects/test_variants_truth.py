"""Variants on motifs of the genome with a known truth, and when effects say nothing.

The network is not trained: its stem is set by hand to the motifs of enhancers, the rest is random. It shows that a
broken motif reaches the prediction and that other bases do not; whether training finds the motifs, `seq2exp benchmark
recovery --task dna` measures.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from kipoi_seq2exp import NetworkConfig, Provenance, Seq2Exp, save_model
from kipoi_seq2exp.cli import main
from kipoi_seq2exp.data.sequence import encode_bases
from kipoi_seq2exp.judge.invented import ENHANCER_MOTIFS
from kipoi_seq2exp.judge.recovery_files import CONTACTS, FASTA, write_genome
from kipoi_seq2exp.judge.recovery_genome import ENHANCERS, GenomeSettings, Task, invent_genome
from kipoi_seq2exp.nn.tokens import TokenStem
from kipoi_seq2exp.prediction.masking import resolution_line

LOUD = 3  # weights of a fresh network are small: what it reads would drown in rounding


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """A genome whose enhancers only motifs tell; the folder of its files, with an SNV on a motif and one beside."""
    made = invent_genome(GenomeSettings(Task.DNA, seed=1, genes=18, window_bp=15_104, chromosomes=3))
    folder = tmp_path_factory.mktemp("truth")
    write_genome(made, folder)
    elements = made.elements[made.elements["kind"].isin(ENHANCERS)].set_index("name")
    for pair in made.pairs[made.pairs["regulated"]].itertuples():
        element = elements.loc[pair.name]
        letters = made.bases[element["chrom"]][element["start"] : element["end"]].tobytes().decode()
        at = letters.find(ENHANCER_MOTIFS[1])
        if at >= 0:
            break
    ref = ENHANCER_MOTIFS[1][3]  # in the middle of GATGACTCATC
    start = element["start"] + at
    record = f"{pair.chrom}\t{start + 4}\tmotif\t{ref}\t{'C' if ref != 'C' else 'A'}\t.\t.\t.\n"
    beside = chr(made.bases[pair.chrom][start - 40])
    record += f"{pair.chrom}\t{start - 39}\tbeside\t{beside}\t{'C' if beside != 'C' else 'A'}\t.\t.\t.\n"
    head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (folder / "snv.vcf").write_text(head + record)
    return made, folder, pair.gene_id


@pytest.fixture(scope="module")
def reader(genome):
    """A network that knows the motifs of enhancers, on both strands, and remembers them over the window."""
    settings = genome[0].settings
    sizes = {"window_bp": settings.window_bp, "promoter_bp": 2_048, "d_model": 8, "d_state": 4, "token_bp": 32}
    config = NetworkConfig(**sizes, n_features=2, generator_layers=1, encoder_layers=1, memory_bp=settings.window_bp)
    torch.manual_seed(0)
    network = Seq2Exp(config, genome[0].inputs).eval()
    with torch.no_grad():
        for weights in (weights for weights in network.parameters() if weights.ndim == 2):
            weights.mul_(LOUD)
        for stem in (module for module in network.modules() if isinstance(module, TokenStem)):
            stem.motifs.weight.zero_()
            stem.motifs.bias.zero_()
            for place, motif in enumerate(ENHANCER_MOTIFS):
                letters = torch.from_numpy(encode_bases(motif.encode())).float().T
                for strand, wanted in enumerate((letters, letters.flip(0, 1))):
                    length = wanted.shape[1]  # whole: +2, with one letter changed: -2, which the GELU takes to almost 0
                    stem.motifs.weight[2 * place + strand, :, :length] = 4 * (wanted - 0.25)
                    stem.motifs.bias[2 * place + strand] = -4 * (0.75 * length - 0.5)
    return network


def effects(genome, reader, folder, capsys, scores=None, **network):
    _, files, gene_id = genome
    model = copy.copy(reader)
    model.config = dataclasses.replace(reader.config, **network)
    model.provenance = Provenance(status="trained", scores=scores or {})
    save_model(model, folder / "w.safetensors")
    tracks = [f"{name}={files / f'{name}.bw'}" for name in ("h3k27ac", "dnase")] + [f"hic={files / CONTACTS}"]
    words = ["variants", str(files / "snv.vcf"), str(folder / "w.safetensors"), "--fasta", str(files / FASTA)]
    words += ["--genes", str(files / "genes.tsv"), *(word for track in tracks for word in ("--track", track))]
    assert main([*words, "--device", "cpu", "-o", str(folder / "out"), "--overwrite"]) == 0
    table = pd.read_csv(folder / "out" / "variants.tsv", sep="\t")
    return table[table["gene_id"] == gene_id].set_index("ID"), capsys.readouterr().out


def test_an_snv_on_a_motif_moves_prediction_and_mask_and_one_beside_it_does_not(genome, reader, tmp_path, capsys):
    rows, said = effects(genome, reader, tmp_path, capsys)
    change = rows["w/expression/diff"].abs()
    assert change["motif"] > 1e-5
    assert change["beside"] < change["motif"] / 20
    assert rows.loc["motif", "delta_mask_max"] != 0
    assert "read no DNA" not in said
    assert "rounding" not in said


def test_weights_that_read_no_dna_say_so_at_once_and_nothing_moves(genome, reader, tmp_path, capsys):
    rows, said = effects(genome, reader, tmp_path, capsys, reads_dna=False)
    assert (rows["w/expression/diff"] == 0).all()
    assert said.index("these weights read no DNA") < said.index("allele")
    assert "the prediction does not depend on them" in said


def test_effects_below_what_the_weights_resolve_are_called_that(genome, reader, tmp_path, capsys):
    _, said = effects(genome, reader, tmp_path, capsys, scores={"mse": 0.25})
    assert "off by 0.5 (root mean square, genes held out): effects this small are below what they resolve" in said
    assert resolution_line(np.array([-0.06, 0.01]), {"mse": 0.25}) is None
    assert resolution_line(np.array([0.04]), {}) is None
    assert resolution_line(np.empty(0), {"mse": 0.25}) is None
