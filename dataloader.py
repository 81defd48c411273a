"""Kipoi's door to the data: the windows that `dataloader.yaml` describes. The reading is in kipoi_seq2exp.data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from kipoi.data import Dataset
from kipoi.metadata import GenomicRanges
from kipoi.specs import DataLoaderDescription
from kipoi_utils.data_utils import numpy_collate
from torch.utils.data import DataLoader

from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.zoo import fixes, served

fixes.install()
GROUP = Path(__file__).parent


class Seq2ExpDataset(Dataset):
    """One window per gene; the arguments are described in `dataloader.yaml`."""

    strict_arguments = True

    def __init__(
        self,
        genes_file: str,
        fasta_file: str,
        h3k27ac_file: str,
        dnase_file: str,
        hic_file: str,
        blacklist_file: str | None = None,
        missing_features: str = "error",
        gene_ids: list[str] | str | None = None,
        cell_type: str = "K562",
    ) -> None:
        gene_ids = gene_ids.split(",") if isinstance(gene_ids, str) else gene_ids
        given: dict[str, Any] = {"genes": genes_file, "fasta": fasta_file, "blacklist": blacklist_file}
        given["sources"] = {"h3k27ac": h3k27ac_file, "dnase": dnase_file, "hic": hic_file}
        given["missing_features"] = missing_features
        self.windows = WindowDataset(served.inputs_of(cell_type), gene_ids=gene_ids, **given)
        fixes.note(inputs=given, cell_type=cell_type, folder=str(Path.cwd()))

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return inputs and metadata of one gene, as Kipoi's schema names them."""
        window = self.windows[index]
        ranges = GenomicRanges(window.chrom, window.start, window.end, window.gene_id, window.strand)
        return {
            "inputs": {
                "onehot": window.onehot.astype(np.float32),
                **{name: getattr(window, name) for name in ("signals", "features", "blacklist")},
            },
            "metadata": {"ranges": ranges, "gene_id": window.gene_id, "tss": window.tss},
        }

    def _batch_iterable(
        self, batch_size: int = 32, shuffle: bool = False, num_workers: int = 0, drop_last: bool = False, **_: Any
    ) -> Any:
        # torch's loader notices a worker that dies, Kipoi's own waits for ever
        return DataLoader(self, batch_size, shuffle, None, None, num_workers, numpy_collate, drop_last=drop_last)

    @classmethod
    def get_output_schema(cls) -> Any:
        """Return the schema of `dataloader.yaml`, known from now on as ours."""
        return fixes.claim(super().get_output_schema())

    @classmethod
    def download_example(cls, output_dir: str, absolute_path: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """Copy the example to a folder and return the arguments that read it there."""
        return served.copy_example(GROUP, cls.args, Path(output_dir), absolute_path, dry_run)


Seq2ExpDataset._add_description_factory(DataLoaderDescription.load(str(GROUP / "dataloader.yaml")))
