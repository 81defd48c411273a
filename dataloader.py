"""Kipoi's door to the data: the windows that `dataloader.yaml` describes. The reading is in kipoi_seq2exp.data.

Made from what the weights read (`kipoi_seq2exp.zoo.group`): `seq2exp publish` makes it anew.
"""

from __future__ import annotations

from pathlib import Path

from kipoi_seq2exp.zoo.loader import GroupDataset


class Seq2ExpDataset(GroupDataset):
    """One window per gene; the arguments are described in `dataloader.yaml`."""

    group = Path(__file__).parent

    def __init__(
        self,
        genes_file: str,
        fasta_file: str,
        h3k27ac_file: str,
        dnase_file: str,
        hic_file: str,
        h3k27ac_reference_file: str | None = None,
        dnase_reference_file: str | None = None,
        h3k4me3_file: str | None = None,
        h3k4me1_file: str | None = None,
        blacklist_file: str | None = None,
        missing_features: str = "error",
        gene_ids: list[str] | str | None = None,
        model: str = "K562",
    ) -> None:
        sources = {
            "h3k27ac": h3k27ac_file,
            "dnase": dnase_file,
            "hic": hic_file,
            "h3k27ac_reference": h3k27ac_reference_file,
            "dnase_reference": dnase_reference_file,
            "h3k4me3": h3k4me3_file,
            "h3k4me1": h3k4me1_file,
        }
        self.open(model, genes_file, fasta_file, sources, blacklist_file, missing_features, gene_ids)


Seq2ExpDataset.describe()
