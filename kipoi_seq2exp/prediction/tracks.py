"""The tracks behind a result, read again in their own units: for pictures, pages, and rankings by raw signal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kipoi_seq2exp.config import InputSpec, TrackKind, TrackSpec
from kipoi_seq2exp.data.cells import read_cells
from kipoi_seq2exp.data.tracks.contact_sources import open_contacts
from kipoi_seq2exp.data.tracks.contacts import ContactQuery
from kipoi_seq2exp.data.tracks.signals import open_signal
from kipoi_seq2exp.data.windows import Locus
from kipoi_seq2exp.errors import InputError
from kipoi_seq2exp.settings import from_mapping, suggest

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TrackLine:
    """One track of a picture: a value per base, in the file's own unit."""

    spec: TrackSpec
    values: Floats


def read_tracks(provenance: Mapping[str, Any], sources: Mapping[str, str], locus: Locus) -> tuple[TrackLine, ...]:
    """Read the tracks of a window, in the model's order, from `sources` or else from where the predictions had them."""
    given = dict(sources) or dict(provenance.get("sources", {}))
    specs = track_specs(provenance)
    for name in given:
        if name not in specs:
            raise InputError(f"unknown track '{name}'{suggest(name, specs)}.")
    return tuple(TrackLine(spec, _values(spec, given[name], locus)) for name, spec in specs.items() if name in given)


def track_specs(provenance: Mapping[str, Any]) -> dict[str, TrackSpec]:
    """Return the tracks of the model that made a result, or of every known cell type if the result names none."""
    if "inputs" in provenance:
        inputs = from_mapping(InputSpec, provenance["inputs"], "the result's record of its inputs")
        return {track.name: track for track in inputs.tracks}
    return {track.name: track for inputs in read_cells().values() for track in inputs.tracks}


def _values(spec: TrackSpec, source: str, locus: Locus) -> Floats:
    if spec.kind is TrackKind.CONTACT:
        query = ContactQuery(locus.gene_id, locus.chrom, locus.tss)
        with closing(open_contacts(source, spec)) as contacts:
            return contacts.profile(query, locus.start, locus.end)
    with closing(open_signal(source, spec)) as signal:
        return signal.values(locus.chrom, locus.start, locus.end)
