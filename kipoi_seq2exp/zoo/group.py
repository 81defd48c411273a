"""The files of a Kipoi group that follow from its weights: `dataloader.yaml`, `dataloader.py`, `model-template.yaml`.

Contract: the weights of the members say what is read and how (tracks, features, window, units); `group.yaml` adds what
they cannot: the group's name, its authors, the licence, and the files of its example. All members of a group read the
same tracks and features, because Kipoi gives a group one data loader.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from kipoi_seq2exp.config import FeatureSpec, InputSpec, TrackKind, TrackSpec
from kipoi_seq2exp.errors import ConfigError, WeightsError
from kipoi_seq2exp.files import verify_sha256, write_text
from kipoi_seq2exp.settings import from_mapping, read_yaml
from kipoi_seq2exp.zoo.registry import GROUP, GROUP_ABOUT, ServedModel, read_served, served_model

MADE = ("dataloader.yaml", "dataloader.py", "model-template.yaml")
"""Files of a group that `write_group_files` makes."""


@dataclass(frozen=True)
class Author:
    """An author or contributor that Kipoi names."""

    name: str
    github: str | None = None


@dataclass(frozen=True)
class GroupAbout:
    """What Kipoi shows of a group besides the facts in its weights: `group.yaml`.

    Attributes
    ----------
    name : str
        The group's name for Kipoi, which is the name of its folder there.
    default : str
        The member that the group's bare name stands for.
    authors, contributors : tuple of Author
    licence : str
        Of the weights.
    cite_as : str or None
        A link to the work to cite.
    example : dict
        File of the example for each argument of the data loader, relative to the group's folder.
    """

    name: str
    default: str
    authors: tuple[Author, ...]
    licence: str
    contributors: tuple[Author, ...] = ()
    cite_as: str | None = None
    example: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.replace("-", "_").isidentifier():
            raise ConfigError(f"the group's name '{self.name}' must be letters, digits, '_' and '-', no digit first.")
        if not self.authors or not all(author.name.strip() for author in self.authors):
            raise ConfigError("the authors are missing: say who made the weights.")
        if not self.licence.strip():
            raise ConfigError("the licence is missing: say under which the weights may be used, e.g. MIT or CC-BY-4.0.")


def read_about(group: Path) -> GroupAbout:
    """Read `group.yaml` of a group's folder."""
    path = group / GROUP_ABOUT
    return from_mapping(GroupAbout, read_yaml(path), str(path))


def class_name(name: str) -> str:
    """Return the name of a group's data loader class: its own for each group, since Kipoi finds classes by name."""
    return f"{GROUP}Dataset" if name == GROUP else f"{GROUP}{name.replace('-', '_')}Dataset"


def member_inputs(group: Path, model: str) -> InputSpec:
    """Return what a member reads, as its weights state, after checking that they are the published ones.

    Raises
    ------
    WeightsError
        If there is no such member, or its weights do not name their inputs.
    """
    row = served_model(model, group)
    return _inputs_of(group, row)


def _inputs_of(group: Path, row: ServedModel) -> InputSpec:
    from kipoi_seq2exp.nn.checkpoint import read_inputs

    verify_sha256(group / row.weights, row.weights_sha256)
    inputs = read_inputs(group / row.weights)
    if inputs is None:
        raise WeightsError(f"{group / row.weights}: does not name its inputs: publish weights of this version.")
    return inputs


def group_inputs(group: Path) -> InputSpec:
    """Return what the default member of a group reads, after checking that all members agree.

    Raises
    ------
    ConfigError
        If two members read other tracks or features, or windows of other length.
    """
    about, rows = read_about(group), read_served(group)
    if about.default not in rows:
        raise ConfigError(f"{group / GROUP_ABOUT}: default: no member '{about.default}' in models.tsv.")
    chosen = _inputs_of(group, rows[about.default])
    for weights in sorted({row.weights for row in rows.values()}):
        row = next(row for row in rows.values() if row.weights == weights)
        check_agreement(chosen, about.default, _inputs_of(group, row), row.model)
    check_track_names(chosen.tracks)
    return chosen


def check_agreement(first: InputSpec, first_name: str, second: InputSpec, second_name: str) -> None:
    """Refuse two members of one group whose arrays differ in shape or meaning."""
    for what, a, b in (
        ("tracks", first.track_names, second.track_names),
        ("features", first.feature_names, second.feature_names),
        ("window_bp", first.window_bp, second.window_bp),
        ("promoter_bp", first.promoter_bp, second.promoter_bp),
    ):
        if a != b:
            raise ConfigError(
                f"the members of a group must read the same {what}, but '{first_name}' has {_shown(a)} and "
                f"'{second_name}' has {_shown(b)}: publish one of them to a folder of its own (--to FOLDER), or take "
                "the others out of the group (--drop-others)."
            )


def _shown(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else f"{value:,}"


def check_track_names(tracks: Sequence[TrackSpec]) -> None:
    """Refuse names of tracks that cannot be part of an argument's name."""
    for track in tracks:
        if not track.name.isidentifier():
            raise ConfigError(
                f"the track '{track.name}' cannot name an argument for Kipoi: letters, digits and '_' can, no digit "
                "first."
            )


def write_group_files(group: Path) -> tuple[Path, ...]:
    """Write the files that follow from the weights of a group; return them.

    Raises
    ------
    ConfigError
        If the members do not agree.
    """
    texts = render_group(read_about(group), group_inputs(group))
    for name, text in texts.items():
        write_text(group / name, text)
    return tuple(group / name for name in texts)


def render_group(about: GroupAbout, inputs: InputSpec) -> dict[str, str]:
    """Return the texts of the files `MADE` by name."""
    import jinja2

    environment = jinja2.Environment(
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    people = {name: [_person(author) for author in getattr(about, name)] for name in ("authors", "contributors")}
    values = {
        "about": {
            **people,
            "contributors_or_authors": people["contributors"] or people["authors"],
            **{name: getattr(about, name) for name in ("name", "default", "licence", "cite_as")},
        },
        "example": {"blacklist_file": None, **about.example},
        "class_name": class_name(about.name),
        "inputs": inputs,
        "tracks": inputs.tracks,
        "track_doc": track_doc,
        "counted": counted,
        "genes_doc": genes_doc(inputs),
        "features_doc": features_doc(inputs.features),
        "signals_doc": f"{', '.join(inputs.track_names)} per base, transformed as the model reads them; no data is 0",
    }
    folder = resources.files(__package__).joinpath("templates")
    texts = {name: folder.joinpath(f"{name}.jinja").read_text("utf-8") for name in MADE}
    return {name: environment.from_string(text).render(values) for name, text in texts.items()}


def _person(author: Author) -> dict[str, str]:
    return {"name": author.name, **({"github": author.github} if author.github else {})}


def counted(things: Sized, what: str) -> str:
    """Return "no tracks", "1 track", "3 tracks"."""
    return f"{len(things) or 'no'} {what}{'' if len(things) == 1 else 's'}"


def track_doc(track: TrackSpec) -> str:
    """Describe the argument of a track."""
    if track.kind is TrackKind.CONTACT:
        return (
            f"{track.name}: contacts with the TSS. Hi-C as .cool, .mcool or .hic (5-kb bins), a profile per gene as "
            "TSV or bigWig, or the word powerlaw, to use the ABC model's decay with distance where there is no Hi-C"
        )
    stand_in = f"; where it is left out, {track.stand_in} is read in its place" if track.stand_in else ""
    return (
        f"{track.name}: signal, bigWig, bedGraph or peaks (.narrowPeak, .broadPeak, .bed; their signalValue, or "
        "FILE::COLUMN, or FILE::presence), non-negative, same build and chromosome names as the FASTA; signal type and "
        f"unit as the model's description says{stand_in}"
    )


def genes_doc(inputs: InputSpec) -> str:
    """Describe the argument of the genes."""
    given = [feature for feature in inputs.features if not feature.from_strand]
    named = [(feature.columns or (feature.name,))[0] for feature in given if not feature.from_tracks]
    computed = [feature.name for feature in given if feature.from_tracks]
    text = "Genes to predict, one window each. A TSV with the columns gene_id, chrom, tss (0-based), strand"
    text += f" and the features by name ({', '.join(named)})" if named else ""
    text += f" (computed from the tracks when absent: {', '.join(computed)})" if computed else ""
    return f"{text}, or a BED6 or GTF (then see missing_features)"


def features_doc(features: Sequence[FeatureSpec]) -> str:
    """Describe the features of a gene."""
    texts = [f"{feature.name} ({', '.join(filter(None, (feature.description, feature.unit)))})" for feature in features]
    return f"features of the gene - {'; '.join(texts)}" if texts else "no features"
