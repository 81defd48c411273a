"""Memory does not grow with the number of variants, from the VCF to the results."""

from __future__ import annotations

import tracemalloc

from test_variants import base, other, write_vcf

from kipoi_seq2exp.data.tables import tsv_lines, write_lines
from kipoi_seq2exp.data.variants import vcf_lines
from kipoi_seq2exp.effects import run
from kipoi_seq2exp.effects.run import EffectStore, EffectUnits
from kipoi_seq2exp.effects.variant_table import VariantTable
from kipoi_seq2exp.effects.variants import COLUMNS, annotated_lines


def peak_of(tiny, folder, count):
    """Return the bytes of Python's memory that `count` variants take at most, from the VCF to the results."""
    records = []
    for number in range(count):
        pos = 19_600 + number % 3_800  # in the window of GENE03
        ref = base(tiny, "chr1", pos)
        records.append(["chr1", pos + 1, f"v{number}", ref, other(ref), ".", ".", "."])
    vcf = write_vcf(folder / f"{count}.vcf", records)
    dataset = tiny.dataset()
    dataset[2]
    tracemalloc.start()
    with VariantTable() as table:
        counts = table.read(vcf, dataset.genome)
        store = EffectStore.open(folder / f"{count}.sqlite", {})
        rows = 0
        for unit in EffectUnits(dataset, table):
            if unit.key not in store:
                loaded = unit.load()
                row = dict.fromkeys(COLUMNS, 0.5)
                effects = [
                    {**row, "ALT": variant.alt, "gene_id": "G", "variant": number, "line": variant.line}
                    for number, variant in zip(loaded.numbers, loaded.variants, strict=True)
                ]
                store.write(unit.key, effects)
                rows += unit.size
        write_lines(tsv_lines(store.tables()), folder / "out.tsv")
        write_lines(annotated_lines(vcf_lines(vcf), store.tables()), folder / "out.vcf")
        store.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.plain == rows == count
    assert (folder / "out.vcf").read_text().count("SEQ2EXP=") == count
    return peak


def test_memory_does_not_grow_with_the_number_of_variants(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STRETCH", 200)
    peak_of(tiny, tmp_path, 10)  # imports
    few, many = (peak_of(tiny, tmp_path, count) for count in (400, 4_000))
    assert many < few + 400_000  # the variants alone would be some 1.5 MB
