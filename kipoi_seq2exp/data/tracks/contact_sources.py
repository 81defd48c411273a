"""What kind of source of contacts a name stands for, and the reader for it."""

from __future__ import annotations

from pathlib import Path

from kipoi_seq2exp.config import TrackSpec
from kipoi_seq2exp.data.tracks.contact_files import GeneFileContacts, GeneTableContacts, HicContacts, PublishedContacts
from kipoi_seq2exp.data.tracks.contacts import POWERLAW, ContactSource, PowerLawContacts
from kipoi_seq2exp.errors import InputError


def is_contacts(source: str | Path) -> bool:
    """Return whether a source holds contacts rather than values per base, by its name (see `open_contacts`)."""
    text = str(source)
    name = text.split("::")[0].lower()
    listed = name.endswith((".hic", ".cool", ".mcool")) or name.removesuffix(".gz").endswith((".tsv", ".txt"))
    return text == POWERLAW or "{gene_id}" in text or listed


def open_contacts(source: str | Path, spec: TrackSpec) -> ContactSource:
    """Return the reader of a source of contacts.

    Parameters
    ----------
    source : str or Path
        One of

        - "powerlaw": no file, the contact that distance predicts;
        - "FILE[::RESOLUTION[::NORMALISATION]]": Hi-C as .hic, .mcool or .cool. The resolution (in bp; by default 5000)
          may be left out of a .cool, and be written as /resolutions/5000; the normalisation is one that the file
          stores, or NONE (by default the first of VC, KR, SCALE, ICE, weight; raw counts if it stores none);
        - a path with {gene_id} in it: a bigWig or bedGraph per gene;
        - a .tsv (also .gz) with the columns gene_id, start, end, contact;
        - a folder of hic_feat_chrN.h5, as the authors publish them.

        Profiles per gene are read as they are: contact in ABC units, before the track's transform.
    spec : TrackSpec
        The track it is read for; its name is in every message.

    Raises
    ------
    InputError
        If the file is missing or none of these.
    """
    text = str(source)
    name = text.split("::")[0].lower()
    if text == POWERLAW:
        return PowerLawContacts()
    if "{gene_id}" in text:
        return GeneFileContacts(text, spec)
    if name.endswith((".hic", ".cool", ".mcool")):
        return HicContacts(text, spec)
    if name.removesuffix(".gz").endswith((".tsv", ".txt")):
        return GeneTableContacts(text, spec)
    if text and Path(text).is_dir():
        return PublishedContacts(text, spec)
    raise InputError(
        f"track '{spec.name}': {text} is not a source of contacts: give a .hic, .mcool or .cool file, a .tsv with the "
        f"columns gene_id, start, end, contact, a path with {{gene_id}} to a bigWig per gene, or '{POWERLAW}'."
    )
