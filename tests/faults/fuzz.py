"""Fuzzed bytes for every reader: a good file, spoiled by hypothesis, is read or refused in a sentence, nothing else.

Run as a script, in a process that a C library may end: `fuzz.py READER GOOD EXAMPLES SEED`
prints how many files were read, refused, or led to a fault of ours, as JSON. The file at hand lies beside GOOD.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from kipoi_seq2exp.config import TrackKind, TrackSpec
from kipoi_seq2exp.errors import Seq2ExpError

SEVERAL = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6)
EDIT = st.sampled_from(["replace", "insert", "cut", "repeat"])


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

    spec = TrackSpec("hic", kind=TrackKind.CONTACT)
    with open_contacts(path, spec) as source:
        source.profile(ContactQuery("G", "chr1", 20_000), 10_000, 30_000)


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
    from kipoi_seq2exp.settings import read_yaml

    read_yaml(path)


def variants(path: Path) -> None:
    from kipoi_seq2exp.data.variants import vcf_alleles

    list(vcf_alleles(path))


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
}


def fuzz(reader: Callable[[Path], None], good: Path, examples: int, start: int) -> dict[str, Any]:
    """Read spoiled files; return the counts and the faults."""
    content, path = good.read_bytes(), good.with_name(f"fuzzed.{good.name}")
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
    @given(EDIT, SEVERAL, st.floats(0, 1))
    def read(kind: str, edits: list[tuple[float, bytes]], share: float) -> None:
        path.write_bytes(spoiled(content, kind, edits, share))
        try:
            reader(path)
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
