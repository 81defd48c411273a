"""The data loader that each of our groups hands to Kipoi: windows as the weights of a member read them.

A group's own `dataloader.py` names the arguments, one file for each track, and calls `open`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kipoi.data import Dataset
from kipoi.metadata import GenomicRanges
from kipoi.specs import DataLoaderDescription
from kipoi_utils.data_utils import numpy_collate
from torch.utils.data import DataLoader

from kipoi_seq2exp.data.dataset import WindowDataset
from kipoi_seq2exp.data.track_ranges import warn_of_inputs
from kipoi_seq2exp.errors import ConfigError, excerpt
from kipoi_seq2exp.settings import to_mapping
from kipoi_seq2exp.zoo import fixes, served
from kipoi_seq2exp.zoo.group import member_inputs

fixes.install()


class GroupDataset(Dataset):  # type: ignore[misc]
    """One window per gene, for a member of the group in the folder `group`."""

    strict_arguments = True
    group: Path

    def open(
        self,
        model: str,
        genes: str,
        fasta: str,
        sources: Mapping[str, str | None],
        blacklist: str | None,
        missing_features: str,
        gene_ids: list[str] | str | None,
    ) -> None:
        """Open the windows that a member reads; its weights name its tracks and features.

        Raises
        ------
        Seq2ExpError
            If the member is unknown, or a file or a row cannot be used.
        """
        _check_files({"genes_file": genes, "fasta_file": fasta}, optional=False)
        tracks = {f"{name}_file": source for name, source in sources.items()}
        _check_files({**tracks, "blacklist_file": blacklist}, optional=True)
        _check_texts(model=model, missing_features=missing_features)
        gene_ids = gene_ids.split(",") if isinstance(gene_ids, str) else gene_ids
        if gene_ids is not None and not isinstance(gene_ids, list | tuple):
            raise ConfigError(f"dataloader_args: gene_ids must be a list of texts, found {gene_ids!r}.")
        _check_texts(**{f"gene_ids[{place}]": gene_id for place, gene_id in enumerate(gene_ids or ())})
        inputs = member_inputs(self.group, model)
        chosen = {name: source for name, source in sources.items() if source is not None}
        given: dict[str, Any] = {"genes": genes, "fasta": fasta, "sources": chosen, "blacklist": blacklist}
        given["missing_features"] = missing_features
        self.windows = WindowDataset(inputs, gene_ids=gene_ids, **given)
        warn_of_inputs(self.windows)
        lengths = self.windows.chrom_lengths
        fixes.note(inputs=given, reads=to_mapping(inputs), chrom_lengths=lengths, folder=str(Path.cwd()))

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
        """Return the schema of `dataloader.yaml`, and remember it as ours."""
        return fixes.claim(super().get_output_schema())

    @classmethod
    def download_example(cls, output_dir: str, absolute_path: bool = False, dry_run: bool = False) -> dict[str, Any]:
        """Copy the example to a folder and return the arguments that read it there."""
        return served.copy_example(cls.group, cls.args, Path(output_dir), absolute_path, dry_run)

    @classmethod
    def describe(cls) -> None:
        """Take arguments and schema from the group's `dataloader.yaml`."""
        cls._add_description_factory(DataLoaderDescription.load(str(cls.group / "dataloader.yaml")))


def _check_files(files: Mapping[str, Any], *, optional: bool) -> None:
    """Refuse a value that is not the path of a file; a JSON of arguments may hold anything."""
    for name, value in files.items():
        if value is None and optional:
            continue
        if not isinstance(value, str | Path) or not str(value):
            raise ConfigError(f"dataloader_args: {name} must be the path of a file, found {excerpt(value, 80)!r}.")


def _check_texts(**values: Any) -> None:
    """Refuse a value that is not text."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise ConfigError(f"dataloader_args: {name} must be a text in quotes, found {excerpt(value, 80)}.")
