"""Fuzzed bytes for every reader: a good file, spoiled by hypothesis, is read or refused in a sentence, nothing else.

Run as a script, in a process that a C library may end: `fuzz.py READER GOOD EXAMPLES SEED`
prints how many files were read, refused, or led to a fault of ours, as JSON. The file at hand lies in a folder beside
GOOD, which may be a folder itself.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from kipoi_seq2exp.config import TrackKind, TrackSpec
from kipoi_seq2exp.errors import Seq2ExpError

SEVERAL = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6)
LENGTHS = {"chr1": 60_000, "chr2": 30_000}  # of the tiny genome
LOCUS = ("GENE02", "chr1", 7_000, 11_000, 9_000, "-")
EDITS = ("replace", "insert", "cut", "repeat")


def spoiled(good: bytes, kind: str, edits: list[tuple[float, bytes]], share: float) -> bytes:
    """Return `good` with bytes replaced or inserted, cut off, or with a part of it twice."""
    if kind == "cut":
        return good[: int(share * len(good))]
    if kind == "repeat":
        return good[: int(share * len(good))] + good
    content = bytearray(good)
    for place, data in edits:
        at = int(place * len(content))
        content[at : at + (len(data) if kind == "replace" else 0)] = data
    return bytes(content)


def fasta(path: Path) -> None:
    from kipoi_seq2exp.data.sequence import Genome

    for index in path.parent.glob(f"{path.name}.*i"):
        index.unlink()
    with Genome(path) as genome:
        for chrom, length in list(genome.lengths.items())[:3]:
            genome.onehot(chrom, -10, min(length, 70_000) + 10)


def genes(path: Path) -> None:
    from kipoi_seq2exp.data.genes import read_genes

    read_genes(path)


def regions(path: Path) -> None:
    from kipoi_seq2exp.data.regions import Regions

    Regions(path, "blacklist").mask("chr1", 0, 10_000)


def track(path: Path) -> None:
    from kipoi_seq2exp.data.tracks.signals import open_signal

    with open_signal(path, TrackSpec("dnase")) as opened:
        opened.check_values([])
        for chrom, length in list(opened.lengths.items())[:3]:
            opened.values(chrom, 0, min(length or 10_000, 60_000))


def contacts(path: Path) -> None:
    from kipoi_seq2exp.data.tracks.contact_sources import open_contacts
    from kipoi_seq2exp.data.tracks.contacts import ContactQuery

    spec, gene = TrackSpec("hic", kind=TrackKind.CONTACT), ContactQuery("G", "chr1", 20_000)
    genome: Any = SimpleNamespace(lengths=LENGTHS, length=LENGTHS.__getitem__)
    with open_contacts(path, spec) as source:
        source.check_against(genome, [gene])
        source.profile(gene, 10_000, 30_000)


def weights(path: Path) -> None:
    from kipoi_seq2exp.zoo.models import load_model

    load_model(path, "cpu")


def checkpoint(path: Path) -> None:
    from kipoi_seq2exp.nn.authors import read_state

    read_state(path)


def results(path: Path) -> None:
    from kipoi_seq2exp.prediction.store import read_predictions

    with read_predictions(path) as found:
        for row in range(len(found)):
            found.mask(row)


def mapping(path: Path) -> None:
    from kipoi_seq2exp.data.cells import read_cells
    from kipoi_seq2exp.settings import read_yaml

    read_yaml(path)
    read_cells(path)


def variants(path: Path) -> None:
    from kipoi_seq2exp.data.variants import vcf_alleles, vcf_lines

    list(vcf_alleles(path))
    list(vcf_lines(path))


def pairs(path: Path) -> None:
    from kipoi_seq2exp.data.pairs import read_pairs

    read_pairs(path)


def annotation(path: Path) -> None:
    from kipoi_seq2exp.data.transcripts import read_transcripts
    from kipoi_seq2exp.data.windows import Locus
    from kipoi_seq2exp.elements.overlaps import promoters_of
    from kipoi_seq2exp.view.annotation import read_gene_models

    for read in (read_transcripts, promoters_of, lambda gtf: read_gene_models(gtf, Locus(*LOCUS))):
        with suppress(Seq2ExpError):
            read(path)
    read_transcripts(path)


def intervals(path: Path) -> None:
    from kipoi_seq2exp.data.windows import Locus
    from kipoi_seq2exp.elements.overlaps import read_named
    from kipoi_seq2exp.view.annotation import read_known_elements

    with suppress(Seq2ExpError):
        read_known_elements(path, Locus(*LOCUS))
    read_named(str(path))


def saved(path: Path) -> None:
    from kipoi_seq2exp.judge.compare_files import read_model_predictions

    read_model_predictions("saved", str(path))


def labels(path: Path) -> None:
    from kipoi_seq2exp.judge.many_outputs import read_labels

    read_labels(path)


def units(path: Path) -> None:
    from kipoi_seq2exp.prediction.units import UnitStore

    with closing(UnitStore.open(path, {"weights": "a"})) as store:
        if "unit" in store:
            store["unit"]


def effects(path: Path) -> None:
    from kipoi_seq2exp.effects.run import EffectStore

    with closing(EffectStore.open(path, {"weights": "a"})) as store:
        list(store.tables())
        assert len(store.counts) == 3


def served(path: Path) -> None:
    from kipoi_seq2exp.zoo.registry import read_served

    read_served(path.parent)


def training(path: Path) -> None:
    from kipoi_seq2exp.training.config import read_training_config

    read_training_config(path)


def jobs(path: Path) -> None:
    from kipoi_seq2exp.prediction.cluster import parse_cluster

    parse_cluster(str(path))


def trained(path: Path) -> None:
    from kipoi_seq2exp.training.publishing.publish import read_run

    read_run(path)


READERS: dict[str, Callable[[Path], None]] = {
    "fasta": fasta,
    "genes": genes,
    "regions": regions,
    "track": track,
    "contacts": contacts,
    "weights": weights,
    "checkpoint": checkpoint,
    "results": results,
    "mapping": mapping,
    "variants": variants,
    "pairs": pairs,
    "annotation": annotation,
    "intervals": intervals,
    "saved": saved,
    "labels": labels,
    "units": units,
    "effects": effects,
    "served": served,
    "training": training,
    "jobs": jobs,
    "trained": trained,
}


def fuzz(reader: Callable[[Path], None], good: Path, examples: int, start: int) -> dict[str, Any]:
    """Read spoiled files, or folders of which a file is spoiled or lost; return the counts and the faults."""
    copy = good.parent / "fuzzed" / good.name
    files = (
        [path.relative_to(good) for path in sorted(good.rglob("*")) if path.is_file()] if good.is_dir() else [Path()]
    )
    edits = (*EDITS, "lose") if good.is_dir() else EDITS
    counts: Counter[str] = Counter()
    faults: set[str] = set()

    @seed(start)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(files), st.sampled_from(edits), SEVERAL, st.floats(0, 1))
    def read(file: Path, kind: str, places: list[tuple[float, bytes]], share: float) -> None:
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        if good.is_dir():
            shutil.copytree(good, copy)
        if kind == "lose":
            (copy / file).unlink()
        else:
            (copy / file).write_bytes(spoiled((good / file).read_bytes(), kind, places, share))
        try:
            reader(copy)
            counts["read"] += 1
        except Seq2ExpError as error:
            counts["refused"] += 1
            if "\n" in str(error) or not str(error).endswith("."):
                faults.add(f"no sentence: {error}")
        except Exception as error:
            counts["fault"] += 1
            faults.add(f"{type(error).__name__}: {error}"[:300])

    warnings.simplefilter("ignore")
    read()
    return {**counts, "faults": sorted(faults)}


if __name__ == "__main__":
    name, good_file, number, first = sys.argv[1:]
    sys.stdout.write(json.dumps(fuzz(READERS[name], Path(good_file), int(number), int(first))) + "\n")
